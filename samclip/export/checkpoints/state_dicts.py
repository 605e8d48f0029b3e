"""The state_dict of a model found inside what a checkpoint file holds, under the model's own keys.

Training scripts nest the weights under another key (`state_dict`, `model`, `ema`), and
wrappers put prefixes before their names (`module.`, `_orig_mod.`, `model.`). Neither is known by a
list: all tensors get dotted names, and the part before the names that our families know, which
nearly all of a model's tensors share, is taken off.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from samclip.errors import CheckpointError

Value = TypeVar("Value")

MAX_TENSORS = 100_000
MAX_ENTRIES = 1_000_000
MAX_DEPTH = 8
MAX_KEY = 500  # characters
# Parts of names that torch's wrappers of modules add, at any place.
WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# The beginnings of the names that the families have: SAM and merged models, Hugging Face's SAM,
# CLIP as open_clip and Hugging Face name it, SigLIP, BERT, EfficientNet-Lite, Open-Vocabulary SAM.
FAMILIES = re.compile(
    r"(?:^|(?<=\.))(?:"
    r"(?:image_encoder|prompt_encoder|mask_decoder|clip_head|vision_encoder|visual|text_model"
    r"|vision_model|neck_student|fpn_neck|roi_classifier|clip_roi)\."
    r"|(?:text\.)?(?:transformer\.resblocks|token_embedding)\."
    r"|embeddings\.(?:word_embeddings|token_embedding)\.|encoder\.layer\.\d"
    r"|_conv_stem\.|_blocks\.\d|_conv_head\."
    r")"
)
SENTENCE_ENCODER = re.compile(r"embeddings\.word_embeddings\.|encoder\.layer\.\d")
# Keys under which training keeps numbers that are named like weights, and are none.
TRAINING = re.compile(
    r"(?:^|\.)(?:optim\w*|lr_scheduler\w*|scheduler\w*|exp_avg\w*|momentum\w*|grads?|scaler)\."
)


def flatten(content: object, kind: type[Value]) -> dict[str, Value]:
    """Return every value of a kind inside nested dictionaries and lists, by its dotted name.

    Raises CheckpointError for what no checkpoint has: a hundred thousand tensors, or dictionaries
    within dictionaries without end.
    """
    found: dict[str, Value] = {}
    pending: list[tuple[str, object, int]] = [("", content, 0)]
    entries = 0
    while pending:
        name, value, depth = pending.pop()
        if isinstance(value, kind):
            found[name] = value
        elif isinstance(value, dict | list | tuple) and depth < MAX_DEPTH:
            items = value.items() if isinstance(value, dict) else enumerate(value)
            entries += len(value)
            if entries > MAX_ENTRIES or len(found) > MAX_TENSORS:
                raise CheckpointError(
                    f"it holds more than {MAX_TENSORS:,} tensors; save the model's state_dict() "
                    "alone"
                )
            pending += [
                (f"{name}.{key}" if name else str(key), each, depth + 1)
                for key, each in reversed(list(items))
                if isinstance(key, str | int) and len(str(key)) < MAX_KEY
            ]
    return found


def find_state(
    tensors: Mapping[str, Value], same: Callable[[Value, Value], bool]
) -> dict[str, Value]:
    """Return the tensors of the one model among `tensors`, under its own names.

    Where no family's names are found, those below the keys that all tensors share. `same` compares
    two tensors. Raises CheckpointError where there are several models that differ.
    """
    plain = _unwrapped(tensors)
    votes: dict[str, int] = {}
    for key in plain:
        if (match := FAMILIES.search(key)) is not None:
            votes[key[: match.start()]] = votes.get(key[: match.start()], 0) + 1
    if not votes:
        return _below_shared_keys(plain)
    candidates = [
        prefix for prefix in votes if not TRAINING.search(prefix) and not _inside(prefix, votes)
    ] or list(votes)
    best = max(candidates, key=votes.__getitem__)
    state = part_of(plain, best)
    if _is_part_of_a_larger_text_model(plain, best, state):
        return plain
    for other in candidates:
        if votes[other] * 2 >= votes[best] and other != best:
            rival = part_of(plain, other)
            if rival.keys() != state.keys() or not all(
                same(rival[key], state[key]) for key in state
            ):
                raise _several(sorted((best, other)))
    return state


def _is_part_of_a_larger_text_model(
    tensors: Mapping[str, Value], prefix: str, state: Mapping[str, Value]
) -> bool:
    """Whether a BERT below `prefix` has other layers around it, such as a CLIP's projection.

    Alone it would embed texts, into another space than that model's.
    """
    rest = [key for key in tensors if not key.startswith(prefix) and not TRAINING.search(key)]
    return bool(rest) and any(SENTENCE_ENCODER.match(key) for key in state)


def _inside(prefix: str, votes: Mapping[str, int]) -> bool:
    """Whether names below `prefix` are parts of another model with at least as many."""
    return any(
        prefix != other and prefix.startswith(other) and votes[other] >= votes[prefix]
        for other in votes
    )


def part_of(tensors: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    """Take the tensors whose keys start with `prefix`, without it."""
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def _unwrapped(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """Take the names of wrappers out of all names, unless two names would become one."""
    plain = {WRAPPERS.sub("", key): value for key, value in tensors.items()}
    return plain if len(plain) == len(tensors) else dict(tensors)


def _below_shared_keys(tensors: dict[str, Value]) -> dict[str, Value]:
    """Take off the known keys of training scripts that all tensors are below."""
    kept = {key: value for key, value in tensors.items() if not TRAINING.search(key)} or tensors
    for wrapper in ("state_dict", "model_state_dict", "model", "net", "ema", "params"):
        if kept and all(key.startswith(f"{wrapper}.") for key in kept):
            return part_of(kept, f"{wrapper}.")
    return kept


def _several(prefixes: Iterable[str]) -> CheckpointError:
    names = " and ".join(repr(prefix.rstrip(".") or "the whole file") for prefix in prefixes)
    return CheckpointError(
        f"it holds several models that differ, under {names}. Save the one to use alone, as in "
        "torch.save(torch.load(file)['ema'], 'weights.pth')."
    )
