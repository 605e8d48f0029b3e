"""`curves.png`: the losses of a run over its steps, and what held-back photos said of it."""

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
from samclip.merge.training.reporting import StepLog

FILE = "curves.png"
SCORES = {
    "score": "score",
    "mask IoU": "mask_iou",
    "region names": "region_names",
    "image names": "image_names",
}
# Okabe and Ito, 2008: colours that those who see few of them tell apart as well.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
SMOOTHED = 40  # the running mean is over the 40th part of a stage
WIDTH, PANEL = 9.0, 2.1  # inches

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
    """What is drawn; positions are steps of the whole run, one stage after the other.

    `stages`: where each begins, by name. `losses`: a line for every stage that has the loss.
    `scores`: by figure, (position, value) in the order of the stages.
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
    begun = {r["stage"] for r in rows} | {record.stage for record in records}
    known = [record for record in records if record.stage in starts]
    return Curves(
        {name: starts[name] for name in stages if name in begun},
        {term: lines for term in TERMS if (lines := _lines(rows, term, starts))},
        {
            label: sorted((_place(record, starts, ends), getattr(record, name)) for record in known)
            for label, name in SCORES.items()
            if known
        },
    )


def draw_curves(folder: Path, stages: Sequence[str]) -> Path:
    """Draw the log and the evaluations in a run's folder to `curves.png` there; returns its path.

    `stages` as for `read_curves`. Raises TrainingError where matplotlib is not installed, or for
    a log that is none.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an optional package, and a slow one
    except ImportError as error:
        raise TrainingError(
            f"{FILE} is drawn by matplotlib, which is not installed here; pip install matplotlib"
        ) from error
    rows = StepLog(folder / "log.csv").rows()
    curves = read_curves(rows, read_records(folder / "evaluation.json"), stages)
    panels = [*curves.losses, *(["held-back photos"] if curves.scores else [])]
    figure = Figure(figsize=(WIDTH, PANEL * max(1, len(panels))), layout="constrained")
    grid = figure.subplots(max(1, len(panels)), 1, sharex=True, squeeze=False)[:, 0]
    for axes, title in zip(grid, panels, strict=False):
        if title in curves.losses:
            _draw_loss(axes, title, curves.losses[title])
        else:
            _draw_scores(axes, title, curves.scores)
    for axes in grid:
        _mark_stages(axes, curves.stages, named=axes is grid[0])
    grid[-1].set_xlabel("step")
    return _save(figure, folder / FILE)


def _lines(rows: Sequence[Mapping[str, str]], term: str, starts: Mapping[str, float]) -> list[Line]:
    """Collect the values of one loss, a line for each stage that has it."""
    lines = []
    for stage, start in starts.items():
        own = [row for row in rows if row["stage"] == stage and row[term]]
        if own:
            steps = np.array([float(row["step"]) for row in own])
            lines.append(Line(start + steps, np.array([float(row[term]) for row in own])))
    return lines


def _place(record: Evaluation, starts: Mapping[str, float], ends: Mapping[str, float]) -> float:
    return ends[record.stage] if record.step is None else starts[record.stage] + record.step


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
    """Mark where each stage begins; stages of no steps share a place, and so a name's line."""
    places: dict[float, list[str]] = {}
    for name, start in stages.items():
        places.setdefault(start, []).append(name)
    for start, names in places.items():
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


def _save(figure: Any, path: Path) -> Path:
    """Write the picture; whatever happens, the file holds either it or the one before."""
    with result_file(path) as file:
        figure.savefig(file, format="png", dpi=120)
    return path
