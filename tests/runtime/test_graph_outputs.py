from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fakes import GRAPHS, FakeBackend, FakeBundle, fake_manifest, flag
from numpy.typing import NDArray
from region_fakes import REGION_GRAPHS, region_manifest

from samclip.engines.base import EngineOptions
from samclip.errors import EngineRunError
from samclip.runtime.graph_outputs import OutputCheck, are_sound
from samclip.runtime.model import Model

Array = NDArray[Any]


def with_value(value: float) -> Callable[[Array], Array]:
    """A change of one element, the last."""

    def change(array: Array) -> Array:
        changed = array.copy()
        changed.flat[-1] = value
        return changed

    return change


CHANGES: dict[str, tuple[Callable[[Array], Array], str]] = {
    "NaN": (with_value(np.nan), "holds NaN"),
    "infinity": (with_value(-np.inf), "holds NaN, infinity"),
    "huge": (with_value(3e38), "too large to compute with"),
    "float64": (lambda array: array.astype(np.float64), "is float64 of shape"),
    "int64": (lambda array: array.astype(np.int64), "is int64 of shape"),
    "one axis less": (lambda array: array.reshape(array.shape[1:] or ()), "expected float32"),
    "one axis more": (lambda array: array[None], "expected float32"),
    "no axis": (lambda array: np.float32(array.flat[0]).reshape(()), r"of shape \(\), expected"),
    "twice as many rows": (lambda array: np.concatenate([array] * 2), "expected float32"),
    "no rows": (lambda array: array[:0], "of shape 0"),
    "a last axis of one": (lambda array: array[..., :1], "expected float32"),
}
OUTPUTS = {
    "image_embeddings": "encoder",
    "backbone_features": "encoder",
    "image_embed": "clip_head",
    "patch_embeds": "clip_head",
    "iou_predictions": "mask_decoder",
    "low_res_masks": "mask_decoder",
    "logits": "roi_classifier",
    "clip_logits": "clip_roi",
}


def answer(output: str, change: Callable[[Array], Array]) -> None:
    """Ask a model for all that it can do, one of whose outputs is changed."""
    has_regions = output.endswith("logits")
    graphs: dict[str, Any] = {**(REGION_GRAPHS if has_regions else GRAPHS)}
    compute = graphs[OUTPUTS[output]]

    def computed(**feeds: Array) -> dict[str, Array]:
        found = compute(**feeds)
        return {**found, output: np.asarray(change(np.asarray(found[output], np.float32)))}

    graphs[OUTPUTS[output]] = computed
    bundle: Any = FakeBundle(region_manifest() if has_regions else fake_manifest())
    with Model(bundle, FakeBackend(graphs=graphs), EngineOptions()) as model:
        scene = model.encode(flag())
        scene.segment(boxes=[(5, 5, 60, 60)], names=["red", "green"])
        scene.classify(["red", "green"])


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("change", CHANGES)
def test_an_output_that_is_not_what_it_must_be(output: str, change: str) -> None:
    """The error names graph and output, whatever is wrong with it."""
    changed, message = CHANGES[change]
    if output == "backbone_features" and change == "a last axis of one":
        return  # its sides are its head's business
    if output == "low_res_masks" and change == "huge":
        answer(output, changed)  # logits are only compared and resized
        return
    with pytest.raises(EngineRunError, match=message) as raised:
        answer(output, changed)
    assert f"the output {output!r} of the graph {OUTPUTS[output]!r}" in str(raised.value)


@pytest.mark.parametrize("output", OUTPUTS)
def test_sound_outputs_pass(output: str) -> None:
    answer(output, lambda array: array)


def test_numbers_that_are_sound() -> None:
    assert are_sound(np.full((1, 256, 64, 64), 1e6, np.float32))
    assert are_sound(np.zeros((0, 4), np.float32))
    assert are_sound(np.full(3, 6e4, np.float16))
    assert are_sound(np.asarray([True]))
    assert not are_sound(np.asarray([1, np.nan], np.float16))
    assert not are_sound(np.asarray(["1"]))


def test_tokens_that_the_graph_has_no_rows_for() -> None:
    """OpenVINO would answer with zeros."""
    graph = fake_manifest().graphs.encoder
    check = OutputCheck("text_encoder", graph, fake_manifest(), token_rows=600)
    check.check_tokens({"tokens": np.asarray([[0, 599]])})
    for tokens in ([0, 600], [-1, 5]):
        with pytest.raises(EngineRunError, match=f"tokens {tokens[0]} to {tokens[1]}.*knows 600"):
            check.check_tokens({"tokens": np.asarray([tokens])})
