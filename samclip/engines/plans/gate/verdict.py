"""The verdict on a plan: how its outputs agreed with FP32's, where, and by which limits.

It is a part of the sidecar. A canary comes with it: one input made from a seed, and a sample of
FP32's answer, by which every later load of the plan is checked in its first run.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from samclip.engines.plans.record import Count, Record, Sha256, Size

State = Literal["passed", "failed", "unjudged", "skipped"]
Run = Literal["alone", "replayed", "together"]
Measure = Literal[
    "cosine",
    "cosine_worst",
    "noise_cosine",
    "magnitude",
    "mask_iou",
    "mask_iou_worst",
    "same_label",
    "finite",
    "repeats",
]
MAX_REASON = 2000


class GateRow(Record, frozen=True, kw_only=True):
    """One measure of agreement with FP32, the worst over all cases; 1 is complete agreement.

    `run`: how the plan ran: "alone", "replayed" from a CUDA graph, or "together" with another run.
    `limit` is None where the measure is only stated. `case` names the worst case.
    """

    output: str
    run: Run
    measure: Measure
    value: Annotated[float, msgspec.Meta(ge=-1, le=1)]
    limit: float | None = None
    case: str = ""

    @property
    def passed(self) -> bool:
        """Whether the value reaches its limit."""
        return self.limit is None or self.value >= self.limit


class MadeInput(Record, frozen=True, kw_only=True):
    """An input that is made from a seed: uniform numbers from `low` to `high`, `whole` or not."""

    name: str
    dtype: Literal["float32", "float16", "int64", "int32", "uint8", "bool"]
    shape: tuple[Count, ...]
    low: float = -1.0
    high: float = 1.0
    whole: bool = False


class Sample(Record, frozen=True, kw_only=True):
    """Values of FP32's answer at places of a flattened output."""

    output: str
    places: tuple[Count, ...]
    values: tuple[float, ...]


class Canary(Record, frozen=True, kw_only=True):
    """One input and a sample of FP32's answer; `limit`: the least cosine of a plan's values."""

    seed: Count
    inputs: tuple[MadeInput, ...]
    samples: tuple[Sample, ...]
    limit: float


class JudgedOn(Record, frozen=True, kw_only=True):
    """The machine that a plan was judged on; names and versions as the driver gives them."""

    gpu: str
    processors: int
    memory: Size
    driver: str | None
    cuda: str
    library_version: str


class Verdict(Record, frozen=True, kw_only=True):
    """What the gate found; `reason` says why a plan has failed, or why it is not judged.

    "unjudged": it is judged when it is loaded first; "skipped": it was built without the gate.
    `reference`: SHA-256 of the FP32 graph; `inputs`: of all that it was asked; `seconds`: taken.
    """

    state: State = "unjudged"
    reason: Annotated[str, msgspec.Meta(max_length=MAX_REASON)] = ""
    rows: tuple[GateRow, ...] = ()
    reference: Sha256 | None = None
    inputs: Sha256 | None = None
    cases: tuple[str, ...] = ()
    machine: JudgedOn | None = None
    canary: Canary | None = None
    seconds: float = 0.0

    @property
    def failures(self) -> tuple[GateRow, ...]:
        """The rows below their limits."""
        return tuple(row for row in self.rows if not row.passed)


UNJUDGED = Verdict()
SKIPPED = Verdict(state="skipped", reason="it was built without the gate")


def failure_table(verdict: Verdict) -> str:
    """Describe a failure in lines: what ended the process, or each row below its limit."""
    lines = [verdict.reason] if verdict.reason else []
    lines += [
        f"{row.output} {row.run}: {row.measure} {row.value:.4f}, at least {row.limit:g} is asked "
        f"for ({row.case})"
        for row in verdict.failures
    ]
    return "".join(f"\n- {line}" for line in lines)
