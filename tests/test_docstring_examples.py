"""Examples in the docstrings of public names, run as docs/reference/python.md shows them."""

from __future__ import annotations

import doctest
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tree import ROOT

import samclip
from samclip.runtime.assets import packaged_photos

PAGE = ROOT / "docs" / "reference" / "python.md"
# Public names without an example, and why.
WITHOUT = {
    "DeviceMasks": "needs a bundle that was exported with --mask-upscaler",
    "Scene.segment_on_device": "needs a bundle that was exported with --mask-upscaler",
    "Model.encode_resized": "for SamPredictor.set_torch_image alone",
    "SamPredictor.set_image": "in the example of the class",
    "SamPredictor.predict": "in the example of the class",
    "SamPredictor.predict_torch": "needs torch's tensors; tests/runtime/test_predictor.py",
    "SamPredictor.reset_image": "nothing to see",
    "Model.close": "nothing to see",
    **dict.fromkeys(
        (
            *("Client", "Client.encode", "Client.encode_all", "Client.answer_all"),
            *("Client.answers", "Client.vocabulary", "Client.describe", "Client.close"),
            *("RemoteScene", "RemoteScene.classify", "RemoteScene.segment", "RemoteScene.name"),
            *("RemoteScene.semantic", "RemoteScene.everything", "RemoteScene.close"),
        ),
        "needs a server; tests/client/test_client.py",
    ),
    "Scene.close": "nothing to see",
    "OPENAI_IMAGENET_TEMPLATES": "a constant",
    "SIMPLE_IMAGENET_TEMPLATES": "a constant",
}


def page_names() -> Iterator[str]:
    """Names that the page shows: those after `:::`, and the members that it chooses."""
    text = PAGE.read_text("utf-8")
    for name, members in re.findall(
        r"^::: samclip\.(\w+)\n(?:    options:\n      members: \[(.*)\])?", text, re.MULTILINE
    ):
        yield name
        yield from (f"{name}.{member.strip()}" for member in members.split(",") if member)


def find(name: str) -> Any:
    thing: Any = samclip
    for part in name.split("."):
        thing = (
            inspect.getattr_static(thing, part) if thing is not samclip else getattr(thing, part)
        )
    return inspect.unwrap(thing) if callable(thing) else thing


NAMES = list(page_names())
SHOWN = [name for name in NAMES if name not in WITHOUT]


@pytest.fixture(scope="module")
def names_at_hand() -> Iterator[dict[str, Any]]:
    """What the page says the examples begin from."""
    photo = packaged_photos() / "coffee.jpg"
    with samclip.load() as model, model.encode(photo) as scene:
        yield {"samclip": samclip, "photo": photo, "model": model, "scene": scene, "np": np}


def test_the_page_shows_every_public_name_but_errors() -> None:
    public = {
        name
        for name in samclip.__all__
        if not (inspect.isclass(kind := getattr(samclip, name)) and issubclass(kind, Exception))
    }
    assert {name for name in NAMES if "." not in name} == public - {"__version__"}
    assert set(WITHOUT) <= set(NAMES)


@pytest.mark.parametrize("name", SHOWN)
def test_examples_run(
    name: str,
    names_at_hand: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # some write files
    text = inspect.getdoc(find(name)) or ""
    example = doctest.DocTestParser().get_doctest(text, dict(names_at_hand), name, None, None)
    assert example.examples, f"{name} has no example"
    report: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(example, out=report.append)
    assert not results.failed, "".join(report)
