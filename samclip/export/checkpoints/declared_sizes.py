"""Models of sizes that a file's metadata declares: counted before memory is asked for.

Metadata is text that anybody can write. A model is first built without memory (device meta), and
built in earnest only if the file holds about as many numbers as it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from samclip.errors import CheckpointError, SamclipError
from samclip.library_errors import is_library_error

Model = TypeVar("Model", bound=nn.Module)

SPARE_NUMBERS = 2**27  # of parts that a file may lack, such as an untrained head: 0.5 GB
MIN_SIZE, MAX_SIZE = 64, 4096  # pixels along a side that a manifest allows
LARGEST_SCALE = 1000.0  # of cosines; CLIP's training ends at 100


def build_declared(
    build: Callable[[], Model], state: Mapping[str, Tensor], layers: Iterable[int], what: str
) -> Model:
    """Build a model if the tensors `state` hold about as many numbers as it has.

    `layers`: how many layers its parts are declared to have. `what` names the file. Raises
    CheckpointError when it is larger, or its sizes make no model.
    """
    declared = [*layers]
    if any(not 0 <= count <= len(state) for count in declared):
        raise CheckpointError(
            f"the metadata of {what} declares {max(declared, key=abs):,} layers, and the file has "
            f"{len(state):,} tensors; it is damaged or was made to harm"
        )
    try:
        with torch.device("meta"):
            planned = build()
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, SamclipError) or not is_library_error(error, "torch"):
            raise
        raise CheckpointError(
            f"the metadata of {what} declares sizes that make no model ({error}); save it again"
        ) from error
    numbers = sum(math.prod(tensor.shape) for tensor in planned.state_dict().values())
    held = sum(tensor.numel() for tensor in state.values())
    if numbers > 2 * held + SPARE_NUMBERS:
        raise CheckpointError(
            f"the metadata of {what} declares a model of {numbers:,} numbers, and the file has "
            f"{held:,}; it is damaged or was made to harm"
        )
    return build()


def check_numbers(
    what: str, mean: tuple[float, ...], std: tuple[float, ...], logit_scale: float | None
) -> None:
    """Check statistics of pixels in [0, 255] and the factor on cosines that metadata declares.

    Raises CheckpointError for what no model has.
    """
    if not all(0 <= value <= 255 for value in mean) or not all(0.01 <= v <= 1000 for v in std):
        raise CheckpointError(
            f"the metadata of {what} has the pixel statistics mean {mean} and std {std}; expected "
            "numbers of RGB in [0, 255]. Save it again."
        )
    if logit_scale is not None and not 0 < logit_scale <= LARGEST_SCALE:
        raise CheckpointError(
            f"the metadata of {what} has the logit scale {logit_scale}; expected above 0, and at "
            f"most {LARGEST_SCALE:g}. Save it again."
        )
