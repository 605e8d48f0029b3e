"""`samclip batch`: options in, parquet files out, and a line for people."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_fakes import Run
from colour_files import write_colour
from coloured_bundle import write_coloured_bundle

import samclip
from samclip.batch import packages
from samclip.batch.job import InProcess, Job
from samclip.batch.questions import Question
from samclip.batch.ray_pool import RayPool
from samclip.cli.batch import choose_runner

pq = pytest.importorskip("pyarrow.parquet", reason="needs samclip[batch]")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coloured_bundle(tmp_path_factory.mktemp("batch") / "bundle")


@pytest.fixture
def folder(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with photos/: a good image, a bad one, and a text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAMCLIP_BUNDLE", str(bundle))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    write_colour(tmp_path / "photos" / "red.png", "red")
    (tmp_path / "photos" / "bad.png").write_bytes(b"bad")
    (tmp_path / "photos" / "notes.txt").write_text("a note")
    return tmp_path


def rows(place: str = "rows") -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in pq.ParquetDataset(place).read().to_pylist()}


def test_a_folder_becomes_rows_and_a_second_run_adds_nothing(folder: Path, run: Run) -> None:
    command = ("batch", "photos", "--names", "a cup,a cat,a dog", "--top", "2", "--to", "rows")
    result = run(*command, "--backend", "onnxruntime")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("rows: 2 images; 1 new file, ")
    assert result.stdout.endswith("; 1 with an error, see the column error\n")
    assert "left out of photos: files that are not images: 1 (notes.txt)" in result.stderr
    found = rows()
    assert set(found) == {"red.png", "bad.png"}
    assert len(found["red.png"]["names"]) == 2
    assert len(found["red.png"]["embedding"]) == 3
    again = run(*command, "--backend", "onnxruntime")
    assert again.stdout == (
        "rows: 2 images; 2 of them done before; 1 with an error, see the column error\n"
    )
    where = ("--to", "rows", "--engine-precision", "bf16")
    other = run(*command, "--backend", "openvino", *where)  # other rows: nothing is loaded
    assert other.exit_code == 1
    assert "engine: None there, 'bf16' now" in other.stderr
    other = run(*command[:-2], "--task", "semantic", "--to", "rows")
    assert other.exit_code == 1
    assert "tasks: ['classify', 'embed'] there, ['semantic'] now" in other.stderr


def test_saved_names_go_before_others_and_are_part_of_the_job(
    folder: Path, bundle: Path, run: Run
) -> None:
    """A folder goes on with the same file; other embeddings of the same names are another job."""
    with samclip.load(bundle, "onnxruntime") as model, model.encode("photos/red.png") as scene:
        texts = model.vocabulary(["our mug", "a cat"])
        model.vocabulary(texts.names, "many {}s").save("others.safetensors")
        taught = model.vocabulary(texts, examples={"our mug": [(scene, None)]})
        taught.save("plant.safetensors")
        expected = scene.classify(model.vocabulary([taught, "a dog"])).top(3)
    command = ("batch", "photos", "--names", "a dog", "--to", "rows", "--backend", "onnxruntime")
    result = run(*command, "--vocabulary", "plant.safetensors")
    assert result.exit_code == 0, result.stderr
    row = rows()["red.png"]
    assert row["names"] == [name for name, _ in expected]
    assert row["probabilities"] == pytest.approx([share for _, share in expected])
    again = run(*command, "--vocabulary", "plant.safetensors")
    assert "2 of them done before" in again.stdout
    other = run(*command, "--vocabulary", "others.safetensors")
    assert (other.exit_code, "sha256" in other.stderr) == (1, True)
    replace(taught, space="0" * 64).save("foreign.safetensors")
    foreign = run(*command[:-4], "--to", "others", "--vocabulary", "foreign.safetensors")
    assert (foreign.exit_code, "text space" in foreign.stderr) == (2, True)
    assert not Path("others").exists()


def test_every_task_takes_its_options(folder: Path, run: Run) -> None:
    shared = ("batch", "photos", "--backend", "onnxruntime", "--names", "a cup,a cat,a dog")
    grid = ("--points-per-side", "2", "--adaptive")
    masks = run(*shared, "-t", "everything,semantic", *grid, "--to", "a")
    assert masks.exit_code == 0, masks.stderr
    row = rows("a")["red.png"]
    assert 0 < len(row["masks"]) <= 4
    assert row["masks"][0]["name"] in {"a cup", "a cat", "a dog"}
    assert "stability_score" in row["masks"][0]
    boxes = run(*shared, "-t", "segment", "--box", "2,3,20,10", "--box", "1,1,5,5", "--to", "b")
    assert boxes.exit_code == 0, boxes.stderr
    first, second = rows("b")["red.png"]["masks"]
    assert first["area"] > second["area"] > 0
    outside = run(*shared, "-t", "segment", "--box", "50,50,90,90", "--to", "c")
    assert outside.exit_code == 0, outside.stderr
    assert rows("c")["red.png"]["error_type"] == "PromptError"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["gone", "--to", "rows"], 2, "no file or folder gone"),
        (["photos", "--to", "rows", "-t", "semantic"], 2, "semantic needs names"),
        (["photos", "--to", "rows", "-t", "clasify"], 2, "did you mean 'classify'?"),
        (["photos", "--to", "photos/red.png"], 1, "could not be written"),
        (["photos", "--to", "rows", "--workers", "0"], 2, "--workers"),
    ],
)
def test_mistakes_are_refused_before_the_first_image(
    arguments: list[str], code: int, message: str, folder: Path, run: Run
) -> None:
    result = run("batch", *arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert not Path("rows").exists()


def test_missing_packages_are_named(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = run("batch", "photos", "--to", "rows", "--runner", "ray")
    assert result.exit_code == 1
    assert "pip install 'samclip[ray]'" in result.stderr
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = run("batch", "photos", "--to", "other")
    assert result.exit_code == 1
    assert "pip install 'samclip[batch]'" in result.stderr


def test_ray_works_where_it_is_there_and_there_is_more_than_one_worker(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle.parent)
    job = Job(Question(), {"name_or_path": "bundle"})
    for is_there in (True, False):
        monkeypatch.setattr(packages, "has_ray", lambda is_there=is_there: is_there)
        for workers, address in ((1, None), (2, None), (1, "auto")):
            runner, chosen = choose_runner("auto", workers, address, 16, job)
            if is_there and (workers > 1 or address):
                assert runner == RayPool(workers, address, 16)
                assert chosen.load_options["name_or_path"] == str(bundle)  # from any folder
            else:
                assert isinstance(runner, InProcess)
                assert chosen.load_options["streams"] == workers
    runner, _ = choose_runner("process", 4, "auto", 16, job)
    assert isinstance(runner, InProcess)
