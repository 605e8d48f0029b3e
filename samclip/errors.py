"""The exceptions of samclip.

Every failure that a caller can meet is one of these; each message says what came, what was
expected and what to do::

    SamclipError
    |-- BundleError              a bundle cannot be used
    |   |-- BundleNotFoundError  no such directory or name
    |   |-- ManifestError        manifest.json is missing, too large, malformed or of another schema
    |   |-- IntegrityError       a file's size or SHA-256 differs from the manifest
    |   |-- SignatureError       not signed, or not with the key that was asked for
    |   |-- GraphError           a graph is refused before any engine sees it
    |   `-- UnsafePathError      a path leaves the bundle, is a link, or is not a plain file
    |-- InputError (ValueError)  what the caller passed in cannot be used
    |   |-- ImageError
    |   |-- PromptError
    |   |-- VocabularyError
    |   `-- ConfigError          the file that describes a training run is wrong
    |-- EngineError              a backend failed
    |   |-- BackendUnavailableError
    |   |   `-- UnknownBackendError (InputError)  there is no backend of this name
    |   |-- EngineRunError
    |   |   |-- DeviceMemoryError (MemoryError)  the GPU or the machine has too little
    |   |   `-- EngineTimeoutError (TimeoutError)  a graph took longer than it was given
    |   |-- PlanBuildError       TensorRT could not make a plan of a graph
    |   `-- PlanError            a TensorRT plan is refused before TensorRT sees its bytes
    |       |-- PlanMissingError no plan was built for this graph
    |       |-- PlanStaleError   built from another version of the graph
    |       |-- PlanForeignError built by another TensorRT, or for another GPU or system
    |       |-- PlanGateError    it does not compute what its graph computes in FP32
    |       `-- PlanDamagedError its bytes, or those of its sidecar, are not what was written
    |-- CapabilityError          the bundle has no graph or data for this task
    |-- ClosedError              used after close()
    |-- CheckpointError          weights cannot be read or do not fit the model
    |-- CountError               a graph's work cannot be counted
    |-- ExportError              a bundle could not be made
    |   |-- ParityError          an exported graph differs from the torch model
    |   |-- CalibrationError     the photos that INT8 is to be measured on are none, or cannot be
    |   `-- GateError            reduced precision costs a task more than is allowed
    |-- DeployError              a bundle could not be deployed; what served before still does
    |   `-- DeployBusyError      another process deploys to the same folder
    |-- StreamError              a camera, a video or an address gives no more frames
    |   |-- StreamOpenError      it cannot be opened
    |   |-- StreamTimeoutError (TimeoutError)  no frame came in time
    |   |-- StreamLostError      it was cut off, and could not be opened again in time
    |   `-- StreamDamagedError   its frames cannot be decoded, or its file is cut off
    |-- WriteError (OSError)     a result cannot be written; what was there before is whole
    |-- ServerError              a server cannot start, be reached, or answer
    |   `-- ServerBusyError      it has as many requests as it takes; ask again later
    |-- BatchError               a batch job cannot begin or go on; what it wrote stays
    |-- PeerError                a peer of a benchmark cannot be installed, loaded or run
    `-- TrainingError            a training run cannot begin, go on or be resumed

Warnings are `SamclipWarning`: `InputWarning` for input that is used and is probably a mistake,
`UntrainedHeadWarning` for names that mean nothing. `did_you_mean` serves messages about unknown
names, `brief` those about values.
"""

from __future__ import annotations

import reprlib
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxtuple, _REPR.maxdict = 2, 4, 4, 2
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60
MAX_COMPARED = 64  # characters; longer strings are not typing errors, and slow to compare


class Step:
    """Base of the facts about what can be done: see `samclip.engines.steps`."""


