import pytest
import torch
from torch import Tensor

from samclip.errors import TrainingError
from samclip.merge.training.stitching import NormalEquations


def rows(count: int, features: int = 5) -> Tensor:
    return torch.randn(count, features, generator=torch.Generator().manual_seed(0))


def test_a_linear_map_is_recovered() -> None:
    x = rows(200)
    weight, bias = torch.randn(5, 3), torch.randn(3)
    equations = NormalEquations(5, 3)
    for part in x.split(70):  # photo by photo is as good as at once
        equations.add(part, part @ weight + bias)
    found, offset = equations.solve(0.0)
    assert equations.rows == 200
    # float64 sums of float32 rows
    torch.testing.assert_close(found, weight, rtol=0, atol=1e-5)
    torch.testing.assert_close(offset, bias, rtol=0, atol=1e-5)


def test_noise_is_averaged_as_least_squares_do() -> None:
    x = rows(500)
    y = x @ torch.randn(5, 2) + torch.randn(500, 2)
    equations = NormalEquations(5, 2)
    equations.add(x, y)
    weight, bias = equations.solve(0.0)
    design = torch.cat([x, torch.ones(500, 1)], dim=1).double()
    expected = torch.linalg.lstsq(design, y.double()).solution
    torch.testing.assert_close(
        torch.cat([weight, bias[None]]).double(), expected, rtol=0, atol=1e-5
    )


def test_a_ridge_shrinks_the_weights_and_not_the_bias() -> None:
    x = rows(200) - rows(200).mean(dim=0)
    equations = NormalEquations(5, 1)
    equations.add(x, x @ torch.ones(5, 1) + 7)
    free, strict = equations.solve(0.0), equations.solve(10.0)
    assert strict[0].norm() < 0.2 * free[0].norm()
    assert strict[1].item() == pytest.approx(7, abs=1e-4)


def test_equations_without_a_solution() -> None:
    with pytest.raises(TrainingError, match="no photos"):
        NormalEquations(2, 1).solve(0.0)
    twice = NormalEquations(2, 1)
    twice.add(torch.ones(4, 2), torch.ones(4, 1))
    with pytest.raises(TrainingError, match="more photos or a larger ridge"):
        twice.solve(0.0)


def test_scales_are_root_mean_squares() -> None:
    equations = NormalEquations(2, 1)
    equations.add(torch.tensor([[3.0, 0.0], [4.0, 0.0]]), torch.zeros(2, 1))
    assert equations.scales().tolist() == pytest.approx([12.5**0.5, 0])
