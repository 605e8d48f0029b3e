"""The fit of taught names: what it learns, and what its replay keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from samclip.errors import TrainingError
from samclip.export.models.taught_names import TaughtConfig, TaughtTexts
from samclip.merge.config.stages import TeachStage
from samclip.merge.training.teaching import (
    LabelledRows,
    ReplayRows,
    balance,
    expected_calibration_error,
    fit_taught,
)

DIM, FEATURES, CONCEPTS = 32, 8, 3
STAGE = TeachStage(
    name="names", vocabulary="names.txt", sources=(), epochs=30, batch=32, learning_rate=2e-2
)


def taught_texts() -> TaughtTexts:
    generator = torch.Generator().manual_seed(0)
    rows = torch.linalg.qr(torch.randn(DIM, CONCEPTS, generator=generator)).Q.T
    texts = TaughtTexts(TaughtConfig(concepts=CONCEPTS, texts=1, embed_dim=DIM))
    texts.set_texts(rows[:, None])
    return texts


def labelled(count: int = 240) -> LabelledRows:
    """Features whose largest of the first three values is the concept; ConSE knows nothing."""
    generator = torch.Generator().manual_seed(1)
    features = torch.rand(count, FEATURES, generator=generator)
    concepts = features[:, :CONCEPTS].argmax(dim=1)
    return LabelledRows(features, torch.zeros(count, FEATURES), torch.zeros(count, DIM), concepts)


def test_a_fit_names_what_its_labels_teach() -> None:
    rows, seen = labelled(), []
    branch = fit_taught(
        STAGE, taught_texts(), rows, None, torch.Generator().manual_seed(0), seen.append
    )
    with torch.inference_mode():
        answers = branch.local(rows.features).argmax(dim=1)
    assert (answers == rows.concepts).float().mean() > 0.9  # chance is 0.33
    assert len(seen) == 30 * 8


def test_replay_keeps_the_names_that_no_label_teaches() -> None:
    """Photos of other things look like concept 0 and are taught as nothing."""
    texts, rows = taught_texts(), labelled()
    other = F.normalize(torch.randn(1, DIM, generator=torch.Generator().manual_seed(3)), dim=1)
    names = torch.cat([texts.texts, other])
    features = torch.zeros(60, FEATURES)
    features[:, 0] = 1.0
    replay = ReplayRows(features, 0.1 * other.expand(60, -1), names)

    def score(strength: float) -> float:
        stage = TeachStage(
            name="names", vocabulary="v", sources=(), epochs=30, batch=32, replay=strength
        )
        generator = torch.Generator().manual_seed(0)
        branch = fit_taught(stage, texts, rows, replay, generator, lambda _: None)
        with torch.inference_mode():
            return float((branch.local(features) + branch.context(features))[0, 0])

    assert score(2.0) < score(0.0) - 1  # in logits


def test_a_fit_without_rows_is_refused() -> None:
    none = LabelledRows(
        torch.zeros(0, FEATURES), torch.zeros(0, FEATURES), torch.zeros(0, DIM), torch.zeros(0)
    )
    with pytest.raises(TrainingError, match="no labelled region"):
        fit_taught(STAGE, taught_texts(), none, None, torch.Generator(), lambda _: None)


def test_rare_concepts_weigh_more() -> None:
    weights = balance(torch.tensor([0, 0, 0, 0, 1]), 2, 0.5)
    assert weights.mean() == pytest.approx(1.0)
    assert weights[4] / weights[0] == pytest.approx(2.0)  # sqrt(4 / 1)


def test_calibration_error_is_the_gap_of_confidence() -> None:
    correct = np.asarray([True, True, False, False])
    assert expected_calibration_error(np.full(4, 0.5), correct) == pytest.approx(0)
    assert expected_calibration_error(np.full(4, 0.9), correct) == pytest.approx(0.4)
