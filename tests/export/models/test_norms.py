from __future__ import annotations

import pytest
import torch
from torch import nn

from samclip.export.models.norms import ConvNorm, fold_batch_norms, same_padding


def random_conv_norm(groups: int = 1) -> ConvNorm:
    """A ConvNorm whose batch norm has lively statistics, in eval mode."""
    torch.manual_seed(0)
    module = ConvNorm(8, 16, 3, stride=2, groups=groups)
    assert isinstance(module.bn, nn.BatchNorm2d)
    assert module.bn.running_mean is not None and module.bn.running_var is not None
    module.bn.running_mean.normal_()
    module.bn.running_var.uniform_(0.1, 3.0)
    nn.init.normal_(module.bn.weight)
    nn.init.normal_(module.bn.bias)
    return module.eval()


def test_folding_computes_the_same() -> None:
    image = torch.randn(2, 8, 10, 12)
    for groups in (1, 8):
        module = random_conv_norm(groups)
        folded = fold_batch_norms(module)
        torch.testing.assert_close(folded(image), module(image), rtol=1e-5, atol=1e-5)


def test_folding_in_double_precision_is_exact() -> None:
    module = random_conv_norm().double()
    image = torch.randn(2, 8, 10, 12, dtype=torch.float64)
    torch.testing.assert_close(fold_batch_norms(module)(image), module(image), rtol=0, atol=1e-13)


def test_folding_leaves_the_model_alone_and_renames_nothing() -> None:
    module = nn.Sequential(random_conv_norm(), nn.GELU()).train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    folded = fold_batch_norms(module)
    assert list(folded.state_dict()) == ["0.c.weight", "0.c.bias"]
    assert not folded.training and module.training
    assert module.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_folding_twice_is_folding_once() -> None:
    once = fold_batch_norms(random_conv_norm())
    twice = fold_batch_norms(once)
    assert all(
        torch.equal(a, b) for a, b in zip(once.parameters(), twice.parameters(), strict=True)
    )


def test_bn_weight_zero_starts_as_nothing() -> None:
    assert not ConvNorm(4, 4, bn_weight=0.0).eval()(torch.randn(1, 4, 3, 3)).any()


def test_odd_kernels_keep_the_size() -> None:
    image = torch.randn(1, 4, 7, 9)
    for kernel_size in (1, 3, 5):
        assert ConvNorm(4, 6, kernel_size)(image).shape == (1, 6, 7, 9)


@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "expected"),
    [  # by TensorFlow's definition: ceil(size / stride) outputs, the odd zero behind
        (64, 3, 2, (0, 1)),
        (64, 5, 2, (1, 2)),
        (65, 3, 2, (1, 1)),
        (65, 5, 2, (2, 2)),
        (7, 3, 1, (1, 1)),
        (4, 1, 2, (0, 0)),
    ],
)
def test_same_padding_by_hand(
    size: int, kernel_size: int, stride: int, expected: tuple[int, int]
) -> None:
    assert same_padding(size, kernel_size, stride) == expected


def test_same_padding_shifts_the_stride() -> None:
    """At an even size the first output looks at values 0 to 2, not at -1 to 1."""
    module = ConvNorm(1, 1, 3, stride=2, same=True).eval()
    nn.init.ones_(module.c.weight)
    image = torch.arange(16.0).reshape(1, 1, 4, 4)  # B, C, H, W
    found = fold_batch_norms(module)(image)[0, 0]
    torch.testing.assert_close(found, torch.tensor([[45.0, 39.0], [66.0, 50.0]]), rtol=1e-4, atol=0)
