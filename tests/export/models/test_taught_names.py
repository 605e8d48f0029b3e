"""Joint embeddings of names and pictures: what taught names gain, and what others keep."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from samclip.errors import InputError
from samclip.export.models.conse_head import ConseHead, ConseHeadConfig
from samclip.export.models.taught_names import TaughtConfig, TaughtScores, TaughtTexts

DIM = 64
CONFIG = TaughtConfig(concepts=3, texts=2, embed_dim=DIM)


def orthogonal(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.linalg.qr(torch.randn(DIM, count, generator=generator)).Q.T


def taught_texts(rows: Tensor) -> TaughtTexts:
    texts = TaughtTexts(CONFIG)
    texts.set_texts(rows.reshape(3, 2, DIM))
    return texts


def test_taught_names_get_their_score_and_far_names_keep_conse() -> None:
    vectors = orthogonal(8)
    texts = taught_texts(vectors[:6])
    names = torch.stack([vectors[0], vectors[3], vectors[7]])  # of concept 0, of concept 1, of none
    joint = texts(names * 5)  # lengths do not matter
    assert torch.allclose(joint.norm(dim=1), torch.ones(3), atol=1e-5)

    conse = torch.randn(4, DIM, generator=torch.Generator().manual_seed(1)) * 0.3
    scores = torch.tensor([[2.0, -1.0, 4.0]]).expand(4, 3)
    branch = TaughtScores(5, CONFIG)
    logits = CONFIG.logit_scale * branch.join(conse, scores) @ joint.T
    plain = CONFIG.conse_scale * conse @ names.T
    # The gate of a taught name is within 1e-4 of 1, and its neighbours' shares within 1e-9 of 0.
    assert torch.allclose(logits - plain, torch.tensor([2.0, -1.0, 0.0]).expand(4, 3), atol=1e-3)


def test_the_gate_opens_smoothly_with_the_cosine() -> None:
    vectors = orthogonal(7)
    texts = taught_texts(vectors[:6])
    cosines = torch.linspace(0, 1, 21)
    names = cosines[:, None] * vectors[0] + (1 - cosines[:, None] ** 2).sqrt() * vectors[6]
    gates = texts(names)[:, DIM] * 2**0.5  # the share of concept 0
    assert (gates.diff() > 0).all()
    assert gates[0] < 1e-4 and gates[-1] > 0.99  # 1e-4: far names take nothing
    assert (gates.diff() < 0.5).all()  # no step


def test_the_mean_of_tokens_scores_as_the_mean_of_their_features() -> None:
    config = ConseHeadConfig(width=6, embed_dim=DIM, grid=4, levels=2, classes=10, taught=CONFIG)
    head = ConseHead(config).eval()
    branch = head.taught
    assert branch is not None
    for weight in branch.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    maps, mask = torch.randn(1, 12, 4, 4), torch.ones(1, 4, 4)
    mask[:, :, 3] = 0
    with torch.inference_mode():
        image, patches = head(maps, mask)
    assert image.shape == (1, CONFIG.joint_dim) and patches.shape == (1, CONFIG.joint_dim, 4, 4)
    inside = patches[0, :, :, :3].mean(dim=(1, 2))
    taught = slice(DIM, DIM + CONFIG.concepts)
    scores = image[0, taught] / CONFIG.image_share
    assert torch.allclose(inside[taught], scores, atol=1e-5)  # float32, sums of 16
    assert (patches[0, -1] == 1).all() and (patches[0, -2] == 0).all()


def test_names_that_nothing_taught_can_be_given_a_constant() -> None:
    vectors = orthogonal(7)
    joint = taught_texts(vectors[:6])(torch.stack([vectors[0], vectors[6]]))
    branch = TaughtScores(5, replace(CONFIG, untaught=2.5))
    picture = branch.join(torch.zeros(1, DIM), torch.zeros(1, 3))
    logits = CONFIG.logit_scale * picture @ joint.T
    assert logits[0, 0] == pytest.approx(0, abs=0.1)  # the gate of a taught name is nearly 1
    assert logits[0, 1] == pytest.approx(2.5, abs=1e-3)


def test_a_new_branch_changes_no_order_of_names() -> None:
    torch.manual_seed(0)
    plain = ConseHead(ConseHeadConfig(width=6, embed_dim=DIM, grid=4, classes=10)).eval()
    plain.set_names(F.normalize(torch.randn(10, DIM), dim=1))
    maps, mask = torch.randn(1, 6, 4, 4), torch.ones(1, 4, 4)
    names = F.normalize(torch.randn(12, DIM), dim=1)
    with torch.inference_mode():
        before = F.normalize(plain(maps, mask)[0], dim=1) @ names.T
        plain.teach(CONFIG)
        after = F.normalize(plain(maps, mask)[0], dim=1) @ taught_texts(orthogonal(6))(names).T
    assert np.array_equal(before.argsort(dim=1).numpy(), after.argsort(dim=1).numpy())


def test_texts_and_numbers_are_checked() -> None:
    with pytest.raises(InputError, match=r"expected \(3, 2, 64\)"):
        TaughtTexts(CONFIG).set_texts(torch.zeros(3, 1, DIM))
    with pytest.raises(InputError, match="at least 1"):
        TaughtConfig(concepts=0, texts=1, embed_dim=4)
    with pytest.raises(InputError, match="above 0"):
        TaughtConfig(concepts=1, texts=1, embed_dim=4, slope=0)
