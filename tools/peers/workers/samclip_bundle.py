"""A bundle of samclip, in samclip's own environment, by its public interface."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from samclip.benchmarks.latency.contenders import Variant, open_variant
from samclip.benchmarks.latency.photo_pipeline import CLASSIFY, COARSE, POINT, names_for
from samclip.benchmarks.latency.timed import Step, TimedBackend
from samclip.errors import UntrainedHeadWarning
from samclip.runtime.pixels.image import load_image
from samclip.runtime.scene import Scene


def load(setup: Any) -> Any:
    """Open the bundle `bundle` of the options on their `backend`, in their `precision`."""
    warnings.simplefilter("ignore", UntrainedHeadWarning)
    given = setup.options
    variant = Variant(given["bundle"], given["backend"], given["precision"], setup.threads)
    cache = tempfile.mkdtemp(dir=given["scratch"])  # of texts, where no earlier run's are
    model, backend = open_variant(variant, Path(cache), TimedBackend)
    setup.facts["backend"] = backend.name
    setup.facts["precision"] = backend.precisions["encoder"]
    asked = names_for(model)
    names = model.vocabulary(asked) if asked else None
    clock = backend.clock

    def run(photo: str, watch: Any) -> None:
        step: Step[Scene] = clock.time(lambda: model.encode(load_image(photo)))
        watch.add("prepare", step.rest)
        watch.add("encoder", step.seconds - step.rest)
        with step.answer as scene:
            height, width = scene.size
            middle = [(width / 2, height / 2)]
            tasks: dict[str, Callable[[], object]] = {POINT: lambda: scene.segment(points=middle)}
            if names is not None:
                tasks[CLASSIFY] = lambda: scene.classify(names)
                tasks[COARSE] = lambda: scene.semantic(names)
            for name, task in tasks.items():
                watch.add(name, clock.time(task).seconds)

    return run
