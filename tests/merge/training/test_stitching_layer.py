import torch
from torch import Tensor

from samclip.merge.config.stages import HiddenConfig
from samclip.merge.training.stitching import (
    NormalEquations,
    SampledRows,
    StitchLayer,
    fit_hidden_layer,
)

FEATURES, TARGETS, HIDDEN = 4, 2, 16


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def folded(x: Tensor) -> Tensor:
    """Targets that are not linear in x."""
    return torch.stack([x[:, 0].abs(), x[:, 1] * 3 + (x[:, 2] - 0.5).relu()], dim=1)


def fitted(x: Tensor) -> tuple[NormalEquations, StitchLayer]:
    equations = NormalEquations(FEATURES, TARGETS)
    equations.add(x, folded(x))
    weight, bias = equations.solve(0.0)
    return equations, StitchLayer(equations.scales(), weight, bias, HIDDEN, generator())


def test_begins_as_the_closed_form() -> None:
    x = torch.randn(500, FEATURES, generator=generator()) * torch.tensor([1.0, 50.0, 1.0, 0.1])
    equations, layer = fitted(x)
    weight, bias = equations.solve(0.0)
    # float32, standardised and back
    torch.testing.assert_close(layer(x), x @ weight + bias, rtol=1e-4, atol=1e-4)


def test_learns_a_nonlinear_map_and_returns_its_weights() -> None:
    x = torch.randn(4000, FEATURES, generator=generator())
    _, layer = fitted(x)
    rows, reports = SampledRows(1000, generator()), []
    for photo in x.split(2000):
        rows.add(photo, folded(photo))
    before = (layer(x) - folded(x)).square().mean().item()
    config = HiddenConfig(places=1000, steps=400, batch=256, learning_rate=2e-2)
    fit_hidden_layer(layer, rows, config, generator(), reports.append)
    assert len(reports) == 400
    assert (layer(x) - folded(x)).square().mean().item() < 0.05 * before
    found = layer.weights()
    seen = x @ found.weight + found.bias
    expected = seen[:, :TARGETS] + seen[:, TARGETS:].relu() @ found.project
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)  # float32


def test_rows_are_drawn_from_every_photo() -> None:
    rows = SampledRows(3, generator())
    for value in (1.0, 2.0):
        rows.add(torch.full((10, 2), value), torch.full((10, 1), value))
    rows.add(torch.full((2, 2), 3.0), torch.full((2, 1), 3.0))  # fewer than asked for
    features, targets = rows.take()
    assert features[:, 0].tolist() == [1, 1, 1, 2, 2, 2, 3, 3]
    assert torch.equal(features[:, :1], targets)


def test_weak_features_are_not_learned() -> None:
    x = torch.randn(500, FEATURES, generator=generator()) * torch.tensor([1.0, 1.0, 1.0, 1e-3])
    equations = NormalEquations(FEATURES, TARGETS)
    equations.add(x, folded(x))
    weight, bias = equations.solve(1e-6)
    layer = StitchLayer(equations.scales(), weight, bias, HIDDEN, generator())
    rows = SampledRows(500, generator())
    rows.add(x, folded(x))
    fit_hidden_layer(layer, rows, HiddenConfig(steps=5, batch=64), generator(), lambda _: None)
    found = layer.weights().weight
    assert found.isfinite().all()
    assert torch.equal(found[3:, :TARGETS], weight[3:])
    assert (found[3:, TARGETS:] == 0).all()
    assert (found[:3] != torch.cat([weight, torch.zeros(4, HIDDEN)], dim=1)[:3]).any(dim=1).all()
