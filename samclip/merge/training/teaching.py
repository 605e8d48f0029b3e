"""The fit of a head's taught names to labelled regions, with a replay of whole photos.

The features are those of the frozen encoder, pooled once, so a step costs a few matrix products and
no pass over a photo. A region's names compete as they do at run time: ConSE's part of every score
is there from the start, and the branch learns what to add to it. Classes are balanced by weights.

The names of ConSE's own classes compete as well, except those near to a region's concept: so scores
of taught names are right in size, not only in order. The replay shows whole photos. ConSE alone
shares each among its classes' names and the taught ones; with the branch the shares are to stay the
same, so what is taught may not push aside names that no label teaches. This is SAM-CLIP's replay
(Wang et al., arXiv 2310.15308, section 3.2) with labels as a third data set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from samclip.errors import TrainingError
from samclip.export.models.taught_names import SHARE, TaughtScores, TaughtTexts
from samclip.merge.config.stages import TeachStage
from samclip.runtime.results.shares import calibration_gaps

NEAR = 0.45  # cosine of a name with a concept's text above which the two do not compete
SPREAD = 1e-2  # added to each feature's standard deviation, so that dead features stay at rest


@dataclass(frozen=True)
class LabelledRows:
    """N regions or tokens: features, ConSE's embedding, the image's features, and the concept.

    `features` and `context` are NxF, `conse` NxD, `concepts` N int64.
    """

    features: Tensor
    context: Tensor
    conse: Tensor
    concepts: Tensor


@dataclass(frozen=True)
class ReplayRows:
    """M whole photos: pooled features MxF, ConSE's embedding MxD.

    `names` is KxD, text embeddings of unit length, those among which the photos are shared.
    """

    features: Tensor
    conse: Tensor
    names: Tensor


def fit_taught(
    stage: TeachStage,
    texts: TaughtTexts,
    rows: LabelledRows,
    replay: ReplayRows | None,
    generator: torch.Generator,
    advance: Callable[[str], None],
) -> TaughtScores:
    """Fit a branch of scores by Adam, in one cycle of the learning rate, and return it.

    `advance` is called after each step with the loss. Raises TrainingError without rows.
    """
    if not len(rows.features):
        raise TrainingError(f"stage {stage.name!r} found no labelled region; check its sources")
    config = texts.config
    sides = rows.features.float(), rows.context.float()
    spread = [side.std(dim=0) + SPREAD for side in sides]
    mean = [side.mean(dim=0) for side in sides]
    local = nn.Parameter(torch.zeros(rows.features.shape[1], config.concepts))
    context = nn.Parameter(torch.zeros_like(local))
    bias = nn.Parameter(torch.zeros(config.concepts))
    weights = balance(rows.concepts, config.concepts, stage.balance)
    plain = texts.texts.reshape(config.concepts, config.texts, -1)[:, 0]  # CxD
    conse = config.conse_scale * rows.conse @ plain.T  # NxC
    steps = stage.epochs * -(-len(rows.features) // stage.batch)
    adam = torch.optim.Adam([local, context, bias], lr=stage.learning_rate)
    cycle = torch.optim.lr_scheduler.OneCycleLR(adam, stage.learning_rate, total_steps=steps)
    competition = None if replay is None else Replay(replay, texts)

    def scores(features: Tensor, around: Tensor, kept: Tensor | float = 1.0) -> Tensor:
        near = (features - mean[0]) / spread[0]
        far = (around - mean[1]) / spread[1] * kept
        return near @ local + far @ context + bias

    for _ in range(stage.epochs):
        order = torch.randperm(len(rows.features), generator=generator)
        for chosen in torch.split(order, stage.batch):
            kept = torch.rand(len(chosen), 1, generator=generator) >= stage.context_dropout
            near, around = rows.features[chosen].float(), rows.context[chosen].float()
            given = scores(near, around, kept.float())
            logits = conse[chosen] + given
            if competition is not None:
                others = competition.rivals(rows.conse[chosen], given, rows.concepts[chosen])
                logits = torch.cat([logits, others], dim=1)
            losses = F.cross_entropy(logits, rows.concepts[chosen], reduction="none")
            loss = (losses * weights[chosen]).mean()
            if competition is not None and stage.replay:
                picked = torch.randint(len(competition), (stage.batch // 4,), generator=generator)
                seen = competition.rows.features[picked].float()
                loss = loss + stage.replay * competition.loss(picked, scores(seen, seen))
            penalty = stage.decay * local.square().sum()
            penalty = penalty + stage.context_decay * context.square().sum()
            adam.zero_grad(set_to_none=True)
            (loss + penalty).backward()  # type: ignore[no-untyped-call]
            adam.step()
            cycle.step()
            advance(f"loss {loss.item():.3f}")
    branch = TaughtScores(rows.features.shape[1], config)
    with torch.no_grad():
        branch.local.weight.copy_((local / spread[0][:, None]).T)
        branch.context.weight.copy_((context / spread[1][:, None]).T)
        moved = branch.local.weight @ mean[0] + branch.context.weight @ mean[1]
        branch.local.bias.copy_(bias - moved)
    return branch


class Replay:
    """Names that no label teaches, as rivals of taught ones, and whole photos shared among both.

    The loss compares the shares by joint scores with those by ConSE alone.
    """

    def __init__(self, rows: ReplayRows, texts: TaughtTexts) -> None:
        config = texts.config
        self.rows = rows
        joint = texts(rows.names) / SHARE  # KxJ
        self._scale = config.conse_scale
        self._places = joint[:, config.embed_dim : config.embed_dim + config.concepts]  # KxC
        every = texts.texts.reshape(config.concepts, config.texts, -1)  # CxPxD
        self._near = (every @ rows.names.T).amax(dim=1) > NEAR  # CxK
        both = torch.cat([rows.names, every[:, 0]])
        self._conse = config.conse_scale * rows.conse @ both.T  # Mx(K+C)

    def __len__(self) -> int:
        return len(self.rows.features)

    def rivals(self, conse: Tensor, scores: Tensor, concepts: Tensor) -> Tensor:
        """Return logits BxK of the names, for regions of these concepts; -inf for names near them.

        A region of "dog" may well be a "beagle", which is then no rival.
        """
        logits = self._scale * conse @ self.rows.names.T + scores @ self._places.T
        return torch.where(self._near[concepts], -torch.inf, logits)

    def loss(self, photos: Tensor, scores: Tensor) -> Tensor:
        """Return the mean Kullback-Leibler divergence for photos with BxC scores of concepts."""
        conse = self._conse[photos]  # Bx(K+C)
        joint = conse + torch.cat([scores @ self._places.T, scores], dim=1)
        kept = conse.log_softmax(dim=1)
        log_shares = joint.log_softmax(dim=1)
        return F.kl_div(log_shares, kept, reduction="batchmean", log_target=True)


def balance(concepts: Tensor, count: int, power: float) -> Tensor:
    """Return a weight per row, of mean 1: one over the rows of its concept, to `power`."""
    rows = torch.bincount(concepts, minlength=count).clamp(min=1)
    weights = rows[concepts].double().pow(-power)
    return (weights / weights.mean()).float()


def expected_calibration_error(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_]
) -> float:
    """Return the mean gap between confidence and accuracy over bins: see `calibration_gaps`.

    `confidence` are the shares of N answers, `correct` N bool.
    """
    gaps = calibration_gaps(confidence, correct, np.zeros(len(correct), np.intp))
    return float(np.abs(gaps).sum() / max(1, len(confidence)))
