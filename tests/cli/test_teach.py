"""`samclip teach` and `--vocabulary`, on the fake model, whose embeddings are colours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_fakes import Run
from fakes import fake_model, flag
from PIL import Image
from region_fakes import region_model

import samclip
from samclip.runtime.text.examples import WEIGHT


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Bundles are the fake model; the current folder is fresh and holds the flag."""
    monkeypatch.setattr("samclip.load", lambda *_, **__: fake_model())
    monkeypatch.chdir(tmp_path)
    Image.fromarray(flag()).save("flag.png")


def test_examples_accumulate(run: Run) -> None:
    first = run("teach", "blue", "flag.png", "--box", "64,0,136,128", "--to", "v.safetensors")
    assert first.exit_code == 0, first.stderr
    assert f"blue: 1 example, which weigh {WEIGHT / 2:.0%}" in first.stdout
    assert "vocabulary: v.safetensors, 1 name" in first.stdout
    mask = np.zeros((128, 200), np.uint8)
    mask[:, 70:130] = 255
    Image.fromarray(mask).save("mask.png")
    again = run("teach", "blue", "flag.png", "--mask", "mask.png", "--to", "v.safetensors")
    assert "blue: 2 examples" in again.stdout
    boxes = ("--box", "0,0,60,128", "--box", "0,0,40,90")
    to = ("--to", "v.safetensors", "--json")
    record = json.loads(run("teach", "red", "flag.png", *boxes, *to).stdout)
    assert record["names"] == {"blue": 2, "red": 2}
    assert (record["name"], record["examples"]) == ("red", 2)
    stored = samclip.load_vocabulary("v.safetensors")
    assert stored.examples is not None and stored.examples.counts.tolist() == [2, 2]
    with fake_model() as model, model.encode(flag()) as scene:
        at_once = model.vocabulary(
            ["blue", "red"],
            examples={
                "blue": [(scene, (64, 0, 136, 128)), (scene, mask > 0)],
                "red": [(scene, (0, 0, 60, 128)), (scene, (0, 0, 40, 90))],
            },
        )
    np.testing.assert_allclose(stored.embeddings, at_once.embeddings, atol=1e-6)


def test_a_whole_photo_goes_to_the_usual_file(run: Run) -> None:
    assert run("teach", "green", "flag.png").exit_code == 0
    assert samclip.load_vocabulary("vocabulary.safetensors").names == ("green",)


def test_every_task_takes_the_file(run: Run) -> None:
    run("teach", "blue", "flag.png", "--box", "64,0,136,128", "--to", "v.safetensors")
    box = ("--box", "64,0,136,128")
    given = ("--vocabulary", "v.safetensors", "--names", "red", "--json")
    named = json.loads(run("segment", "flag.png", *box, *given).stdout)
    assert [mask["name"] for mask in named["masks"]] == ["blue"]
    plain = json.loads(run("segment", "flag.png", *box, "--names", "red,blue", "--json").stdout)
    assert [mask["name"] for mask in plain["masks"]] == ["red"]
    scores = json.loads(run("classify", "flag.png", *given).stdout)
    assert sorted(scores["names"]) == ["blue", "red"]
    labels = json.loads(run("semantic", "flag.png", *given, "--background", "0").stdout)
    assert {found["name"] for found in labels["classes"]} == {"red", "blue"}
    found = json.loads(run("everything", "flag.png", *given, "--points-per-side", "4").stdout)
    assert {mask["name"] for mask in found["masks"]} <= {"red", "blue"}
    assert run("demo", "flag.png", *box, *given[:-1], "-o", "demo.png").exit_code == 0
    Path("frames").mkdir()
    Image.fromarray(flag()).save("frames/0.png")
    watched = run("watch", "frames", *box, *given, "--limit", "1")
    assert watched.exit_code == 0, watched.stderr
    assert [mask["name"] for mask in json.loads(watched.stdout)["masks"]] == ["blue"]


def test_refusals_come_before_the_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("samclip.load", unreachable)
    Path("list.safetensors").write_text("blue\nred\n")
    box = ("--box", "0,0,9,9")
    refused = {
        ("teach", "a", "flag.png", "--to", "v.txt"): ".safetensors",
        ("teach", "a", "flag.png", "--to", "no/such/v.safetensors"): "no folder",
        ("teach", "a", "flag.png", "--to", "list.safetensors"): "not a vocabulary file",
        ("teach", "a", "flag.png", *box, "--mask", "flag.png"): "two commands",
        ("teach", "a", "flag.png", "--mask", "gone.png"): "gone.png",
        ("classify", "flag.png", "--vocabulary", "gone.safetensors"): "cannot be read",
        ("classify", "flag.png", "--vocabulary", "flag.png"): "not a vocabulary file",
        ("classify", "flag.png"): "--vocabulary FILE",
    }
    for arguments, words in refused.items():
        result = run(*arguments)
        assert result.exit_code in (1, 2), arguments
        assert words in " ".join(result.stderr.split()), (arguments, result.stderr)


def test_a_refused_example_leaves_the_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("teach", "blue", "flag.png", "--to", "v.safetensors")
    before = Path("v.safetensors").read_bytes()
    Image.new("L", (9, 9), 255).save("small.png")
    to = ("--to", "v.safetensors")
    refused = {
        ("teach", "blue", "flag.png", "--mask", "small.png", *to): "example of 'blue'",
        ("teach", "blue", "flag.png", "--box", "900,0,990,9", *to): "outside",
        ("teach", "blue", "gone.png", *to): "gone.png",
        ("teach", "blue", "flag.png", "--templates", "none", *to): "Leave out --templates",
        ("teach", "purple", "flag.png", *to): "purple",
    }
    for arguments, words in refused.items():
        result = run(*arguments)
        assert result.exit_code == 2 or "purple" in arguments, arguments
        assert words in " ".join(result.stderr.split()), (arguments, result.stderr)
    monkeypatch.setattr("samclip.load", lambda *_, **__: region_model())
    result = run("teach", "blue", "flag.png", "--to", "other.safetensors")
    assert "no embeddings of pictures" in " ".join(result.stderr.split())
    assert Path("v.safetensors").read_bytes() == before
    assert not Path("other.safetensors").exists()
