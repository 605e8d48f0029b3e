"""Names that come with samclip-tiny as embeddings: what its text tower would say, without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import samclip
from samclip.export.baked_names import embed_again, embed_in
from samclip.runtime.assets import packaged_photos
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.home import find_bundle
from samclip.runtime.bundles.writing import write_bundle
from tools import bake_names

COMMON = Path(bake_names.__file__).parents[1] / "configs" / "common_names.txt"
SOURCE = Bundle.source


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return Bundle.open(find_bundle(None))


def refuse_towers(bundle: Bundle, graph: str, *rest: Any) -> Any:
    assert graph != "text_encoder", "the text tower is loaded"
    return SOURCE(bundle, graph, *rest)


def rows_of(bundle: Bundle, data: bytes) -> NDArray[np.float32]:
    assert bundle.manifest.text is not None
    width = bundle.manifest.text.embed_dim
    return np.asarray(np.frombuffer(data, "<f2").reshape(-1, width), np.float32)


def test_common_names_are_answered_without_the_tower_as_it_would_answer(
    shipped: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = COMMON.read_text("utf-8").split("\n")[:80]  # COCO's
    text = shipped.manifest.text
    assert text is not None
    photo = packaged_photos() / "coffee.jpg"
    with samclip.load(backend="onnxruntime", cache_dir=tmp_path) as model:
        with monkeypatch.context() as patched:
            patched.setattr(Bundle, "source", refuse_towers)
            scene = model.encode(photo)
            ready = scene.classify(names).probabilities
        found = model.vocabulary(names[:8]).embeddings
        other = model.vocabulary(names[:8], ("{}",)).embeddings  # other templates: the tower's
    assert np.abs(found - other).max() > 0.01
    by_tower = embed_in(shipped, names[:8], text.templates)
    # half a unit in the last place of FP16 between 0.5 and 1, and of the length's correction
    np.testing.assert_allclose(found, by_tower, atol=5e-4)
    assert ready.shape == (80,)


@pytest.mark.slow
def test_what_is_shipped_is_what_the_tower_embeds(shipped: Bundle) -> None:
    text = shipped.manifest.text
    assert text is not None
    assert text.labels is not None
    assert text.label_embeddings is not None
    again = embed_again(shipped)
    assert json.loads(again[text.labels]) == COMMON.read_text("utf-8").splitlines()
    assert again[text.labels] == shipped.read(text.labels)
    given, made = again[text.label_embeddings], shipped.read(text.label_embeddings)
    # another processor's last digits may round to the next number of FP16: 4.9e-4 below 1
    np.testing.assert_allclose(rows_of(shipped, given), rows_of(shipped, made), atol=5e-4)


def test_baking_changes_nothing_else(shipped: Bundle, tmp_path: Path) -> None:
    files = {name: shipped.read(name) for name in shipped.manifest.files}
    copy = write_bundle(tmp_path / "tiny", shipped.manifest, files)
    (tmp_path / "names.txt").write_text("a unicorn\nlighthouse\n", "utf-8")
    bake_names.main([str(copy), str(tmp_path / "names.txt"), "--dtype", "fp32"])
    baked = Bundle.open(copy)
    baked.verify()
    text = baked.manifest.text
    assert text is not None
    assert text.label_embeddings is not None
    expected = embed_in(shipped, ["a unicorn", "lighthouse"], text.templates)
    np.testing.assert_array_equal(  # the same graph on the same machine: the same bits
        np.frombuffer(baked.read(text.label_embeddings), "<f4").reshape(2, -1), expected
    )
    rest = {*files} - {"labels.json", "label_embeddings.f16"}
    assert {*baked.manifest.files} == rest | {"labels.json", "label_embeddings.f32"}
    assert all(baked.read(name) == files[name] for name in rest)
