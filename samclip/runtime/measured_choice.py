"""The measured choice: which backend and precision is fastest for a bundle on this machine's CPU.

A measurement holds for one bundle, processor, number of cores and of threads, and for one version
of each library. All of these are its key, and each key has its own file in the cache. Nothing
is measured here, and nothing while a model is loaded.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from samclip.disk.cache_folder import cache_dir, make_private_folder, read_private_file
from samclip.disk.partial_files import as_write_error, remove_abandoned, write_file
from samclip.disk.places import try_place
from samclip.engines.base import FULL, Backend, EnginePrecision
from samclip.engines.machine.device import processor_name
from samclip.engines.machine.host import usable_cores
from samclip.engines.steps import MeasureChoice
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import Precision, Record, Sha256, Short

FOLDER = "choices"
LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "openvino")
MAX_BYTES = 2**20
MODE = 0o600
_logger = logging.getLogger("samclip")

Milliseconds = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class Speed(Record, frozen=True, kw_only=True):
    """What a photo takes on a backend in a precision: the median and every sample, in ms.

    `engine_precision`: what its engines computed in where graphs are in FP32.
    """

    backend: Short
    precision: Precision
    engine_precision: EnginePrecision = FULL
    median: Milliseconds
    samples: Annotated[tuple[Milliseconds, ...], msgspec.Meta(min_length=1, max_length=10_000)]


class ChoiceKey(Record, frozen=True, kw_only=True):
    """All that a measurement depends on; `threads` is None for the backends' own share."""

    bundle: Sha256
    cpu: Short
    cores: Annotated[int, msgspec.Meta(ge=1)]
    threads: Annotated[int, msgspec.Meta(ge=1)] | None
    libraries: dict[Short, Short]

    @classmethod
    def here(cls, bundle: Bundle, threads: int | None = None) -> ChoiceKey:
        """Return the key of a bundle on this machine, with what is installed now."""
        return cls(
            bundle=hashlib.sha256(msgspec.json.encode(bundle.manifest)).hexdigest(),
            cpu=processor_name()[:256],
            cores=usable_cores(),
            threads=threads,
            libraries=_installed(),
        )

    def place(self, folder: Path) -> Path:
        """Return the file of this key."""
        text = msgspec.json.encode(self, order="deterministic")
        return folder / f"{hashlib.sha256(text).hexdigest()}.json"


class MeasuredChoice(Record, frozen=True, kw_only=True):
    """The speeds that were measured, the one to take first; `date` is ISO 8601, in UTC."""

    schema_version: Literal[1] = 1
    key: ChoiceKey
    date: Short
    speeds: Annotated[tuple[Speed, ...], msgspec.Meta(min_length=1, max_length=64)]

    def only(self, holds: Callable[[Speed], bool]) -> MeasuredChoice:
        """Return this choice with the speeds for which `holds`; there may be none."""
        return msgspec.structs.replace(self, speeds=tuple(filter(holds, self.speeds)))

    def speed_of(
        self, backend: str, precision: str | None, engine: EnginePrecision | None = None
    ) -> Speed | None:
        """Return the first speed of a backend, in these precisions where they are not None.

        Where `precision` alone is given, it is asked of the engines too, which are then in FP32.
        None if absent.
        """
        return next(
            (one for one in self.speeds if one.backend == backend and _is(one, precision, engine)),
            None,
        )

    def sort(
        self,
        backends: Sequence[Backend],
        precision: str | None,
        engine: EnginePrecision | None = None,
    ) -> tuple[Backend, ...]:
        """Return backends with those of the CPU as they were measured, then those that were not.

        Backends for GPUs keep their places.
        """
        fitting = [one.backend for one in self.speeds if _is(one, precision, engine)]
        order = {name: place for place, name in enumerate(dict.fromkeys(fitting))}
        on_host = [backend for backend in backends if backend.traits.on_host]
        ranked = iter(sorted(on_host, key=lambda one: order.get(one.name, len(order))))
        return tuple(next(ranked) if one.traits.on_host else one for one in backends)


def _is(speed: Speed, precision: str | None, engine: EnginePrecision | None) -> bool:
    """Whether a speed is of these precisions, where "int8" stands for either kind."""
    is_int8 = precision == "int8" and speed.precision == "int8_fp16"
    wanted = FULL if engine is None and precision is not None else engine
    fits = precision in {None, speed.precision} or is_int8
    return fits and wanted in {None, speed.engine_precision}


def _installed() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)[:256]
        except PackageNotFoundError:
            continue
    return found


def find_choice(bundle: Bundle, threads: int | None = None) -> MeasuredChoice | None:
    """Return what was measured for a bundle on this machine; None where nothing fits.

    A file that somebody else could have written, or that is damaged, is ignored with a warning.
    """
    try:
        folder = cache_dir() / FOLDER
        if not folder.is_dir():  # nothing was ever measured: the key costs some milliseconds
            return None
    except OSError:  # no folder of caches, which is reported where one is needed
        return None
    key = ChoiceKey.here(bundle, threads)
    place = key.place(folder)
    try:
        make_private_folder(folder)
        found = msgspec.json.decode(read_private_file(place, MAX_BYTES), type=MeasuredChoice)
        if found.key != key:
            raise msgspec.ValidationError("it is of another bundle or machine")
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        _logger.warning(
            "the measured choice of a backend is ignored, the usual one is made: %s: %s. To do: "
            "measure again.",
            place,
            reason,
            extra={"steps": (MeasureChoice(str(bundle.path)),)},
        )
        return None
    return found


def keep_choice(choice: MeasuredChoice) -> Path:
    """Write a measurement into the user's cache, for `auto`; returns its file. Raises WriteError.

    `try_choices` finds out before the measurement whether that can be done.
    """
    folder = cache_dir() / FOLDER
    place = choice.key.place(folder)
    with as_write_error(place):
        remove_abandoned(folder)
        write_file(place, msgspec.json.format(msgspec.json.encode(choice), indent=1), MODE)
    return place


def try_choices() -> None:
    """Make the folder of measured choices, and try to write there; raises OSError."""
    folder = cache_dir() / FOLDER
    make_private_folder(folder.parent)
    make_private_folder(folder)
    try_place(folder / "choice")
