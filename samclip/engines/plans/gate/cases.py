"""The cases of the gate: what a plan is asked, and FP32's answers.

Photos, texts and prompts come from code that knows the bundle. Noise is made from a seed: it is the
canary of the plan too, made again at each load from the raw numbers of PCG64, which stay the same
in every version of NumPy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samclip.engines.agreement import COSINE
from samclip.engines.base import EngineOptions, GraphSource
from samclip.engines.onnxruntime.backend import CPU
from samclip.engines.plans.gate.verdict import Canary, MadeInput, Measure, Sample
from samclip.engines.plans.record import Record
from samclip.engines.plans.sidecar import AxisRange

Array = NDArray[np.generic]
Feeds = Mapping[str, Array]
# Takes FP32's outputs and an engine's; returns measures by the name of the output they judge.
Comparison = Callable[[Feeds, Feeds], Mapping[str, Mapping[Measure, float]]]

SEED = 20_170_601
SAMPLED = 64  # values of each output
NOISE = "noise"
# Precisions are chosen for photos, and noise is none: so many times the error is allowed on it.
NOISE_SLACK = 10
_FEED, _OUTPUT = "feed.", "output."


@dataclass(frozen=True)
class Case:
    """Inputs of a graph, and FP32's answer to them, all by name; `compare`: see `Question`."""

    name: str
    feeds: Feeds
    expected: Feeds
    compare: Comparison | None = None


@dataclass(frozen=True)
class Question:
    """Inputs of a graph, by name.

    `compare`: measures what the graphs after this one make of an answer, against what they make of
    FP32's; None where there are none.
    """

    name: str
    feeds: Feeds
    compare: Comparison | None = None


@dataclass(frozen=True)
class Trial:
    """All that one plan is asked: `questions`, then noise of the inputs `noise`.

    `reference`: the FP32 graph that answers first, on ONNX Runtime's CPU. Questions may be made
    while they are iterated, so that one of them is in memory at a time.
    """

    reference: GraphSource
    questions: Iterable[Question]
    noise: tuple[MadeInput, ...]


# Makes the trial of a graph for a plan with these ranges of its axes.
TrialMaker = Callable[[Mapping[str, AxisRange]], Trial]


def answer(trial: Trial) -> Iterator[Case]:
    """Let the reference answer one question after the other, the noise last."""
    with closing(CPU.load(trial.reference, EngineOptions())) as engine:
        for question in trial.questions:
            results = engine.run(question.feeds)
            expected = {n: t.numpy() for n, t in results.items()}
            yield Case(question.name, question.feeds, expected, question.compare)
        feeds = make_noise(trial.noise, SEED)
        results = engine.run(feeds)
        yield Case(NOISE, feeds, {n: t.numpy() for n, t in results.items()})


def make_noise(inputs: Sequence[MadeInput], seed: int) -> dict[str, Array]:
    """Make inputs from a seed, the same ones on every machine."""
    raw = np.random.PCG64(seed)
    return {made.name: _made(made, raw) for made in inputs}


def _made(made: MadeInput, raw: np.random.PCG64) -> Array:
    bits = np.atleast_1d(raw.random_raw(int(np.prod(made.shape, dtype=np.int64))))
    shares = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53  # in [0, 1)
    if made.whole or made.dtype in {"int64", "int32", "uint8", "bool"}:
        values = np.floor(made.low + shares * (made.high - made.low + 1))
    else:
        values = made.low + shares * (made.high - made.low)
    return np.asarray(values.reshape(made.shape).astype(made.dtype))


def noise_limit(precision: str) -> float:
    """Return the least cosine on noise."""
    return round(1 - NOISE_SLACK * (1 - COSINE[precision]), 6)


def make_canary(noise: Case, inputs: tuple[MadeInput, ...], precision: str) -> Canary:
    """Sample FP32's answer to the noise."""
    samples = []
    for name, array in noise.expected.items():
        flat = array.reshape(-1)
        places = np.linspace(0, flat.size - 1, min(SAMPLED, flat.size)).astype(np.int64)
        sample = Sample(
            output=name, places=tuple(map(int, places)), values=tuple(map(float, flat[places]))
        )
        samples.append(sample)
    return Canary(seed=SEED, inputs=inputs, samples=tuple(samples), limit=noise_limit(precision))


class CaseFile(Record, frozen=True, kw_only=True):
    """A case that was saved: its name, and its file."""

    name: str
    file: str


def save_case(case: Case, path: Path) -> str:
    """Write a case to a file; return the SHA-256 of its inputs."""
    arrays = {f"{_FEED}{n}": a for n, a in case.feeds.items()}
    arrays |= {f"{_OUTPUT}{n}": a for n, a in case.expected.items()}
    np.savez(path, **arrays)  # type: ignore[arg-type]
    digest = hashlib.sha256()
    for name, array in sorted(case.feeds.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def read_case(name: str, path: Path) -> Case:
    """Read a case that `save_case` wrote."""
    with np.load(path) as stored:
        arrays = dict(stored)
    feeds = {n.removeprefix(_FEED): a for n, a in arrays.items() if n.startswith(_FEED)}
    expected = {n.removeprefix(_OUTPUT): a for n, a in arrays.items() if n.startswith(_OUTPUT)}
    return Case(name, feeds, expected)
