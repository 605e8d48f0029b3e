"""Devices as callers name them: the CPU, or a GPU by its number, as torch and ultralytics do."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass

from samclip.engines.base import Backend
from samclip.errors import InputError

CPU, CUDA = "cpu", "cuda"
NAMES = re.compile(r"cpu|cuda(:[0-9]{1,4})?|[0-9]{1,4}")
MAX_INDEX = 9999


@dataclass(frozen=True)
class DeviceWish:
    """The device that a caller asked for; `on_host`: the CPU, a GPU, or None for either.

    `index` is the number of the GPU, 0 for the CPU.
    """

    index: int = 0
    on_host: bool | None = None

    def allows(self, backend: Backend) -> bool:
        """Whether the backend runs on such a device."""
        return self.on_host is None or backend.traits.on_host == self.on_host

    def __str__(self) -> str:
        return "the CPU" if self.on_host else f"GPU {self.index}"


ANY_DEVICE = DeviceWish()


def parse_device(device: object) -> DeviceWish:
    """Read a device: None for any, "cpu", "cuda", "cuda:1", the number of a GPU, a `torch.device`.

    A number may be text, as on a command line; 0 is the first GPU, as in torch. Raises InputError.
    """
    if device is None:
        return ANY_DEVICE
    named = str(device) if _is_torch_device(device) else device
    if isinstance(named, str) and NAMES.fullmatch(named):
        number = named.removeprefix(CUDA).removeprefix(":")
        on_host = named == CPU
        return DeviceWish(0 if on_host else int(number or 0), on_host)
    try:
        index = -1 if isinstance(named, bool) else operator.index(named)  # type: ignore[arg-type]
    except TypeError:
        index = -1
    if not 0 <= index <= MAX_INDEX:
        raise InputError(
            f"there is no device {device!r:.100}. Give 'cpu', 'cuda', 'cuda:1', or the index of a "
            "GPU, counted from 0; or leave it out, for the fastest that works here."
        )
    return DeviceWish(index, on_host=False)


def _is_torch_device(device: object) -> bool:
    """Whether this is a `torch.device`; torch is not imported for that."""
    kind = type(device)
    return kind.__module__ == "torch" and kind.__name__ == "device"


def check_device(backend: Backend, device: DeviceWish) -> None:
    """Check that a backend, chosen by name, runs on `device`; raises InputError."""
    if not device.allows(backend):
        where = "the CPU" if backend.traits.on_host else "a GPU"
        raise InputError(
            f"backend {backend.name!r} runs on {where}, asked for {device}. Leave device out, or "
            "choose a backend for it."
        )
