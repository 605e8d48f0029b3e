"""A job: items to parquet files, by this process or by workers of Ray."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from samclip.batch.annotator import ItemAnnotator, row_schema
from samclip.batch.items import Item
from samclip.batch.questions import Question
from samclip.batch.shards import Identity, open_job_folder
from samclip.batch.sources import Listing
from samclip.progress import SILENT, Progress
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.home import find_bundle
from samclip.runtime.bundles.manifest_file import manifest_sha256
from samclip.runtime.bundles.signature import chosen_public_key
from samclip.runtime.example_regions import check_saved
from samclip.runtime.text.names import as_names
from samclip.runtime.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Job:
    """What is asked of which bundle; `load_options`: the arguments of `samclip.load`."""

    question: Question
    load_options: Mapping[str, Any]

    def identify(self) -> tuple[Bundle, Identity]:
        """Open the bundle, check that it can answer, and return what tells its rows from others.

        No graph is loaded. Raises BundleError, CapabilityError, VocabularyError.
        """
        options = self.load_options
        bundle = Bundle.open(
            find_bundle(options.get("name_or_path")), chosen_public_key(options.get("public_key"))
        )
        self.question.check(bundle.manifest)
        saved = [name for name in self.question.names or () if isinstance(name, Vocabulary)]
        for vocabulary in saved:
            check_saved(vocabulary, bundle)
        if self.question.names is not None and len(saved) != len(self.question.names):
            as_names(name for name in self.question.names if not isinstance(name, Vocabulary))
        return bundle, Identity(
            bundle=bundle.manifest.name,
            digest=manifest_sha256(bundle.path),
            precision=options.get("precision"),
            engine_precision=options.get("engine_precision"),
            question=self.question.to_dict(),
        )


def with_options(job: Job, **load_options: Any) -> Job:
    """Return a job with other arguments of `samclip.load`."""
    return replace(job, load_options={**job.load_options, **load_options})


class Runner(Protocol):
    """Who does the work of a job."""

    def run(self, job: Job, listing: Listing, items: Sequence[Item]) -> Iterator[pa.Table]:
        """Yield tables of rows, each item once, in any order."""
        ...


class InProcess:
    """Works in this process, on as many images at a time as the model has streams."""

    def run(self, job: Job, listing: Listing, items: Sequence[Item]) -> Iterator[pa.Table]:
        """Yield a table for each item, in order."""
        annotator = ItemAnnotator(job.question, job.load_options, listing.column)
        with closing(annotator):
            yield from annotator.tables(items)


@dataclass(frozen=True)
class Summary:
    """What a run did: images in the folder, those done before, errors among all, and files added.

    `seconds`: from the first image to the last of this run.
    """

    folder: Path
    images: int
    done_before: int
    errors: int
    files: int
    seconds: float


def run_job(
    job: Job,
    listing: Listing,
    folder: Path,
    runner: Runner,
    *,
    identity: Identity | None = None,
    rows_per_file: int = 1000,
    retry_errors: bool = False,
    progress: Progress = SILENT,
) -> Summary:
    """Answer every item that the folder does not have yet, and write its row.

    `identity`: what `Job.identify` returned, where it was called already.
    Raises BatchError, WriteError, and what ends a job, see `ImageAnswers.rows`; the rows that were
    answered until then are in the folder.
    """
    if identity is None:
        _, identity = job.identify()
    opened = open_job_folder(
        folder,
        row_schema(job.question),
        identity,
        rows_per_file=rows_per_file,
        retry_errors=retry_errors,
    )
    with opened as output:
        todo = [item for item in listing.items if item.key not in output.finished]
        before = len(listing.items) - len(todo)
        begun = time.monotonic()
        with progress.stage("images", len(listing.items), before) as stage:
            if todo:
                tables = runner.run(job, listing, todo)
                with closing(tables):  # type: ignore[type-var]
                    done = 0
                    for table in tables:
                        output.add(table)
                        for _ in range(len(table)):
                            done += 1
                            stage.advance(f"{done / (time.monotonic() - begun):.1f} images/s")
        seconds = time.monotonic() - begun
    return Summary(
        folder=folder,
        images=len(listing.items),
        done_before=before,
        errors=output.errors,
        files=len(output.written),
        seconds=seconds,
    )
