"""The state of a run on disk: one file, replaced whole, from which the run goes on bit for bit.

No random state is stored: draws of photos, views and prompts are functions of seed, stage and step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from safetensors import SafetensorError, safe_open
from torch import Tensor

from samclip.errors import TrainingError
from samclip.export.checkpoints.checkpoint import write_tensors

STATE_KEY = "samclip.state"
FILE = "state.safetensors"
GROUPS = ("model", "optimiser", "average")  # of tensors in the file, the fields of `State`


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The next step to run: `step` of stage `stage`, both from 0; `digest` identifies the run."""

    digest: str
    stage: int = 0
    step: int = 0


@dataclass(frozen=True)
class State:
    """A place in a run, and the tensors there.

    `model`: the weights that the run changes, by name; `optimiser`: its moments; `average`: the
    running average of weights, where the stage keeps one.
    """

    place: Place
    model: Mapping[str, Tensor] = field(default_factory=dict)
    optimiser: Mapping[str, Tensor] = field(default_factory=dict)
    average: Mapping[str, Tensor] = field(default_factory=dict)


class StateFolder:
    """The folder that holds a run's state."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE

    def write(self, state: State) -> None:
        """Write a state; after any failure the file still holds the state before.

        Raises WriteError when the file cannot be written.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"{group}/{name}": tensor.detach().cpu().contiguous()
            for group in GROUPS
            for name, tensor in getattr(state, group).items()
        }
        header = {STATE_KEY: msgspec.json.encode(state.place).decode()}
        write_tensors(self.file, tensors, header)

    def read(self, digest: str | None) -> State | None:
        """Read the state of the run with this `digest`, or of any run; None when there is no state.

        Raises TrainingError for a damaged file, and for the state of another run.
        """
        if not self.file.exists():
            return None
        try:
            with safe_open(self.file, framework="pt") as file:
                place = msgspec.json.decode((file.metadata() or {})[STATE_KEY], type=Place)
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, msgspec.MsgspecError) as error:
            raise TrainingError(
                f"{self.file} is damaged ({error}); start again with --restart"
            ) from error
        if digest is not None and place.digest != digest:
            raise TrainingError(
                f"{self.file.parent.parent} holds a run of another configuration; continue it with "
                "this configuration by --resume, start again there by --restart, or give another "
                "--output"
            )
        groups = {
            group: {
                key.removeprefix(f"{group}/"): tensor
                for key, tensor in tensors.items()
                if key.startswith(f"{group}/")
            }
            for group in GROUPS
        }
        return State(place, **groups)

    def remove(self) -> None:
        """Delete the state."""
        self.file.unlink(missing_ok=True)
