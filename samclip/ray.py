"""samclip in Ray Data: a model in each worker, and its answers as columns of a data set.

::

    import ray
    import samclip.ray

    photos = ray.data.read_images("photos/", include_paths=True)
    rows = samclip.ray.annotate(photos, names=["a cup", "a cat"], concurrency=4)
    rows.write_parquet("rows/")

Needs the extra `[ray]`. `samclip.batch` does the same work as a job with a folder of rows: one that
was stopped goes on there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samclip.batch.annotator import ImageAnswers, base_columns
from samclip.batch.items import read_value
from samclip.batch.packages import import_pyarrow, import_ray
from samclip.batch.questions import as_question
from samclip.batch.sources import choose_column

if TYPE_CHECKING:
    import pyarrow as pa

    from samclip.runtime.scene import Names

__all__ = ["Annotator", "annotate"]


class Annotator:
    """A callable class for `Dataset.map_batches`: each worker holds one, with its own model.

    Batches are pyarrow tables (`batch_format="pyarrow"`). A row has its image as the bytes of a
    file (`ray.data.read_binary_files`), as pixels HxWx3 uint8 RGB (`ray.data.read_images(...,
    mode="RGB")`), or as a path that the worker can read. These columns are added, and replace
    others of their names: `sha256` and `file_size` of a file, `width` and `height`, `error_type`
    and `error`, null for an image that was answered, and for the tasks:

    - "classify": `names` and `probabilities`, the `top` best first;
    - "embed": `embedding`, CLIP's of the whole image, float32 of length 1;
    - "segment", "everything": `masks`, each with `segmentation` (COCO RLE: `size` [h, w] and
      `counts`), `box` XYXY, `area`, `score`, and `name` and `probability` if there are names;
    - "semantic": `classes`, each name found with its `segmentation`, `area`, `fraction` and
      `mean_score`.

    `bundle`: as for `samclip.load`. `names`: texts, vocabularies, or both. `tasks`: one or several,
    which one encoder pass answers; None for "classify" and "embed" with names, else "embed".
    `options`: for each task, arguments of `Scene`'s method, as
    `{"everything": {"points_per_side": 16}}`. `column`: that of the images, None for a usual name.
    `keep_images`: keep that column too. Other arguments are those of `samclip.load`, as
    `device="cuda"`.

    The model is loaded by the first batch. An image that cannot be read or answered gets an error
    and ends nothing. Raises InputError, VocabularyError; a call also BundleError, CapabilityError,
    and the last of 16 errors in a row that no image is to blame for.

    Examples:
        >>> import pyarrow as pa
        >>> import samclip.ray
        >>> annotator = samclip.ray.Annotator(names=["a cup of coffee", "a cat"], top=1)
        >>> photos = pa.table({"path": [str(photo), "gone.jpg"]})
        >>> rows = annotator(photos).to_pylist()
        >>> rows[0]["names"], rows[1]["error_type"]
        (['a cup of coffee'], 'ImageError')
    """

    def __init__(
        self,
        bundle: str | Path | None = None,
        *,
        names: Names | None = None,
        tasks: Sequence[str] | str | None = None,
        templates: str | Sequence[str] | None = None,
        top: int = 5,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        column: str | None = None,
        keep_images: bool = False,
        **load_options: Any,
    ) -> None:
        question = as_question(tasks, names, templates, top, options)
        self._answers = ImageAnswers(question, {"name_or_path": bundle, **load_options})
        self._schema = import_pyarrow().schema([*base_columns(), *question.schema()])
        self._column = column
        self._keep_images = keep_images

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the rows of a table with their answers."""
        pa = import_pyarrow()
        column = choose_column(batch.column_names, self._column, "the data set")
        read = partial(read_value, folder=Path())
        answered = list(self._answers.rows(_sources(batch.column(column)), read))
        is_path = pa.types.is_string(batch.schema.field(column).type)
        kept = batch if self._keep_images or is_path else batch.drop_columns([column])
        kept = kept.drop_columns([name for name in kept.column_names if name in self._schema.names])
        answers = pa.Table.from_pylist(answered, schema=self._schema)
        for name in answers.column_names:
            kept = kept.append_column(answers.schema.field(name), answers.column(name))
        return kept


def annotate(
    dataset: Any,
    bundle: str | Path | None = None,
    *,
    concurrency: int | tuple[int, int] = 1,
    batch_size: int = 16,
    ray_remote_args: Mapping[str, Any] | None = None,
    **question: Any,
) -> Any:
    """Return a `ray.data.Dataset` of the rows of `dataset` with samclip's answers.

    `concurrency`: the number of workers, or the least and the most of a pool that grows; each
    loads the bundle from the same path, so that it lies on every node. `batch_size`: images that a
    worker is given at once. `ray_remote_args`: what a worker needs, as `{"num_gpus": 1}` or
    `{"num_cpus": 4}`. A worker's model has as many threads as it has CPUs, 1 by default. Other
    arguments are those of `Annotator`.

    Like all of Ray Data it is lazy: nothing runs before the data set is written or read. A worker
    that dies is started again, and its batches are answered again. Raises InputError,
    VocabularyError, CapabilityError without Ray.

    Examples:
        >>> photos = ray.data.read_binary_files("photos/", include_paths=True)  # doctest: +SKIP
        >>> rows = samclip.ray.annotate(photos, names=["a cup", "a cat"])  # doctest: +SKIP
        >>> rows.write_parquet("rows/")  # doctest: +SKIP
    """
    ray = import_ray()
    arguments = {"num_cpus": 1, **(ray_remote_args or {})}
    question.setdefault("threads", max(1, int(arguments["num_cpus"])))
    Annotator(bundle, **question)  # wrong arguments are refused here, and not in a worker
    least, most = concurrency if isinstance(concurrency, tuple) else (concurrency, concurrency)
    return dataset.map_batches(
        Annotator,
        fn_constructor_args=(bundle,),
        fn_constructor_kwargs=question,
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            min_size=least, max_size=most, max_tasks_in_flight_per_actor=2
        ),
        **arguments,
    )


def _sources(column: Any) -> Iterator[Any]:
    """Yield what a column has for each row: bytes, a path, a dict of both, or pixels."""
    for chunk in column.chunks:
        if hasattr(chunk, "to_numpy_ndarray"):  # tensors of one shape, Ray's or pyarrow's
            yield from chunk.to_numpy_ndarray()
        elif hasattr(chunk.type, "storage_type"):  # Ray's tensors of several shapes
            yield from chunk.to_numpy(zero_copy_only=False)
        else:
            yield from (value.as_py() for value in chunk)
