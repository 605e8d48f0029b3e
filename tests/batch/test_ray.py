"""`samclip.ray`: the columns that it adds to tables; and on a real Ray, when it is installed."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_files import COLOURS, write_colour
from PIL import Image

import samclip
import samclip.ray
from samclip.batch.annotator import ItemAnnotator, raise_reported
from samclip.batch.items import item_table
from samclip.batch.job import Job
from samclip.batch.questions import Question
from samclip.batch.ray_pool import RayPool, uses_gpu
from samclip.batch.sources import list_items
from samclip.errors import (
    BatchError,
    InputError,
    VocabularyError,
)

pa = pytest.importorskip("pyarrow", reason="needs samclip[batch]")
NAMES = ("a cup", "a cat")
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs samclip[ray]")


def annotator(bundle: Path, **options: Any) -> samclip.ray.Annotator:
    return samclip.ray.Annotator(bundle, names=NAMES, backend="onnxruntime", **options)


def test_bytes_paths_and_pixels_get_the_same_answers(photos: Path, coloured_bundle: Path) -> None:
    paths = [photos / f"{name}.png" for name in COLOURS]
    data = [path.read_bytes() for path in paths]
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    both = [{"bytes": None, "path": str(path)} for path in paths]
    tables = {
        "bytes": pa.table({"bytes": data, "id": [7, 8, 9]}),
        "path": pa.table({"path": [str(path) for path in paths], "id": [7, 8, 9]}),
        "image": pa.table(
            {"image": pa.FixedShapeTensorArray.from_numpy_ndarray(pixels), "id": [7, 8, 9]}
        ),
        "img": pa.table({"img": both, "id": [7, 8, 9], "error": ["kept"] * 3}),
    }
    worker = annotator(coloured_bundle)
    found = {column: worker(table) for column, table in tables.items()}
    for column, table in found.items():
        assert ("path" in table.column_names) == (column == "path")  # pixels and bytes are dropped
        assert table.column("id").to_pylist() == [7, 8, 9]
        assert table.column("error").to_pylist() == [None] * 3
        for answer in ("names", "probabilities", "embedding", "width"):
            assert table.column(answer) == found["bytes"].column(answer)
    assert found["image"].column("sha256").to_pylist() == [None] * 3
    assert None not in found["bytes"].column("sha256").to_pylist()
    kept = annotator(coloured_bundle, keep_images=True)(tables["bytes"])
    assert kept.column("bytes").to_pylist() == data
    assert kept.column("file_size").to_pylist() == [len(each) for each in data]
    assert len(worker(tables["bytes"].slice(0, 0))) == 0


def test_bad_images_are_rows_and_wrong_arguments_are_errors(coloured_bundle: Path) -> None:
    worker = annotator(coloured_bundle, tasks=["embed"])
    odd = pa.table({"path": ["gone.png", "s3://bucket/a.png", None]})
    rows = worker(odd).to_pylist()
    assert [row["error_type"] for row in rows] == ["ImageError"] * 3
    assert "nothing is fetched" in rows[1]["error"]
    with pytest.raises(InputError, match=r"no column 'pth' \(did you mean 'path'\?\)"):
        annotator(coloured_bundle, column="pth")(odd)
    with pytest.raises(InputError, match=r"no column with a usual name of images.*; it has x"):
        worker(pa.table({"x": [1]}))
    with pytest.raises(VocabularyError):
        samclip.ray.Annotator(coloured_bundle, tasks="semantic")


def test_errors_of_workers_reach_the_job_with_their_type(
    photos: Path, coloured_bundle: Path
) -> None:
    listing = list_items([photos])
    options = {"name_or_path": coloured_bundle, "backend": "onnxruntime", "precision": "bf16"}
    reported = ItemAnnotator(Question(), options)(item_table(listing.items))
    with pytest.raises(InputError, match="no encoder in bf16, only in fp32"):
        raise_reported(reported)
    unknown = reported.set_column(5, "error_type", pa.array(["KeyError"]))
    with pytest.raises(BatchError, match="no encoder in bf16"):
        raise_reported(unknown)
    raise_reported(ItemAnnotator(Question(), options | {"precision": None})(item_table([])))
    rows = ItemAnnotator(Question(), options | {"precision": None})(item_table(listing.items))
    raise_reported(rows)
    assert len(rows) == 5


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, False),
        ({"backend": "auto", "device": None}, False),
        ({"backend": "onnxruntime"}, False),
        ({"backend": "tensorrt"}, True),
        ({"device": "cpu"}, False),
        ({"device": "cuda:1"}, True),
    ],
)
def test_workers_ask_for_a_gpu_where_the_job_needs_one(
    options: dict[str, Any], wanted: bool
) -> None:
    assert uses_gpu(Job(Question(), options)) is wanted


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own, about its own code
def test_data_sets_of_ray_keep_each_row_once(
    tmp_path: Path, coloured_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On 2 workers: pixels of several shapes by `read_images`, and bytes with bad ones."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    folder = tmp_path / "photos"
    for number in range(12):
        write_colour(folder / f"{number}.png", "red", (20 + number % 3, 30))
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, object_store_memory=2**28)
    try:
        photos = ray.data.read_images(str(folder), mode="RGB", include_paths=True)
        options: dict[str, Any] = {"names": NAMES, "backend": "onnxruntime", "concurrency": 2}
        rows = samclip.ray.annotate(photos, coloured_bundle, batch_size=3, **options).take_all()
        assert Counter(Path(row["path"]).name for row in rows) == Counter(
            path.name for path in folder.iterdir()
        )
        assert {row["error"] for row in rows} == {None}
        assert sorted({row["height"] for row in rows}) == [20, 21, 22]
        (folder / "bad.png").write_bytes(b"bad")
        files = ray.data.read_binary_files(str(folder), include_paths=True)
        rows = samclip.ray.annotate(files, coloured_bundle, batch_size=3, **options).take_all()
        failed = {Path(row["path"]).name: row["error_type"] for row in rows if row["error"]}
        assert (len(rows), failed) == (13, {"bad.png": "ImageError"})
        listing = list_items([folder])
        job = Job(Question(), {"name_or_path": coloured_bundle, "precision": "bf16"})
        with pytest.raises(InputError, match="no encoder in bf16, only in fp32"):
            list(RayPool(2, batch_size=4).run(job, listing, listing.items))
        assert ray.is_initialized()  # a pool ends only the Ray that it started
    finally:
        ray.shutdown()
