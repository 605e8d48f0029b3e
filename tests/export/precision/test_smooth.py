"""Ranges moved into weights: the same results, evener channels, less lost by INT8."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from int8_graphs import cosine, photo_feeds, run, small_network

from samclip.errors import CalibrationError, ExportError
from samclip.export.precision.calibration import calibrate
from samclip.export.precision.layers import find_layers
from samclip.export.precision.quantise import quantise
from samclip.export.precision.smooth import equalise, factors, find_groups


def uneven_network() -> ir.Model:
    """The small network with channels behind its norm of very different size."""
    model = small_network()
    for name in ("norm.weight", "norm.bias"):
        value = model.graph.initializers[name]
        assert value.const_value is not None
        array = value.const_value.numpy().copy()
        array[::8] *= 60
        value.const_value = ir.tensor(array, name=name)
    weight = model.graph.initializers["constant"]
    assert weight.const_value is not None
    rows = weight.const_value.numpy().copy()
    rows[::8] /= 60
    weight.const_value = ir.tensor(rows, name="constant")
    return model


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1.0])
def test_results_are_the_same(alpha: float) -> None:
    model, feed = uneven_network(), photo_feeds(1, seed=5)[0]
    exact, equalised = run(model, feed), run(equalise(model, photo_feeds(), alpha), feed)
    for name, expected in exact.items():
        # Powers of two change no digit; only the order of sums may differ.
        np.testing.assert_allclose(equalised[name], expected, rtol=0, atol=1e-5)


def test_int8_loses_less() -> None:
    model, feed = uneven_network(), photo_feeds(1, seed=5)[0]
    even = equalise(model, photo_feeds())
    skip = frozenset({"stem", "dw", "pw", "fc2", "head"})
    exact = run(model, feed)["features"]
    losses = [
        1 - cosine(exact, run(quantise(m, calibrate(m, photo_feeds()), skip), feed)["features"])
        for m in (model, even)
    ]
    assert losses[1] < losses[0] / 10


def test_layers_keep_their_names_and_the_original_its_weights() -> None:
    model = uneven_network()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    even = equalise(model, photo_feeds())
    assert [x.name for x in find_layers(even)] == [x.name for x in find_layers(model)]
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_norm_that_something_else_sees_is_left_alone() -> None:
    model = small_network()
    assert [len(group.layers) for group in find_groups(model)] == [1]
    norm = next(n for n in model.graph if n.op_type == "LayerNormalization")
    model.graph.outputs.append(norm.outputs[0])
    assert find_groups(model) == ()


def test_factors_are_powers_of_two_that_share_the_range() -> None:
    peak = np.asarray([64, 1, 0], np.float32)
    weight = np.asarray([[0.25, -1], [1, 0.5], [1, 1]], np.float32)
    found = factors(peak, [weight], 0.5)
    np.testing.assert_array_equal(found[:2], [8, 1])
    assert 0 < found[2] < 1
    assert (np.exp2(np.rint(np.log2(found))) == found).all()


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_an_alpha_out_of_range_is_refused(alpha: float) -> None:
    with pytest.raises(ExportError, match="between 0 and 1"):
        equalise(small_network(), photo_feeds(), alpha)


def test_no_photos_are_refused() -> None:
    with pytest.raises(CalibrationError, match="no photos"):
        equalise(small_network(), [])
