"""C-RADIO's checkpoints: files of torch.save with trunk, heads of teachers, and training `args`.

Every name in the file is used, belongs to another teacher, or is on the list of what training
leaves behind. Any other is refused by name, and so is the lack of one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from samclip.errors import CheckpointError
from samclip.export.checkpoints.checkpoint import (
    StateDict,
    require_finite,
    some_keys,
    weights_name,
)
from samclip.export.checkpoints.radio.radio_teachers import Teacher, Teachers, read_teachers
from samclip.export.checkpoints.state_dicts import WRAPPERS, part_of
from samclip.export.checkpoints.weights_files import WeightsFile, open_weights
from samclip.export.checkpoints.weights_paths import find_weights
from samclip.runtime.bundles.manifest import Source

AVERAGED, PLAIN = "state_dict_ema.", "state_dict."
SUMMARY, SPATIAL = "_heads.", "_feature_projections."
# What a training leaves in the file, and inference has no use for.
LEFTOVERS = re.compile(
    r"base_model\.reg_token$|_intermediate_feature_normalizer\.|_loss_states\.|adaloss"
    r"|lean_in_expected_losses|weight_balance_mask"
)
MARKS = ("patch_generator.", "cls_register_token")  # in names of the trunk, ours and HF's
# One of two spellings: libraries rename `gamma` when they load a file.
SPELLING = re.compile(r"(\.ls[12]\.)grandma$")
ADVICE = "Give the .pth.tar of a C-RADIO v3 or v4, whole and unchanged."


def is_radio(path: Path) -> bool:
    """Whether a file's names are those of a C-RADIO; no tensor is read."""
    with open_weights(find_weights(path)) as weights:
        return any(mark in name for name in weights.names for mark in MARKS)


@dataclass(frozen=True)
class RadioFile:
    """An open checkpoint: `names` has the file's own name of each weight, by the usual name."""

    path: Path
    weights: WeightsFile
    names: Mapping[str, str]
    teachers: Teachers
    used: set[str] = field(default_factory=set)

    def read(self, names: Iterable[str]) -> StateDict:
        """Read weights as float32 and count them as used.

        Raises CheckpointError for missing ones, and for what is not finite.
        """
        wanted = list(names)
        if missing := [name for name in wanted if name not in self.names]:
            raise self.refusal(f"missing: {some_keys(missing)}")
        self.used.update(wanted)
        found = self.weights.tensors({name: self.names[name] for name in wanted})
        require_finite(found, self.path)
        if counted := [name for name, each in found.items() if not each.is_floating_point()]:
            raise self.refusal(f"whole numbers in {some_keys(counted)}")
        return {name: tensor.float() for name, tensor in found.items()}

    def below(self, prefix: str) -> list[str]:
        """List the names that start with a prefix."""
        return [name for name in self.names if name.startswith(prefix)]

    def read_head(self, prefix: str, teacher: Teacher) -> tuple[str, StateDict]:
        """Read a head of a teacher: its full prefix, and its weights without it.

        Heads go by the teacher's name or number. Raises CheckpointError when there is none, and
        when there are two.
        """
        places = [f"{prefix}{label}." for label in (teacher.name, teacher.index)]
        found = {place: names for place in places if (names := self.below(place))}
        if not found:
            raise self.refusal(
                f"missing: {prefix}{teacher.name}.*, of the teachers {self.teachers.names}"
            )
        if len(found) > 1:
            raise self.refusal(f"it holds the head of {teacher.name} twice, as {places}")
        place, names = found.popitem()
        return place, part_of(self.read(names), place)

    def require_all_used(self) -> None:
        """Refuse a file with weights that nothing has read and no list explains."""
        others = tuple(
            f"{prefix}{label}."
            for prefix in (SUMMARY, SPATIAL)
            for teacher in self.teachers.all
            for label in (teacher.name, teacher.index)
        )
        unknown = [
            name
            for name in self.names
            if name not in self.used and not LEFTOVERS.match(name) and not name.startswith(others)
        ]
        if unknown:
            raise self.refusal(f"unexpected: {some_keys(sorted(unknown))}")

    def refusal(self, problem: str) -> CheckpointError:
        """Make the error about weights that do not fit."""
        return CheckpointError(
            f"the weights of {self.path.name} are not those of a C-RADIO; {problem}. {ADVICE}"
        )

    def source(self) -> Source:
        """Describe the file as a source of a bundle; its licence is not in it."""
        return Source(role="merged", file=weights_name(self.path), sha256=self.weights.sha256())


def open_radio(path: Path, weights: WeightsFile) -> RadioFile:
    """Find the model and its teachers in an open checkpoint; averaged weights are preferred.

    Raises CheckpointError for a backbone without heads, and for names that stand twice.
    """
    kept = next((p for p in (AVERAGED, PLAIN) if _starts(weights.names, p)), "")
    below = {name[len(kept) :]: name for name in weights.names if name.startswith(kept)}
    names: dict[str, str] = {}
    for short, full in below.items():
        usual = SPELLING.sub(r"\1gamma", WRAPPERS.sub("", short))
        if usual in names:
            raise CheckpointError(
                f"{path} holds {usual} twice, as {names[usual]} and as {full}. {ADVICE}"
            )
        names[usual] = full
    if not _starts(names, SUMMARY) and not _starts(names, SPATIAL):
        raise CheckpointError(
            f"{path} holds C-RADIO's backbone alone, as the files on the Hugging Face hub do: "
            "without the heads of its teachers it neither names nor segments. They are only in "
            "NVIDIA's .pth.tar of the same version (c-radio_v3-b_half.pth.tar and its like); give "
            "that file."
        )
    if reparametrised := [name for name in names if ".parametrizations." in name]:
        raise CheckpointError(
            f"{path} is from the middle of a training: {some_keys(reparametrised)} are not weights "
            f"yet, and there is no {AVERAGED[:-1]}. {ADVICE}"
        )
    return RadioFile(path, weights, names, read_teachers(weights.arguments, path.name))


def _starts(names: Collection[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)
