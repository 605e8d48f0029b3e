"""The part of a model that names things: its name for people, and the warning if untrained."""

from __future__ import annotations

from samclip.runtime.bundles.manifest import ClipHead, RegionHead

UNTRAINED_HEAD = (
    "The CLIP head was never trained: masks are real, names (classify, semantic, names=) are noise."
)
UNTRAINED_REGIONS = (
    "The classifier of regions was never trained: masks are real, their names (names=) are noise."
)


def head_name(head: ClipHead | RegionHead) -> str:
    """Return the name for people of the part that names things."""
    return "CLIP head" if isinstance(head, ClipHead) else "classifier of regions"


def untrained_note(head: ClipHead | RegionHead) -> str | None:
    """Return what an untrained head means for users; None for a trained one."""
    if head.trained:
        return None
    return UNTRAINED_HEAD if isinstance(head, ClipHead) else UNTRAINED_REGIONS