class SamclipError(Exception):
    """Base of every error that samclip raises on purpose.

    The message says in words what to do; `steps` say it as facts, for a program to act on.
    """

    steps: tuple[Step, ...] = ()

    def __init__(self, *args: object, steps: Iterable[Step] = ()) -> None:
        super().__init__(*args)
        if found := tuple(steps):
            self.steps = found


class BundleError(SamclipError):
    """A bundle cannot be used."""


class BundleNotFoundError(BundleError):
    """No bundle has this path or name."""


class ManifestError(BundleError):
    """`manifest.json` is missing, too large, malformed, or of another schema version."""


class IntegrityError(BundleError):
    """A file's size or SHA-256 differs from what the manifest says."""


class SignatureError(BundleError):
    """A bundle is not signed with the key that was asked for."""


class GraphError(BundleError):
    """A graph is malformed, or asks for what no export does: refused before an engine sees it."""


class UnsafePathError(BundleError):
    """A path of the bundle leaves it, is a link, or is not a plain file."""


class InputError(SamclipError, ValueError):
    """What the caller passed in cannot be used."""


class ImageError(InputError):
    """An image cannot be read, or is of a kind or size that is refused."""


class PromptError(InputError):
    """Points, boxes, labels or mask prompts do not fit together or the image."""


class VocabularyError(InputError):
    """The names or templates given are empty or of the wrong kind."""


class ConfigError(InputError):
    """The file that describes a training run cannot be read, or asks for what cannot be."""


class EngineError(SamclipError):
    """A backend failed."""


class BackendUnavailableError(EngineError):
    """The backend asked for does not work on this machine."""


class UnknownBackendError(BackendUnavailableError, InputError):
    """No backend has the name asked for."""


class EngineRunError(EngineError):
    """A graph failed while it was loaded or run."""


class DeviceMemoryError(EngineRunError, MemoryError):
    """The GPU, or the machine, had too little free memory; what is loaded still works."""


class EngineTimeoutError(EngineRunError, TimeoutError):
    """A graph took longer to load or to run than `load(timeout=...)` gives it; it was ended."""


class PlanBuildError(EngineError):
    """TensorRT could not make a plan of a graph; the message has what its parser said."""


class PlanError(EngineError):
    """A TensorRT plan is refused, before TensorRT sees its bytes."""


class PlanMissingError(PlanError):
    """No plan was built for this graph."""


class PlanStaleError(PlanError):
    """A plan was built from another version of the graph."""


class PlanForeignError(PlanError):
    """A plan was built by another TensorRT, or for another GPU or system."""


class PlanGateError(PlanError):
    """A TensorRT plan does not compute what its graph computes in FP32; the message has a table."""


class PlanDamagedError(PlanError):
    """The bytes of a plan or of its sidecar are not what was written."""


class CapabilityError(SamclipError):
    """The bundle has no graph or data for the task asked of it."""


class ClosedError(SamclipError):
    """A model, scene or engine was used after `close()`."""


class CheckpointError(SamclipError):
    """Weights cannot be read, or do not fit the model."""


class CountError(SamclipError):
    """A graph's work cannot be counted: an operator, or the shape of a tensor, is not known."""


class ExportError(SamclipError):
    """A bundle could not be made."""


class ParityError(ExportError):
    """An exported graph differs from the torch model by more than its tolerance."""


class CalibrationError(ExportError):
    """Ranges for INT8 cannot be measured: no feeds, or feeds that are not photos."""


class GateError(ExportError):
    """Reduced precision differs from FP32, on a task, by more than its gate allows."""


class DeployError(SamclipError):
    """A bundle could not be deployed, or not be rolled back; `current` is what it was."""


class DeployBusyError(DeployError):
    """Another process is deploying to the same folder."""


class StreamError(SamclipError):
    """A camera, a video or an address gives no more frames, though it should."""


class StreamOpenError(StreamError):
    """A stream cannot be opened: it is not there, refuses, or is not a video."""


class StreamTimeoutError(StreamError, TimeoutError):
    """A stream is open, and no frame of it came in time."""


