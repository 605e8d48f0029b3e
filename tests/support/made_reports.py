"""Reports as benchmarks write them, with figures made up: two models, timed, measured, judged."""

from __future__ import annotations

from typing import Any

import numpy as np
from made_profiles import made_profile

from samclip.benchmarks.latency.results import make_rows
from samclip.benchmarks.measurements import (
    ClockRange,
    Conditions,
    GraphRoofline,
    MemoryUse,
    Rate,
    Roofline,
    RunSettings,
    Timing,
)
from samclip.benchmarks.profiling.operators import make_rows as make_profile_rows
from samclip.benchmarks.records import Data, Machine, Report, Row, Subject, Threads
from samclip.benchmarks.roofline.jetson_estimates import NOTE, estimate

WHOLE = "photo file to three answers"
STAGES = {"decode": 0.006, "resize and normalise": 0.008, "encoder": 0.41, "CLIP head": 0.024,
          "compare names": 0.0004, "mask decoder": 0.031, "upscale masks": 0.007,
          "upscale semantic map": 0.012, "other": 0.0006}  # fmt: skip
MACHINE = Machine(
    cpu="AMD EPYC 7B13", logical_cores=2, usable_cores=2, memory=24 * 2**30, system="Linux",
    machine="x86_64", python="3.11.2", jetson=None, gpus=(), packages={"onnxruntime": "1.31.1"},
)  # fmt: skip
THREADS = Threads(asked=None, engine=2, opencv=2, torch=None, environment={}, load=(1.6, 1.2, 0.9))


def report(benchmark: str, *names: str, **fields: Any) -> Report:
    """A report of models called `names`, each of a separate bundle."""
    subjects = tuple(
        Subject(name=name, role="measured", backend="onnxruntime", precision="fp32",
                manifest_sha256=f"{place:064x}")
        for place, name in enumerate(names)
    )  # fmt: skip
    given: dict[str, Any] = {
        "benchmark": benchmark, "command": f"samclip-bench {benchmark} --json r.json",
        "date": "2026-11-21T17:00:00+00:00", "seconds": 93.4, "samclip": "0.5.0",
        "machine": MACHINE, "threads": THREADS, "subjects": subjects, "rows": (),
        "data": Data(path="photos", layout="photos", photos=5, photos_there=5),
        "protocol": ("Every sample is kept.",),
    }  # fmt: skip
    return Report(**(given | fields))


def timings(model: str, factor: float = 1.0, n: int = 40) -> tuple[Timing, ...]:
    """A pipeline with stages that add up to it, two tasks, and a cold first answer."""
    rng = np.random.default_rng(0)
    noise = {name: mean * factor * rng.gamma(60, 1 / 60, n) for name, mean in STAGES.items()}
    stages = [
        Timing(
            model=model,
            kind="stage",
            name=name,
            samples=tuple(values.tolist()),
            part_of=WHOLE,
            photos=5,
        )
        for name, values in noise.items()
    ]
    whole = tuple(sum(noise.values()).tolist())
    made = {"segment a point": 0.04, "embed 20 names": 0.21}
    tasks = [
        Timing(model=model, kind="task", name=name, photos=5, item="prompt",
               samples=tuple((mean * factor * rng.gamma(50, 1 / 50, n)).tolist()))
        for name, mean in made.items()
    ]  # fmt: skip
    pipeline = Timing(model=model, kind="pipeline", name=WHOLE, samples=whole, photos=5)
    cold = Timing(model=model, kind="process", name="new process to first mask", state="cold",
                  samples=tuple((1.3 * factor + rng.random(3) * 0.2).tolist()))  # fmt: skip
    return (pipeline, *stages, *tasks, cold)


def latency(*models: str) -> Report:
    """Models of which each is slower than the one before."""
    found = tuple(t for place, m in enumerate(models) for t in timings(m, 1 + 0.6 * place))
    settings = tuple(
        RunSettings(model=m, backend="onnxruntime", precisions={"encoder": "fp32"}, threads=None,
                 device=0, cuda_graphs=None, transfers="none", warm_up=2, repeats=40)
        for m in models
    )  # fmt: skip
    clocks = (ClockRange(name="policy0", lowest=1.5e9, highest=3.2e9),)
    conditions = Conditions(power_mode="performance", clocks=clocks, clocks_pinned=False,
                            order="photo by photo, models in turn")  # fmt: skip
    return report(
        "latency", *models, timings=found, settings=settings, conditions=conditions,
        rows=make_rows(found),
    )  # fmt: skip


def memory(*models: str) -> Report:
    stages = {"import samclip": 62, "load": 214, "encode": 466, "three answers": 513}
    found = tuple(
        MemoryUse(model=m, stage=stage, peaks=(peak * 2**20, peak * 2**20 + 5000), disk=peak << 18,
                  device_reason="no NVIDIA GPU")
        for m in models
        for stage, peak in stages.items()
    )  # fmt: skip
    return report("memory", *models, memory=found)


def roofline(model: str) -> Report:
    graphs = tuple(
        GraphRoofline(
            model=model, graph=graph, backend="onnxruntime", precision="fp32", sizes=sizes,
            macs={"float32": macs}, parameters=macs // 5000, weight_bytes=macs // 1000,
            activation_bytes=macs // 6, io_bytes=10**7, samples=(seconds, seconds * 1.1),
            ideal=2 * macs / 3.2e11, reached=2 * macs / 3.2e11 / seconds, operators=(),
        )
        for graph, macs, seconds, sizes in (
            ("encoder", 55_580_000_000, 0.62, {}),
            ("mask_decoder", 1_040_000_000, 0.02, {"prompts": 1, "points": 2}),
        )
    )  # fmt: skip
    rates = (
        Rate(arithmetic="fp32", per_second=3.2e11, how="MatMul, onnxruntime", threads=2, runs=12),
        Rate(arithmetic="int8", per_second=9.1e11, how="MatMul, Q/DQ", threads=2, runs=12),
        Rate(arithmetic="copy", per_second=2.5e10, how="numpy copy", threads=2, runs=12),
    )
    found = Roofline(graphs=graphs, rates=rates, estimates=estimate(graphs), estimate_note=NOTE)
    return report("roofline", model, roofline=found)


def profile(model: str) -> Report:
    profiles = (made_profile(model), made_profile(model, "mask_decoder"))
    rows = make_profile_rows(profiles)
    return report("profile", model, profiles=profiles, rows=rows)


def accuracy(*models: str, seconds: bool = False) -> Report:
    """Box mIoU and top-1, each model a little better; with seconds a photo as baselines have."""
    rows = [
        Row(model=m, measure=measure, subset="all objects", value=value + 0.06 * place,
            low=value + 0.06 * place - 0.02, high=value + 0.06 * place + 0.02, n=900, photos=200)
        for place, m in enumerate(models)
        for measure, value in (("box mIoU", 0.71), ("top-1", 0.42))
    ]  # fmt: skip
    if seconds:
        rows += [
            Row(model=m, measure="seconds a photo", subset="all photos", value=0.6 + place, low=0.5,
                high=1.8, n=200, photos=200, unit="seconds")
            for place, m in enumerate(models)
        ]  # fmt: skip
    return report("accuracy instances", *models, rows=tuple(rows))
