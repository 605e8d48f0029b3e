"""The part of a model that names things: its name for people, and the warning if untrained."""

from __future__ import annotations

from samclip.runtime.bundles.manifest import ClipHead, ClipTower, NamingHead

UNTRAINED_HEAD = (
    "The CLIP head was never trained: masks are real, names (classify, semantic, names=) are noise."
)
UNTRAINED_REGIONS = (
    "The classifier of regions was never trained: masks are real, their names (names=) are noise."
)


WAYS_OUT = (
    "Names would be noise: this SAM has no trained CLIP head, and a text tower alone names "
    "nothing. For real names today give --two-towers with --clip-checkpoint: SAM and CLIP side by "
    "side, in more passes. For one pass, train a head with samclip-merge. For masks alone, leave "
    "the text tower out with --no-text-encoder. The export goes on."
)


def head_name(head: NamingHead) -> str:
    """Return the name for people of the part that names things."""
    if isinstance(head, ClipTower):
        return "second tower"
    return "CLIP head" if isinstance(head, ClipHead) else "classifier of regions"


def untrained_note(head: NamingHead) -> str | None:
    """Return what an untrained head means for users; None for a trained one."""
    if head.trained:
        return None
    return UNTRAINED_HEAD if isinstance(head, ClipHead) else UNTRAINED_REGIONS


def is_untrained_clip(head: NamingHead) -> bool:
    """Whether a head is a CLIP head with random weights, for which two towers can stand in."""
    return isinstance(head, ClipHead) and not head.trained
