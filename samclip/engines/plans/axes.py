"""The sizes that dynamic axes may have: TensorRT builds for a range, chosen when it builds."""

from __future__ import annotations

from collections.abc import Mapping

from samclip.engines.plans.sidecar import AxisRange
from samclip.errors import InputError

# Names of dynamic axes, as the manifest has them. The runtime sends at most 16 prompts and 64
# texts at once (`batch_prompts`, `TextSpace`); a mask alone is a prompt of no points, a point or a
# box one of two. Classifiers get at most 16 regions at once, and 32,768 texts of a vocabulary
# (`region_naming`): 22,000 names are one run. A least size of 0 is allowed: TensorRT asks for
# 0 <= least <= best <= most (`IOptimizationProfile::setDimensions`), and tensors may be empty.
DEFAULT_AXES: Mapping[str, AxisRange] = {
    "prompts": AxisRange(least=1, best=16, most=16),
    "points": AxisRange(least=0, best=2, most=64),
    "texts": AxisRange(least=1, best=16, most=64),
    "regions": AxisRange(least=1, best=4, most=16),
    "vocabulary": AxisRange(least=1, best=80, most=32_768),
}


def parse_axis(text: str) -> AxisRange:
    """Read "LEAST,BEST,MOST", or one number for a fixed size; raises InputError."""
    parts = text.split(",")
    if len(parts) not in {1, 3} or not all(part.strip().isdecimal() for part in parts):
        raise InputError(
            f"{text!r} is no range of sizes. Write three whole numbers, as in 1,4,16: the least, "
            "the one to optimise for, the most; or one number for a fixed size."
        )
    numbers = [int(part) for part in parts]
    least, best, most = numbers * 3 if len(numbers) == 1 else numbers
    if not least <= best <= most or most < 1 or most > 2**31 - 1:
        raise InputError(
            f"{text!r}: sizes must rise from the least over the one to optimise for to the most, "
            "which is at least 1."
        )
    return AxisRange(least=least, best=best, most=most)
