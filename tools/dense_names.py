"""The cost of names of pixels on a C-RADIO: one pass with both results, against separate passes.

`scripts/count-dense-names` counts multiply-accumulates (MACs) of the trunk, without weights and
without computing anything, by torch's counter, whose rules are those of `samclip-bench roofline`.
Heads are left out: their depth is read from the user's file, and they run once in either case.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from samclip.cli.tables import make_table
from samclip.cli.terminal import out
from samclip.export.models.radio.sizes import PATCH, RADIO_SIZES, TrunkConfig
from samclip.export.models.radio.trunk import RadioTrunk
from samclip.export.models.self_correlation import TokenAggregation

PREFIX = 8  # tokens of version 3
SAM_SIDE = 1024  # pixels: the size of RADSeg's second pass, for SAM's decoder
CROP = 336  # pixels: the side of RADSeg's crops, whose results are averaged
STRIDE = 224
SIDES = (512, 768, 1024)
RADSEG_SIDES = (336, 576, 672)  # of its published settings


@dataclass(frozen=True)
class Costs:
    """MACs at one size: the `trunk`, and what each step adds to it."""

    trunk: int
    recursion: int
    aggregation: int

    @property
    def one_pass(self) -> int:
        """MACs of a pass with both results."""
        return self.trunk + self.recursion + self.aggregation


def count_costs(name: str, side: int) -> Costs:
    """Count a C-RADIO of a published size on a square photo of `side` pixels."""
    size = RADIO_SIZES[name]
    hidden = size.hidden or 4 * size.width
    config = TrunkConfig(
        size.width, size.depth, size.num_heads, hidden, PREFIX, (side, side), bool(size.layer_scale)
    )
    image = torch.empty(1, 3, side, side, device="meta")
    with torch.device("meta"):
        trunk = RadioTrunk(config).eval()
        tokens = torch.empty(1, size.width, *config.grid)
        mask = torch.empty(1, *config.grid)
    plain = _macs(lambda: trunk(image))
    aggregation = _macs(lambda: TokenAggregation(0)(tokens, mask))
    trunk.add_recursion()
    return Costs(plain, _macs(lambda: trunk.both(image)) - plain, aggregation)


def count_crops(side: int) -> int:
    """Count RADSeg's crops on a square photo of `side` pixels: 336 px, every 224 px."""
    along = 1 + -(-max(0, side - CROP) // STRIDE)
    return along**2


def _macs(run: Callable[[], tuple[Tensor, ...] | Tensor]) -> int:
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops()) // 2


def one_pass_table(name: str, sides: Sequence[int]) -> Table:
    """Return GMACs of a pass with both results, a row for each side in pixels."""
    table = make_table("px", "trunk", "recursion", "aggregation", "one pass", left=())
    for side in sides:
        costs = count_costs(name, side)
        numbers = (costs.trunk, costs.recursion, costs.aggregation, costs.one_pass)
        table.add_row(str(side), *(f"{each / 1e9:,.1f}" for each in numbers))
    return table


def two_passes_table(name: str, sides: Sequence[int]) -> Table:
    """Return GMACs of RADSeg with SAM: crops at a side for names, and a pass at 1024 px for SAM."""
    table = make_table("px", "crops", "for names", "for SAM", "both", left=())
    crop, sam = count_costs(name, CROP), count_costs(name, SAM_SIDE)
    for side in sides:
        crops = count_crops(side)
        first = crops * (crop.trunk + crop.recursion) + count_costs(name, side).aggregation
        second = sam.trunk + sam.recursion  # its block is changed for good
        numbers = (first, second, first + second)
        table.add_row(str(side), str(crops), *(f"{each / 1e9:,.1f}" for each in numbers))
    return table


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-type", default="radio-v3-b", choices=RADIO_SIZES)
    parser.add_argument("--imgsz", type=int, nargs="+", default=SIDES, metavar="PX")
    given = parser.parse_args()
    if any(side < PATCH or side % PATCH for side in given.imgsz):
        parser.error(f"--imgsz {given.imgsz}: sizes are multiples of {PATCH}")
    out.print(one_pass_table(given.model_type, given.imgsz))
    out.print("RADSeg on a square photo:")
    out.print(two_passes_table(given.model_type, RADSEG_SIDES))


if __name__ == "__main__":
    main()
