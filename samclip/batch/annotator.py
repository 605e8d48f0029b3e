"""The annotator: a model, and the rows that it answers for images; each worker holds one."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

from samclip.batch.items import Item, ItemReader, items_of
from samclip.batch.packages import import_pyarrow
from samclip.batch.questions import Question
from samclip.errors import (
    BatchError,
    BundleError,
    CapabilityError,
    ClosedError,
    ImageError,
    PromptError,
    SamclipError,
    VocabularyError,
    collect_warnings,
    kind_named,
)
from samclip.runtime.loading import load
from samclip.runtime.model import Model
from samclip.runtime.series import map_in_order

if TYPE_CHECKING:
    import pyarrow as pa

Source = TypeVar("Source")
REPORT = ""  # in place of a key, which is never empty: the row is an error that ends the job
FAILURES_IN_A_ROW = 16  # of errors that an image is not to blame for: the last one ends the job
OF_IMAGE = (ImageError, PromptError)  # the image's own faults
OF_JOB = (BundleError, CapabilityError, ClosedError, VocabularyError)  # would fail every image
_logger = logging.getLogger("samclip")


def base_columns() -> list[tuple[str, Any]]:
    """Return the columns that every image has: its size and digest, or its error."""
    pa = import_pyarrow()
    return [
        ("sha256", pa.string()),
        ("file_size", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("error_type", pa.string()),
        ("error", pa.string()),
    ]


def row_schema(question: Question) -> pa.Schema:
    """Return the columns of a job's rows: the key, those of every image, the answers."""
    pa = import_pyarrow()
    return pa.schema([("key", pa.string()), *base_columns(), *question.schema()])


class ImageAnswers:
    """Answers a question for images, several at a time; an image that cannot be read is a row too.

    `load_options`: the arguments of `samclip.load`. The model is loaded with the first image, so
    that an error of loading is raised by a call, and not by the start of a worker.
    """

    def __init__(self, question: Question, load_options: Mapping[str, Any] | None = None) -> None:
        self._question = question
        self._load_options = dict(load_options or {})
        self._model: Model | None = None
        self._names: Any = None
        self._failures = 0

    def rows(
        self, sources: Iterable[Source], read: Callable[[Source], Any]
    ) -> Iterator[dict[str, Any]]:
        """Yield a row for each source, in order; `read` returns its bytes or its pixels.

        At most one image more than the model's streams is held at a time, and one waits. Errors of
        an image are in its row. Raises what would fail every image, as CapabilityError, and the
        last of 16 errors in a row that an image is not to blame for.
        """
        model = self._open()

        def work(source: Source) -> tuple[dict[str, Any], Exception | None]:
            return self._answer(model, source, read)

        at_once = int(self._load_options.get("streams") or 1) + 1  # one is read, others computed
        with closing(map_in_order(work, sources, at_once, model.close)) as answered:
            for _, future in answered:
                row, error = future.result()
                self._count(error)
                yield row

    def close(self) -> None:
        """Close the model."""
        if self._model is not None:
            self._model.close()

    def _open(self) -> Model:
        if self._model is None:
            self._model = load(**self._load_options)
            if self._question.names is not None:
                self._names = self._model.vocabulary(self._question.names, self._question.templates)
        return self._model

    def _answer(
        self, model: Model, source: Source, read: Callable[[Source], Any]
    ) -> tuple[dict[str, Any], Exception | None]:
        """Return the row of an image, and an error that the image is not to blame for."""
        row: dict[str, Any] = {}
        try:
            image = read(source)
            if isinstance(image, bytes):
                row |= {"sha256": hashlib.sha256(image).hexdigest(), "file_size": len(image)}
            with collect_warnings(), model.encode(image) as scene:
                row["height"], row["width"] = scene.size
                return row | self._question.answer(scene, self._names), None
        except OF_JOB:
            raise
        except Exception as error:  # any: one image must not end a job of a million
            if not isinstance(error, OF_IMAGE):
                _logger.warning("an image failed: %s", error, exc_info=error)
            row |= {"error_type": type(error).__name__, "error": str(error) or repr(error)}
            return row, None if isinstance(error, OF_IMAGE) else error

    def _count(self, error: Exception | None) -> None:
        self._failures = 0 if error is None else self._failures + 1
        if error is not None and self._failures >= FAILURES_IN_A_ROW:
            raise error


def raise_reported(table: pa.Table) -> None:
    """Raise the error that a worker reports in a table in place of rows."""
    if len(table) == 1 and table.column("key")[0].as_py() == REPORT:
        (row,) = table.to_pylist()
        raise (kind_named(row["error_type"], SamclipError) or BatchError)(row["error"])


class ItemAnnotator:
    """A table of items in, a table of rows out: what each worker of a job calls."""

    def __init__(
        self,
        question: Question,
        load_options: Mapping[str, Any] | None = None,
        column: str | None = None,
    ) -> None:
        self._answers = ImageAnswers(question, load_options)
        self._reader = ItemReader(column)
        self._schema = row_schema(question)

    def __call__(self, items: pa.Table) -> pa.Table:
        """Answer a table of items; an error that ends the job is a row, see `raise_reported`.

        Between processes of Ray only the text of an error would be left.
        """
        pa = import_pyarrow()
        try:
            return pa.concat_tables([self._schema.empty_table(), *self.tables(items_of(items))])
        except SamclipError as error:
            row = {"key": REPORT, "error_type": type(error).__name__, "error": str(error)}
            return pa.Table.from_pylist([row], schema=self._schema)

    def tables(self, items: Sequence[Item]) -> Iterator[pa.Table]:
        """Yield a table of one row for each item, in order."""
        pa = import_pyarrow()
        answered = self._answers.rows(items, self._reader.read)
        with closing(answered):  # type: ignore[type-var]
            for item, row in zip(items, answered, strict=True):
                yield pa.Table.from_pylist([{"key": item.key} | row], schema=self._schema)

    def close(self) -> None:
        """Close the model."""
        self._answers.close()
