"""The aspect ratios that a caller of a bundle with several shapes of input keeps to.

A camera whose pictures all have one shape needs the encoder, the heads and the plans of that shape
alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from samclip.errors import InputError, brief
from samclip.runtime.bundles.manifest import SHAPED_GRAPHS, Manifest, base_name

NEAR = 0.1  # by which a canvas's ratio may differ from the one named: its sides are whole tokens


def find_canvases(
    manifest: Manifest, aspects: str | Sequence[str] | None
) -> tuple[tuple[int, int], ...]:
    """Return the canvases (h, w) of a bundle that `aspects` name, in that order; None for all.

    An aspect is "width:height", as "16:9", or "9:16" for upright pictures. Raises InputError for
    one of another form, and for one that the bundle has no canvas for.
    """
    if aspects is None:
        return manifest.canvases
    named = aspects if isinstance(aspects, list | tuple) else [aspects]
    if not named:
        raise InputError("aspects is empty; name one at least, such as '16:9', or give None.")
    return tuple(dict.fromkeys(_nearest(manifest, aspect) for aspect in named))


def _nearest(manifest: Manifest, aspect: object) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,4}):([0-9]{1,4})", aspect) if isinstance(aspect, str) else None
    if match is None or "0" in {match[1].lstrip("0") or "0", match[2].lstrip("0") or "0"}:
        raise InputError(f"an aspect is width:height, such as '16:9'; got {brief(aspect)}.")
    ratio = math.log(int(match[1]) / int(match[2]))

    def misfit(canvas: tuple[int, int]) -> float:
        return abs(math.log(canvas[1] / canvas[0]) - ratio)

    best = min(manifest.canvases, key=misfit)
    if misfit(best) > NEAR:
        have = ", ".join(f"{width} x {height}" for height, width in manifest.canvases)
        raise InputError(
            f"the bundle {manifest.name!r} has no encoder for {aspect}, only for {have} pixels "
            "(width x height). Choose among those, or export the bundle for that one."
        )
    return best


def graphs_for(manifest: Manifest, canvases: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    """Return the names of the graphs that images on these canvases need."""
    return tuple(
        name
        for name in manifest.all_graphs
        if base_name(name) not in SHAPED_GRAPHS or manifest.canvas_of(name) in canvases
    )
