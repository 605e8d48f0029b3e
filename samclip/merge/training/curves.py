"""`curves.png`: the losses of a run over its steps, and its scores on held-back photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.disk.partial_files import result_file
from samclip.errors import TrainingError
from samclip.merge.training.evaluation import Evaluation, read_records
from samclip.merge.training.objective import TERMS
from samclip.merge.training.step_log import StepLog

FILE = "curves.png"
SCORES = {
    "score": "score",
    "mask IoU": "mask_iou",
    "region names": "region_names",
    "image names": "image_names",
}
# Okabe and Ito, 2008: colours that people with colour blindness can distinguish.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
SMOOTHED = 40  # the running mean extends over a 40th of a stage to either side
WIDTH = 9.0  # inches
PANEL_HEIGHT = 2.1  # inches

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """A loss during one stage: `x` in steps of the whole run, `y` its values."""

    x: Floats
    y: Floats

    def smooth(self) -> Floats:
        """Return the running mean of `y`, over fewer values at the ends."""
        window = np.ones(max(1, len(self.y) // SMOOTHED) * 2 - 1)
        inside = np.convolve(np.ones_like(self.y), window, "same")
        return np.asarray(np.convolve(self.y, window, "same") / inside)


@dataclass(frozen=True)
class Curves:
    """The curves of a run; positions are steps of the whole run, one stage after the other.

    `stages`: the position where each begins, by name. `losses`: a line for every stage that has the
    loss. `scores`: by figure, (position, value) in the order of the stages.
    """

    stages: Mapping[str, float] = field(default_factory=dict)
    losses: Mapping[str, Sequence[Line]] = field(default_factory=dict)
    scores: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)


def read_curves(
    rows: Sequence[Mapping[str, str]], records: Sequence[Evaluation], stages: Sequence[str]
) -> Curves:
    """Collect the curves of a run from the rows of its log and its evaluations.

    `stages` are the names of its stages in order; those that have not begun are left out.
    """
    lengths = dict.fromkeys(stages, 0)
    for row in rows:
        if row["stage"] in lengths:
            lengths[row["stage"]] = max(lengths[row["stage"]], int(row["step"]) + 1)
    ends = dict(zip(stages, np.cumsum([lengths[name] for name in stages]).tolist(), strict=True))
    starts = {name: float(ends[name] - lengths[name]) for name in stages}
    begun = {row["stage"] for row in rows} | {record.stage for record in records}
    losses = {term: _loss_lines(rows, term, starts) for term in TERMS}
    scores: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        if record.stage in starts:
            end = ends[record.stage]
            x = end if record.step is None else starts[record.stage] + record.step
            for label, name in SCORES.items():
                scores.setdefault(label, []).append((x, getattr(record, name)))
    return Curves(
        stages={name: starts[name] for name in stages if name in begun},
        losses={term: lines for term, lines in losses.items() if lines},
        scores={label: sorted(points) for label, points in scores.items()},
    )


def draw_curves(folder: Path, stages: Sequence[str]) -> Path:
    """Draw the log and the evaluations in a run's folder to `curves.png` there; returns its path.

    `stages` as for `read_curves`. Raises TrainingError where matplotlib is not installed, and for
    a file that is not the log of a run.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an optional package, and a slow one
    except ImportError as error:
        raise TrainingError(
            f"{FILE} needs matplotlib, which is not installed here; pip install matplotlib"
        ) from error
    rows = StepLog(folder / "log.csv").rows()
    curves = read_curves(rows, read_records(folder / "evaluation.json"), stages)
    panels = [*curves.losses, *(["held-back photos"] if curves.scores else [])]
    figure = Figure(figsize=(WIDTH, PANEL_HEIGHT * max(1, len(panels))), layout="constrained")
    grid = figure.subplots(max(1, len(panels)), 1, sharex=True, squeeze=False)[:, 0]
    for axes, title in zip(grid, panels, strict=False):
        if title in curves.losses:
            _draw_loss(axes, title, curves.losses[title])
        else:
            _draw_scores(axes, title, curves.scores)
    for axes in grid:
        _mark_stages(axes, curves.stages, named=axes is grid[0])
    grid[-1].set_xlabel("step")
    with result_file(folder / FILE) as file:
        figure.savefig(file, format="png", dpi=120)
    return folder / FILE


def _loss_lines(
    rows: Sequence[Mapping[str, str]], term: str, starts: Mapping[str, float]
) -> list[Line]:
    """Collect the values of one loss, a line for each stage that has it."""
    lines = []
    for stage, start in starts.items():
        own = [row for row in rows if row["stage"] == stage and row[term]]
        if own:
            steps = np.array([float(row["step"]) for row in own])
            lines.append(Line(start + steps, np.array([float(row[term]) for row in own])))
    return lines


def _draw_loss(axes: Any, title: str, lines: Sequence[Line]) -> None:
    """Draw one loss: every step faintly, the running mean clearly."""
    colour = COLOURS[1]
    for line in lines:
        axes.plot(line.x, line.y, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(line.x, line.smooth(), color=colour, linewidth=1.6)
    if all((line.y > 0).all() for line in lines):
        axes.set_yscale("log")
    axes.set_ylabel(title)
    axes.grid(alpha=0.2, which="both")


def _draw_scores(
    axes: Any, title: str, scores: Mapping[str, Sequence[tuple[float, float]]]
) -> None:
    for colour, (label, points) in zip(COLOURS, scores.items(), strict=False):
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=colour, marker="o", markersize=3.5, linewidth=1.2, label=label)
    axes.set_ylim(0, 1)
    axes.set_ylabel(title)
    axes.grid(alpha=0.2)
    axes.legend(loc="lower right", fontsize="small", ncols=len(scores), framealpha=0.6)


def _mark_stages(axes: Any, stages: Mapping[str, float], named: bool) -> None:
    """Mark where each stage begins; stages without steps share a position, and so a label."""
    by_start: dict[float, list[str]] = {}
    for name, start in stages.items():
        by_start.setdefault(start, []).append(name)
    for start, names in by_start.items():
        axes.axvline(start, color="#999999", linewidth=0.8, linestyle="--")
        if named:
            axes.annotate(
                ", ".join(names),
                (start, 1),
                xycoords=("data", "axes fraction"),
                xytext=(2, 3),
                textcoords="offset points",
                fontsize="small",
                parse_math=False,
            )
