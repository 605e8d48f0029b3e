from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fakes import NAMES, FakeBackend, FakeBundle, fake_manifest

import samclip
from samclip.engines.base import EngineOptions
from samclip.errors import BundleError, CapabilityError
from samclip.runtime.engine_pool import EnginePool
from samclip.runtime.text.bundle_text import open_text_space
from samclip.runtime.text.text_space import GRAPH, TextSpace


class Damaged(FakeBundle):
    """A bundle whose file `name` holds `data`."""

    def __init__(self, name: str, data: bytes) -> None:
        super().__init__(fake_manifest())
        object.__setattr__(self, "bad", (name, data))

    def read(self, name: str) -> bytes:
        bad, data = self.bad  # type: ignore[attr-defined]
        return bytes(data) if name == bad else super().read(name)


def open_space(bundle: Any, tmp_path: Any) -> TextSpace:
    pool = EnginePool(bundle, FakeBackend(), EngineOptions())
    text = bundle.manifest.text
    assert text is not None
    return open_text_space(pool, text, tmp_path)


def test_ready_made_labels_need_no_encoder(tmp_path: Any) -> None:
    space = open_space(FakeBundle(fake_manifest()), tmp_path)
    np.testing.assert_array_equal(space.embed(NAMES), np.eye(3))
    with pytest.raises(CapabilityError, match="no text encoder"):
        space.embed(["purple"])


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("labels.json", b"{"),
        ("labels.json", b'{"a": 1}'),
        ("labels.json", b'["red"]'),
        ("labels.json", b'["\xff"]'),
        ("labels.json", b"[" * 100_000),
        ("labels.bin", b"\0" * 8),
        ("labels.bin", b"\0" * 7),
    ],
)
def test_damaged_labels_are_bundle_errors(tmp_path: Any, name: str, data: bytes) -> None:
    with pytest.raises(BundleError, match="export"):
        open_space(Damaged(name, data), tmp_path)


def test_templates_of_a_bundle_are_not_the_callers_fault(tmp_path: Any) -> None:
    manifest = fake_manifest()
    text = msgspec.structs.replace(manifest.text, templates=("no place for a name",))
    with pytest.raises(BundleError, match="the bundle's templates cannot be used"):
        open_space(FakeBundle(msgspec.structs.replace(manifest, text=text)), tmp_path)


def test_the_text_tower_goes_after_the_first_names_and_stays_from_the_second_on(
    tmp_path: Path,
) -> None:
    with samclip.load(backend="onnxruntime", cache_dir=tmp_path) as model:
        model.vocabulary(["a unicorn"])
        assert not model._pool.is_loaded(GRAPH)
        again = model.vocabulary(["a unicorn", "a lighthouse"])  # one of them is new
        assert model._pool.is_loaded(GRAPH)
        assert again.names == ("a unicorn", "a lighthouse")
    with samclip.load(backend="onnxruntime", cache_dir=tmp_path / "other") as model:
        model._pool.load(GRAPH)  # as `prepare` does: no later call is to load it
        model.vocabulary(["a unicorn"])
        assert model._pool.is_loaded(GRAPH)