class StreamLostError(StreamError):
    """A stream was cut off, and could not be opened again in time."""


class StreamDamagedError(StreamError):
    """The frames of a stream cannot be decoded, or its file is cut off."""


class WriteError(SamclipError, OSError):
    """A result cannot be written; what was in its place before is whole."""


class ServerError(SamclipError):
    """A server of samclip cannot start, cannot be reached, or failed to answer."""


class ServerBusyError(ServerError):
    """A server has as many requests as it takes, or too little memory; later it may answer.

    `retry_after`: the seconds after which it says to ask again.
    """

    def __init__(self, *args: object, retry_after: float = 1.0) -> None:
        super().__init__(*args)
        self.retry_after = retry_after


class BatchError(SamclipError):
    """A batch job cannot begin or go on; the rows that it wrote stay, and it can be run again."""


class PeerError(SamclipError):
    """A peer that a benchmark compares with samclip cannot be installed, loaded or run."""


class TrainingError(SamclipError):
    """A training run cannot begin, go on, or be resumed."""


class SamclipWarning(UserWarning):
    """Base of every warning of samclip."""


class InputWarning(SamclipWarning):
    """What the caller passed in is used as it is, and is probably a mistake."""


class UntrainedHeadWarning(SamclipWarning):
    """Names come from a CLIP head that was never trained: they mean nothing."""


_collected: ContextVar[list[tuple[type[SamclipWarning], str]] | None] = ContextVar(
    "samclip_collected_warnings", default=None
)


@contextmanager
def collect_warnings() -> Iterator[list[tuple[type[SamclipWarning], str]]]:
    """Collect the warnings of calls within the block, instead of showing them.

    Of this thread alone: Python's own filters are those of the whole process. A warning that comes
    again is listed once.
    """
    found: list[tuple[type[SamclipWarning], str]] = []
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


def warn_caller(message: str, category: type[SamclipWarning]) -> None:
    """Warn on every call, at the nearest frame outside this package.

    Within `collect_warnings` the warning is listed there. Else the caller's warning filters apply.
    Python shows a warning once per place by default, remembered in a registry; an empty registry
    for each call makes repeated use in a loop or a server keep warning.
    """
    collected = _collected.get()
    if collected is not None:
        if (category, message) not in collected:
            collected.append((category, message))
        return
    frame = sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("samclip."):
        frame = frame.f_back
    filename = frame.f_code.co_filename
    warnings.warn_explicit(message, category, filename, frame.f_lineno, registry={})


@contextmanager
def error_context(subject: str) -> Iterator[None]:
    """Put `subject`, as a file's path, before the message of an error that does not name it."""
    try:
        yield
    except SamclipError as error:
        if subject not in str(error):
            error.args = (f"{subject}: {error}",)
        raise


def kind_named(name: object, *bases: type) -> Any:
    """Return the class of this module of that name, one of `bases`; None for any other name.

    For errors and warnings that came as texts from another process.
    """
    kind = globals().get(str(name))
    return kind if isinstance(kind, type) and issubclass(kind, bases) else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the closest known word, or "" when none is close."""
    import difflib  # noqa: PLC0415 - `import samclip` is quicker without it

    if len(word) > MAX_COMPARED:
        return ""
    by_lower = {name.lower(): name for name in known if len(name) <= MAX_COMPARED}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[close[0]]!r}?)" if close else ""


def brief(value: object, most: int = 60) -> str:
    """Return what a message shows of a value, of any type, size and depth: at most `most` letters.

    Arrays are shown by type and shape.
    """
    kind, shape = type(value).__name__, getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"{kind} of shape {shape}"[:most]
    try:
        text = _REPR.repr(value)
    except (ValueError, TypeError, AttributeError, RecursionError):  # its own, or a number's limit
        text = f"a value of type {kind}"
    return " ".join(text.split())[:most]
