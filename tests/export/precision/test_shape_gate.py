"""The comparison of further shapes with the first one, on a model without weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from fakes import GRAPHS, FakeBackend, FakeBundle, fake_manifest
from PIL import Image
from recorded_progress import RecordedProgress

from samclip.engines.base import EngineOptions
from samclip.export.precision import shape_gate
from samclip.export.precision.draft_bundle import DraftBundle
from samclip.export.precision.shape_gate import compare_shapes
from samclip.runtime.model import Model

CANVASES = ((192, 256), (256, 192))


def photos(folder: Path) -> list[Path]:
    """A square of four colours, and a wide photo of three, in files."""
    found = []
    for name, size in (("a.png", (256, 256)), ("b.png", (384, 512))):
        image = np.zeros((*size, 3), np.uint8)
        image[: size[0] // 2, : size[1] // 2, 0] = 255
        image[: size[0] // 2, size[1] // 2 :, 1] = 255
        image[size[0] // 2 :, :, 2] = 255
        found.append(folder / name)
        Image.fromarray(image).save(found[-1])
    return found


def compare(folder: Path, monkeypatch: pytest.MonkeyPatch, spoil: float = 0.0) -> str:
    """Compare; `spoil` is added to the green of what further shapes see, in [0, 255]."""
    opened: list[tuple[tuple[int, int], ...]] = []

    def encode(image: np.ndarray) -> dict[str, np.ndarray]:
        found = GRAPHS["encoder"](image)
        if image.shape[2] != image.shape[3]:
            found["backbone_features"][:, 1] += spoil
        return found

    @contextmanager
    def reference_model(draft: DraftBundle) -> Iterator[Model]:
        opened.append(draft.canvases)
        bundle = FakeBundle(draft.manifest, only=draft.only)
        backend = FakeBackend(graphs={**GRAPHS, "encoder": encode})
        with Model(bundle, backend, EngineOptions()) as model:  # type: ignore[arg-type]
            yield model

    monkeypatch.setattr(shape_gate, "reference_model", reference_model)
    draft = DraftBundle(folder, fake_manifest(canvases=CANVASES), {})
    progress = RecordedProgress()
    said = compare_shapes(draft, photos(folder), progress)
    assert opened == [((256, 256),), ((256, 256), *CANVASES)]
    return said


def test_shapes_that_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = compare(tmp_path, monkeypatch)
    assert said.startswith("Inputs of 256 x 256, 256 x 192, 192 x 256 pixels; on 2 photos each")
    found = re.search(r"IoU of (\d+) masks ([\d.]+)", said)
    assert found is not None
    assert int(found[1]) > 4
    assert float(found[2]) > 0.99
    assert "pixels named alike 100.0%" in said
    assert "photos and masks 100.0%" in said


def test_names_that_differ_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = compare(tmp_path, monkeypatch, spoil=1e3)  # all of the wide photo becomes green
    alike = re.search(r"pixels named alike ([\d.]+)%", said)
    assert alike is not None
    pixels = (256 * 256 + 384 * 512 / 4) / (256 * 256 + 384 * 512)  # the square, a quarter of b
    assert float(alike[1]) == pytest.approx(100 * pixels, abs=1)
    assert float(said.split("IoU of")[1].split()[2].rstrip(";")) > 0.99
