"""What is said, wherever an export reports, of a model that was never taught to name."""

from __future__ import annotations

from samclip.runtime.bundles.manifest import ClipHead, RegionHead

UNTRAINED_HEAD = (
    "The CLIP head was never trained: masks are real, names (classify, semantic, names=) are noise."
)
UNTRAINED_REGIONS = (
    "The classifier of regions was never trained: masks are real, their names (names=) are noise."
)


def head_name(head: ClipHead | RegionHead) -> str:
    """Call what names in a few words."""
    return "CLIP head" if isinstance(head, ClipHead) else "classifier of regions"


def untrained_note(head: ClipHead | RegionHead | None) -> str | None:
    """Say what an untrained head means; None for a trained one, or where there is none."""
    if head is None or head.trained:
        return None
    return UNTRAINED_HEAD if isinstance(head, ClipHead) else UNTRAINED_REGIONS
