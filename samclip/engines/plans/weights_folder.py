"""A graph's weights as files, for parsers that cannot take them from memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from samclip.engines.base import GraphSource
from samclip.errors import PlanBuildError


@contextmanager
def weights_folder(source: GraphSource) -> Iterator[Path]:
    """Write the weights files of a graph into a private folder, which goes with the block.

    Gives the path that the graph itself would have there. Raises PlanBuildError for a graph whose
    weights would lie outside, and when the disk refuses them.
    """
    with ExitStack() as stack:
        try:
            made = tempfile.TemporaryDirectory(prefix="samclip-build-")
            folder = Path(stack.enter_context(made))
            _write(source, folder)
        except OSError as error:
            raise PlanBuildError(
                f"the weights of the graph {source.name!r} could not be written to a temporary "
                f"folder ({error.filename or 'in TMPDIR'}): {error.strerror}. Make room there, or "
                "set TMPDIR to another folder, and build the plan again."
            ) from error
        yield folder / "graph.onnx"


def _write(source: GraphSource, folder: Path) -> None:
    for location, data in source.files.items():
        file = folder / location
        if not file.resolve().is_relative_to(folder.resolve()):
            raise PlanBuildError(
                f"the graph {source.name!r} keeps weights at {location!r}, outside of its "
                "folder. Export the bundle again."
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
