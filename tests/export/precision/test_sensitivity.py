"""The layers that suffer most from INT8, and the number that is left out."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from int8_graphs import cosine, photo_feeds, run, small_network

from samclip.errors import CalibrationError, ExportError
from samclip.export.precision.calibration import calibrate
from samclip.export.precision.layers import find_layers, layer_depths
from samclip.export.precision.quantise import Form, quantise
from samclip.export.precision.sensitivity import fall_back, joined_signal, measure_sensitivity

LAYERS = {"stem", "dw", "pw", "fc1", "fc2", "head"}


def spoilt_network() -> ir.Model:
    """The small network, one channel of its depthwise convolution far larger than all others."""
    model = small_network()
    weight = model.graph.initializers["pw.weight"]
    assert weight.const_value is not None
    array = weight.const_value.numpy().copy()
    array[:, 0] *= 1e-4
    weight.const_value = ir.tensor(array, name="pw.weight")
    for name in ("dw.weight", "dw.bias"):
        value = model.graph.initializers[name]
        assert value.const_value is not None
        large = value.const_value.numpy().copy()
        large[0] *= 1e4
        value.const_value = ir.tensor(large, name=name)
    clip = next(n for n in model.graph if n.op_type == "Clip" and n.outputs[0].name == "d")
    clip.replace_input_with(2, None)
    return model


@pytest.mark.parametrize("form", ["symmetric", "unsigned"])
def test_layers_are_listed_worst_first(form: Form) -> None:
    model = small_network()
    found = measure_sensitivity(model, calibrate(model, photo_feeds()), photo_feeds(2), form)
    assert {x.layer for x in found} == (LAYERS if form == "unsigned" else LAYERS - {"dw"})
    noises = [x.noise for x in found]
    assert noises == sorted(noises, reverse=True)
    assert all(0 < noise < 0.01 for noise in noises)


def test_a_spoilt_layer_comes_first() -> None:
    model = spoilt_network()
    known = calibrate(model, photo_feeds())
    found = measure_sensitivity(model, known, photo_feeds(2))
    assert found[0].layer == "pw"  # its input spans five orders of magnitude
    feed = photo_feeds(1, seed=3)[0]
    exact = run(model, feed)["features"]
    losses = {
        name: 1 - cosine(exact, run(quantise(model, known, frozenset({name})), feed)["features"])
        for name in ("pw", "fc1", "fc2")
    }
    assert min(losses, key=losses.__getitem__) == "pw"


def test_noise_is_that_of_the_layer_quantised_alone() -> None:
    model, feed = small_network(), photo_feeds(1)[0]
    known = calibrate(model, [feed])
    noises = {x.layer: x.noise for x in measure_sensitivity(model, known, [feed])}
    exact = run(model, feed)["features"]
    alone = run(quantise(model, known, frozenset(LAYERS - {"fc2"})), feed)["features"]
    expected = np.square(alone - exact).sum() / np.square(exact).sum()
    assert noises["fc2"] == pytest.approx(expected, rel=1e-3)


def test_a_branch_is_measured_by_the_sum_it_joins() -> None:
    signals = {x.name: str(joined_signal(x).name) for x in find_layers(small_network())}
    assert (signals["pw"], signals["fc2"]) == ("f", "features")
    assert signals["dw"] == "d"


def test_the_model_is_left_alone_and_photos_are_needed() -> None:
    model = small_network()
    known = calibrate(model, photo_feeds())
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    measure_sensitivity(model, known, photo_feeds(1))
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    with pytest.raises(CalibrationError, match="no photos"):
        measure_sensitivity(model, known, [])


def test_depths_count_the_layers_before_a_layer_on_its_longest_path() -> None:
    depths = {layer.name: depth for layer, depth in layer_depths(small_network())}
    assert depths == {"stem": 0, "dw": 1, "pw": 2, "fc1": 3, "fc2": 4, "head": 5}


class TestFallBack:
    NAMES = tuple(f"layer{i}" for i in range(20))

    @pytest.mark.parametrize("needed", [0, 1, 2, 3, 5, 8, 10, 17])
    def test_the_fewest_layers_are_left_out(self, needed: int) -> None:
        asked: list[int] = []

        def holds(skip: frozenset[str]) -> bool:
            asked.append(len(skip))
            return skip >= set(self.NAMES[:needed])

        assert fall_back(self.NAMES, holds) == frozenset(self.NAMES[:needed])
        assert len(asked) == len(set(asked)) <= 10

    def test_a_gate_that_never_holds_is_an_error(self) -> None:
        with pytest.raises(ExportError, match="18 of 20 layers left out, the worst of them layer0"):
            fall_back(self.NAMES, lambda _: False)

    def test_all_layers_may_be_left_out_where_that_is_asked_for(self) -> None:
        everything = frozenset(self.NAMES)
        assert fall_back(self.NAMES, lambda skip: skip == everything, 50) == everything

    def test_a_graph_without_layers_holds_or_fails(self) -> None:
        assert fall_back((), lambda _: True) == frozenset()
        with pytest.raises(ExportError):
            fall_back((), lambda _: False)
