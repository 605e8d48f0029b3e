"""Loading a bundle: its encoder is made ready while the modules of the tasks are imported."""

from __future__ import annotations

import importlib
import logging
import operator
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from samclip.disk.cache_folder import check_cache_dir
from samclip.engines.base import FULL, EngineOptions
from samclip.engines.machine.host import as_memory_error
from samclip.engines.registry import AUTO, Choice, decide, get_backend
from samclip.errors import InputError
from samclip.runtime.backend_choice import (
    check_engine_precision,
    check_precision,
    start_fastest,
)
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.home import find_bundle
from samclip.runtime.bundles.signature import chosen_public_key
from samclip.runtime.devices import check_device, parse_device
from samclip.runtime.opening import open_engines
from samclip.runtime.pixels.limits import check_max_pixels

if TYPE_CHECKING:
    from samclip.runtime.model import Model

MAX_TIMEOUT = 1e6  # seconds
_logger = logging.getLogger("samclip")


@as_memory_error
def load(  # noqa: PLR0913 - each is one choice of a caller
    name_or_path: str | Path | None = None,
    backend: str = "auto",
    *,
    precision: str | None = None,
    engine_precision: str | None = None,
    threads: int | None = None,
    streams: int = 1,
    device: object = None,
    cache_dir: str | Path | None = None,
    public_key: str | Path | None = None,
    max_pixels: int | None = None,
    timeout: float | None = None,
    aspects: str | Sequence[str] | None = None,
    max_shapes: int | None = None,
) -> Model:
    """Load a bundle and make its encoder ready; on CPUs, where there are several, with an image.

    `name_or_path`: a directory, or the name of a bundle in the bundle home or among the bundles
    that come with the package; None means "samclip-tiny".
    `backend`: "onnxruntime", "cuda" and so on, or "auto" for the fastest one that works here and
    that the bundle was made for. A backend that does not start after all, or TensorRT without
    plans of this bundle, is logged as a warning and the next one is tried, see
    `Model.passed_over`.
    `precision`: that of the encoder, and of the other graphs that have it; "int8" means either
    kind of INT8, None the bundle's preference on this backend.
    `engine_precision`: what the engine computes in where a graph is in FP32: "bf16", on processors
    that are made for it, with OpenVINO, or ONNX Runtime on Arm; "fp32"; or None, which is "fp32"
    unless "auto" takes what was measured here. The first load with "bf16" tries the processor and
    compares each graph with FP32, which takes a minute or more; later ones read what was found.
    Outputs that depart from FP32, and the embeddings of texts, are computed in FP32 all the same.
    `threads`: CPU threads for one run of a graph, at most the number of processors; None means a
    stream's share of the cores.
    `streams`: the number of images that `answer_all` works on at the same time, at most the number
    of processors. 2 or more give throughput, 1 gives the shortest time for a single image.
    `device`: "cpu"; "cuda", "cuda:1", or the number of a GPU; a `torch.device`; None for the
    fastest that works here. With "auto" only backends for that device are tried: for a GPU plans of
    TensorRT, then ONNX Runtime's CUDA. Where none works that is an error, and never the CPU.
    `cache_dir`: the folder in which text embeddings are kept between runs; None means the user's
    cache.
    `public_key`: a key file, PEM or OpenSSH's, whose key must have signed the bundle; None means
    the file that `$SAMCLIP_PUBLIC_KEY` names, if it is set.
    `max_pixels`: images of more pixels are refused before they are decoded; None means
    134,217,728. Decoding holds up to 7 bytes a pixel, 11 for progressive JPEG files, and a scene
    keeps 3.
    `timeout`: for bundles of strangers. Seconds that loading a graph may take, and each run of one,
    on CPU backends; None means no limit. Each graph then runs in a separate process, which is
    ended at the limit (EngineTimeoutError) and started again by the next call.
    `aspects`: for bundles with several shapes of input, those to use, as "16:9" for a camera or
    ["4:3", "3:4"]; None means all. The graphs of a shape are made ready when the first image of it
    comes, and stay: each further shape takes memory. The encoder of one shape alone, and that of
    the first on a GPU, is made ready here. An image of yet another shape is padded to one of
    these, or made smaller.
    `max_shapes`: the number of shapes whose graphs are kept ready. For one more, the graphs of the
    shape that was used longest ago are freed, and loaded again when it comes back. None means all.

    Raises BundleError (BundleNotFoundError, SignatureError, GraphError), BackendUnavailableError,
    PlanError, EngineRunError, InputError.

    Examples:
        >>> model = samclip.load()
        >>> model.manifest.name
        'samclip-tiny'
    """
    begun = time.perf_counter()
    check_precision(precision)
    limit = check_max_pixels(max_pixels)
    kept = _check_count("max_shapes", max_shapes, capped=False)
    seconds = _check_timeout(timeout)
    wish = parse_device(device)
    folder = check_cache_dir(cache_dir)
    wanted = check_engine_precision(engine_precision)
    options = EngineOptions(
        threads=_check_count("threads", threads),
        streams=_check_count("streams", streams) or 1,
        device=wish.index,
        precision=wanted or FULL,
    )
    bundle = Bundle.open(find_bundle(name_or_path), chosen_public_key(public_key))
    bundle = bundle.limited_to(aspects)
    check_precision(precision, bundle)
    named = None if isinstance(backend, str) and backend == AUTO else get_backend(backend)
    if named is not None:
        check_device(named, wish)

    def start(choice: Choice) -> Model:
        if seconds is not None:
            # brings in the processes, which few loads need
            from samclip.engines.isolated.backend import IsolatedBackend  # noqa: PLC0415

            choice = replace(choice, backend=IsolatedBackend(choice.backend, seconds))
        chosen = replace(options, precision=wanted or choice.engine_precision)
        form = precision or choice.precision
        opened = open_engines(bundle, choice.backend, chosen, form, kept, _import_tasks)
        from samclip.runtime.model import Model  # noqa: PLC0415 - it is imported meanwhile

        model = Model(bundle, choice, chosen, form, folder, limit, kept, opened)
        took = (time.perf_counter() - begun) * 1e3
        _logger.info("load %s on %s: %.1f ms", bundle.manifest.name, choice.backend.name, took)
        return model

    if named is not None:
        return start(decide(named.name))
    return start_fastest(bundle, options, precision, start, wish, wanted)


def _import_tasks() -> None:
    importlib.import_module("samclip.runtime.model")


def _check_count(what: str, number: int | None, capped: bool = True) -> int | None:
    """Check a number, and cap one of threads or streams at the number of processors."""
    if number is None:
        return None
    try:
        count = 0 if isinstance(number, bool) else operator.index(number)
    except TypeError:
        count = 0
    if count < 1:
        raise InputError(
            f"{what} must be a whole number of at least 1 or None; got {number!r:.100}."
        )
    return min(count, os.cpu_count() or 1) if capped else count


def _check_timeout(seconds: float | None) -> float | None:
    """Check a time limit, and cap it at what timers of the kernel take."""
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
        raise InputError(f"timeout must be a number of seconds above 0 or None; got {seconds!r}.")
    return min(float(seconds), MAX_TIMEOUT)
