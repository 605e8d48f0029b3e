"""What a command asks for, and the model that answers it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from samclip.runtime.cli.consoles import err
from samclip.runtime.cli.logs import shown_logs

if TYPE_CHECKING:
    from samclip.runtime.model import Model


@dataclass(frozen=True)
class Request:
    """What the options that all tasks share say; None means the default."""

    images: list[Path]
    bundle: str | None = None
    backend: str = "auto"
    precision: str | None = None
    threads: int | None = None
    streams: int | None = None
    output: Path | None = None
    as_json: bool = False


@contextmanager
def open_model(request: Request) -> Iterator[Model]:
    """Load the bundle that `request` asks for; the model is closed at the end of the block."""
    import samclip  # brings in numpy and the runtime

    status = err.status("loading the bundle") if err.is_terminal else nullcontext()
    with shown_logs():
        with status:
            model = samclip.load(
                request.bundle or None,
                backend=request.backend,
                precision=request.precision,
                threads=request.threads,
                streams=request.streams or 1,
            )
        with model:
            yield model
