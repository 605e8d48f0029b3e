"""What examples gain, on embeddings whose answers can be worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fakes import fake_model
from made_data import Made, rectangle, stripes, write_coco
from PIL import Image

from samclip.benchmarks.accuracy.examples import (
    ALL_NAMES,
    WITH,
    WITHOUT,
    Pictures,
    embed_objects,
    evaluate_examples,
)
from samclip.benchmarks.data.coco import read_coco
from samclip.benchmarks.records import Row
from samclip.benchmarks.scores import Candidate
from samclip.runtime.text.vocabulary import Vocabulary, unit_rows

Bench = Callable[..., Any]


def values(rows: list[Row]) -> dict[tuple[str, str, str], tuple[float | None, int, int]]:
    return {(row.measure, row.subset, row.model): (row.value, row.n, row.photos) for row in rows}


def clusters() -> tuple[Vocabulary, Pictures]:
    """Four names whose texts say nothing, and eight photos of each in a cluster of its own."""
    drawn = np.random.default_rng(1)
    width, names, each = 32, 4, 8
    texts = drawn.normal(size=(names, width))
    texts[:, : width // 2] *= 0.02  # pictures vary in this half, texts in the other
    common = drawn.normal(size=width) * 2 * (np.arange(width) < width // 2)
    in_half = np.arange(width) < width // 2
    centres = np.repeat(drawn.normal(size=(names, width)), each, axis=0) * in_half
    shown = centres + common + drawn.normal(size=(names * each, width)) * 0.3 * in_half
    rows = unit_rows(shown.astype(np.float32))
    background = common + drawn.normal(size=(len(rows), width)) * 0.3 * in_half
    photos = unit_rows(background.astype(np.float32))
    categories = np.repeat(np.arange(names), each)
    vocabulary = Vocabulary(tuple("abcd"), unit_rows(texts.astype(np.float32)), 10.0, True)
    return vocabulary, Pictures(rows, categories, np.arange(len(rows)), photos)


def test_examples_of_separate_things_are_enough() -> None:
    vocabulary, pictures = clusters()
    rows = evaluate_examples(Candidate("fake", fake_model()), vocabulary, pictures, (1, 4, 16))
    found = values(rows)
    texts = float((vocabulary.cosines(pictures.embeddings).argmax(1) == pictures.categories).mean())
    for count in ("1 example", "4 examples"):
        measure = f"name top-1, {count}"
        assert found[measure, ALL_NAMES, "fake by text alone"] == (texts, 32, 32)
        gained, _, _ = found[measure, ALL_NAMES, "fake with examples"]
        assert gained is not None and gained > texts + 0.2
        assert found[measure, WITH, "fake with examples"][1:] == (16, 16)
        assert found[measure, WITHOUT, "fake by text alone"][1:] == (16, 16)
    more = found["name top-1, 4 examples", ALL_NAMES, "fake with examples"][0]
    assert more is not None and more > 0.7
    assert not any("16 examples" in measure for measure, _, _ in found)  # a half has four photos


def test_no_photo_is_an_example_of_itself() -> None:
    """Pictures that have nothing in common with others of their name are named by chance."""
    drawn = np.random.default_rng(3)
    rows = unit_rows(drawn.normal(size=(64, 512)).astype(np.float32))
    photos = unit_rows(drawn.normal(size=(64, 512)).astype(np.float32))
    pictures = Pictures(rows, np.arange(64) % 2, np.arange(64), photos)
    texts = unit_rows(drawn.normal(size=(2, 512)).astype(np.float32))
    vocabulary = Vocabulary(("a", "b"), texts, 10.0, True)
    found = values(evaluate_examples(Candidate("m", fake_model()), vocabulary, pictures, (1, 16)))
    for count in ("1 example", "16 examples"):
        value, n, _ = found[f"name top-1, {count}", ALL_NAMES, "m with examples"]
        # A share of 64 fair coins lies below 0.7 but for one draw in a thousand; a leak gives 1.
        assert value is not None and value < 0.7
        assert n == 64


def test_objects_of_coco_are_shown_by_their_masks(tmp_path: Path) -> None:
    objects = [
        Made("red", rectangle(0, 0, 64, 64)),
        Made("blue", rectangle(128, 0, 192, 256)),
        Made("green", rectangle(112, 0, 128, 32)),  # too small
    ]
    folder = write_coco(tmp_path, {"a.png": (stripes(0, 1, 2, 0), objects)})
    pictures = embed_objects(Candidate("fake", fake_model()), read_coco(folder).photos)
    assert pictures.photos.tolist() == [0, 0]
    assert pictures.embeddings.argmax(axis=1).tolist() == [0, 2]  # red, blue


def test_the_command_writes_the_rows(bench: Bench, loads: list[Any], tmp_path: Path) -> None:
    for place, name in enumerate(("red", "green", "blue")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(4):
            colour = np.full((64, 64, 3), 20 * number, np.uint8)
            colour[..., place] = 255
            Image.fromarray(colour).save(tmp_path / "data" / name / f"{number}.png")
    report = tmp_path / "report.json"
    command = ("accuracy", "examples", tmp_path / "data", "--names")
    result = bench(*command, "red,blue", "--count", "1", "--count", "2", "--json", report)
    assert result.exit_code == 0, result.stderr
    written = json.loads(report.read_text())
    assert written["data"]["photos"] == 8
    assert {row["measure"] for row in written["rows"]} == {
        "name top-1, 1 example",
        "name top-1, 2 examples",
    }
    assert all(row["value"] == 1 for row in written["rows"])
    (tmp_path / "rivals.txt").write_text("green\nred\n")
    more = bench(*command, "red,blue", "--count", "1", "--rivals", tmp_path / "rivals.txt")
    assert more.exit_code == 0, more.stderr
    refused = bench(*command, "red,bleu")
    assert refused.exit_code == 2
    assert "did you mean 'blue'" in " ".join(refused.stderr.split()).lower()
