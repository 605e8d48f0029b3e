"""The losses of prompted instances against references in numpy and float64."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from tiny_ovsam_run import colour_labels

from samclip.merge.config.stages import EmbedLossConfig, InstanceLossConfig
from samclip.merge.data.labels import UNNAMED
from samclip.merge.training.losses import embedding_loss
from samclip.merge.training.objective import label_loss, mask_losses, sample_maps, uncertain_points

EVERY_PIXEL = InstanceLossConfig()
WHOLE = (1.0, 1.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    logits = 3 * torch.randn(3, 8, 8, generator=seeded(1))
    return logits, torch.rand(3, 8, 8, generator=seeded(2)) > 0.6


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def test_masks_against_numpy() -> None:
    logits, targets = drawn()
    found = mask_losses(logits, targets, WHOLE, EVERY_PIXEL, seeded())
    for one, (x, y) in enumerate(zip(logits.double().numpy(), targets.numpy(), strict=True)):
        p = sigmoid(x)
        entropy = -np.where(y, np.log(p), np.log(1 - p)).mean()
        dice = 1 - (2 * p[y].sum() + 1) / (p.sum() + y.sum() + 1)
        # float32
        np.testing.assert_allclose([found[0][one], found[1][one]], [entropy, dice], rtol=1e-5)


def test_padding_does_not_count() -> None:
    logits, targets = drawn()
    part = mask_losses(logits, targets, (5 / 8, 0.7), EVERY_PIXEL, seeded())
    cut = mask_losses(logits[:, :5, :6], targets[:, :5, :6], WHOLE, EVERY_PIXEL, seeded())
    assert all(torch.equal(a, b) for a, b in zip(part, cut, strict=True))


def test_points_lie_in_the_picture_and_mostly_where_masks_are_unsure() -> None:
    ramp = torch.linspace(-8, 8, 32).expand(2, 32, 32)  # 0 in the middle columns
    config = InstanceLossConfig(points=200, oversample=4.0, uncertain=0.75)
    points = uncertain_points(ramp, (0.5, 1.0), config, seeded())
    assert points.shape == (2, 200, 2)
    assert float(points[..., 1].max()) <= 0.5
    unsure = sample_maps(ramp, points).abs()
    assert float(unsure[:, :150].max()) < 2.5  # the quarter nearest to 0 of four times as many
    assert float(unsure[:, 150:].max()) > 6


def test_sampling_between_pixels() -> None:
    maps = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    points = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.5, 0.5]]])
    assert sample_maps(maps, points).tolist() == [[0.0, 1.0, 1.5]]


def test_points_and_pixels_agree_on_flat_masks() -> None:
    flat = torch.tensor([-1.0, 2.0]).reshape(2, 1, 1).expand(2, 8, 8)
    targets = torch.ones(2, 8, 8, dtype=torch.bool)
    dense = mask_losses(flat, targets, WHOLE, EVERY_PIXEL, seeded())
    config = InstanceLossConfig(points=64)
    points = mask_losses(flat, targets, WHOLE, config, seeded())
    torch.testing.assert_close(points, dense)  # 64 values either way


def test_labels_against_numpy() -> None:
    labels = colour_labels()
    embeds = torch.randn(4, 8, generator=seeded(3))
    wanted = torch.tensor([2, UNNAMED, 0, 1])
    rows, text = embeds.double().numpy(), labels.text.double().numpy()
    cosines = rows / np.linalg.norm(rows, axis=1, keepdims=True) @ text.T
    scores = np.exp(4.6052) * np.stack(
        [cosines[:, 0], cosines[:, 1:3].max(axis=1), cosines[:, 3], np.zeros(4)], axis=1
    )
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    expected = -(logs[0, 2] + logs[2, 0] + logs[3, 1]) / 3
    found = label_loss(embeds, wanted, labels)
    np.testing.assert_allclose(float(found), expected, rtol=1e-4)  # cosines of float32 times 100


def test_no_names_cost_nothing() -> None:
    embeds = torch.randn(2, 8, requires_grad=True)
    loss = label_loss(embeds, torch.tensor([UNNAMED, UNNAMED]), colour_labels())
    loss.backward()
    assert float(loss.detach()) == 0
    assert embeds.grad is not None
    assert not embeds.grad.any()


def test_squared_error_of_embeddings_against_numpy() -> None:
    ours, theirs = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    valid = torch.ones(2, 4, 4)
    valid[1, 2:] = 0
    config = EmbedLossConfig(cosine=0, smooth_l1=0, squared=1)
    found = embedding_loss(ours, theirs, valid, config)
    squares = (ours.double().numpy() - theirs.double().numpy()) ** 2
    expected = [squares[0].mean(), squares[1, :, :2].mean()]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
