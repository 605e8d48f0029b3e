"""Checkpoints: read, fitted to a module with errors that people can act on, and written.

Only tensors are ever read, from safetensors or from files of torch.save. Files are written as
safetensors, and appear whole or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from samclip.disk.partial_files import result_path
from samclip.errors import CheckpointError, error_context
from samclip.export.checkpoints.state_dicts import find_state, part_of
from samclip.export.checkpoints.weights_files import open_weights
from samclip.export.checkpoints.weights_paths import FOLDER_FILES, find_weights

StateDict = dict[str, torch.Tensor]
Rules = Sequence[tuple[str, str]]  # patterns of the beginnings of keys, and what replaces each

SHOWN_KEYS = 6
VIT_WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
OWN_METADATA = ("samclip", "samclip.ovsam")  # of files that samclip wrote, whose keys are right
# Constants that models keep among their weights, with minus infinity where nothing is attended to.
MASKS = ("attn_mask",)
LARGEST = float(torch.finfo(torch.float32).max)


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file, its SHA-256, and the metadata of its safetensors header.

    `passed_over`: the kinds of Python values next to the tensors, which are not read; `label`: how
    manifests name it, empty for the name of its file.
    """

    path: Path
    sha256: str
    state: StateDict
    metadata: Mapping[str, str] = field(default_factory=dict)
    passed_over: tuple[str, ...] = ()
    label: str = ""

    @property
    def doubt(self) -> str:
        """A question for messages about weights that do not fit: "is w.pth complete?"."""
        others = (
            f" It also holds {some_keys(self.passed_over)}, not read." if self.passed_over else ""
        )
        return f"is {self.path.name} complete?{others}"

    def has(self, prefix: str) -> bool:
        """Whether any key starts with `prefix`."""
        return any(key.startswith(prefix) for key in self.state)

    def part(self, prefix: str) -> StateDict:
        """Take the tensors whose keys start with `prefix`, without it."""
        return part_of(self.state, prefix)


def read_checkpoint(path: str | Path, parts: tuple[str, ...] = ("",)) -> Checkpoint:
    """Read a file of weights, or a model folder that holds one, whole or in shards.

    Only tensors whose names start with one of `parts` are read. The file's content decides its
    format, not its suffix. The model's own names are found below the keys and prefixes that
    training adds (`find_state`). Raises CheckpointError when there is no such file, when it is not
    a checkpoint or holds several, and when weights are not finite numbers.
    """
    file = find_weights(path)
    with open_weights(file) as weights:
        metadata = weights.metadata
        wanted = {name: name for name in weights.names}
        if not any(key in metadata for key in OWN_METADATA):
            with error_context(str(file)):
                wanted = find_state(wanted, weights.same)
        kept = {name: key for name, key in wanted.items() if name.startswith(parts)}
        state = weights.tensors(kept)
        digest = weights.sha256()
        passed_over = tuple(sorted(weights.passed_over))
    require_finite(state, file)
    return Checkpoint(file, digest, state, metadata, passed_over)


def require_finite(state: Mapping[str, Tensor], file: Path) -> None:
    """Refuse weights that are NaN or infinite, or beyond float32. Raises CheckpointError."""
    bad = [key for key, value in state.items() if not _is_finite(key, value)]
    if bad:
        raise CheckpointError(
            f"{file} has weights that are not finite numbers (NaN or infinite), in "
            f"{some_keys(bad)}; its training diverged, or the file is damaged. Give an earlier "
            "checkpoint, or download it again."
        )


def _is_finite(key: str, value: Tensor) -> bool:
    if not value.is_floating_point() or not value.numel() or key.rpartition(".")[2] in MASKS:
        return True
    low, high = (float(each) for each in torch.aminmax(value))  # NaN if there is any
    return -LARGEST <= low <= high <= LARGEST


def read_header(path: str | Path) -> Mapping[str, str]:
    """Read the metadata of a safetensors header, and no tensors; other formats have none.

    Raises CheckpointError when there is no file, or it is not valid.
    """
    with open_weights(find_weights(path)) as weights:
        return weights.metadata


def guess_model_type(state: Mapping[str, torch.Tensor]) -> str | None:
    """Guess the model type from the encoder's keys; None if they fit none that we know."""
    if any(key.startswith("image_encoder.stitch.") for key in state):
        return "lite2"
    if any(key.startswith("image_encoder.layers.") for key in state):
        return "vit_t"
    positions = state.get("image_encoder.pos_embed")
    return None if positions is None else VIT_WIDTHS.get(positions.shape[-1])


def fit_state(
    module: nn.Module, state: Mapping[str, torch.Tensor], what: str, ignored: Collection[str] = ()
) -> None:
    """Load `state` into `module`, all of it or not at all.

    `what` names the part in errors ("image encoder"); keys in `ignored` may be left over.
    Raises CheckpointError naming the missing, unexpected and misshapen keys.
    """
    own = module.state_dict()
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys() - set(ignored))
    both = sorted(own.keys() & state.keys())
    misshapen = [
        f"{key} {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in both
        if state[key].shape != own[key].shape
    ]
    mistyped = [
        f"{key} in {_kind(state[key])}, expected {_kind(own[key])}"
        for key in both
        if _kind(state[key]) != _kind(own[key])
    ]
    problems = [
        f"{label}: {some_keys(keys)}"
        for label, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("wrong shape", misshapen),
            ("wrong type", mistyped),
        )
        if keys
    ]
    if problems:
        raise CheckpointError(
            f"the weights do not fit the {what}; {'; '.join(problems)}. Give the checkpoint of a "
            "model that samclip-export knows, whole and unchanged."
        )
    module.load_state_dict({key: state[key] for key in own})


def _kind(tensor: Tensor) -> str:
    """Return the kind of a tensor's numbers; loading would turn one into the other in silence."""
    return "floating point" if tensor.is_floating_point() else "whole numbers"


def some_keys(keys: Iterable[str]) -> str:
    """List the first few of `keys` and count the rest, for an error message."""
    listed = list(keys)
    shown = ", ".join(listed[:SHOWN_KEYS])
    return shown if len(listed) <= SHOWN_KEYS else f"{shown} and {len(listed) - SHOWN_KEYS} more"


def rename_key(key: str, rules: Rules) -> str | None:
    """Return a key renamed by the first rule that fits it; None when no rule does."""
    for pattern, replacement in rules:
        if re.match(pattern, key):
            return re.sub(pattern, replacement, key, count=1)
    return None


def weights_name(path: Path) -> str:
    """Return a file's name, with its folder where every model's weights have the same name."""
    return f"{path.parent.name}/{path.name}" if path.name in FOLDER_FILES else path.name


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Write tensors on the CPU; whatever happens, `path` holds them or what it held before.

    Raises WriteError when the disk refuses.
    """
    with result_path(path) as place:
        try:
            save_file(dict(tensors), place, metadata=dict(metadata))
        except SafetensorError as error:  # what it raises for a disk that fails, too
            raise OSError(str(error)) from error
    return path
