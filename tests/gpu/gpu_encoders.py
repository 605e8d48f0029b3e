"""SAM's ViT-B encoder in half precision, by our engines and by torch, in turns in one process.

The same random weights, real photos, batches of 1 and of 8. What is timed goes from pixels on the
host to outputs on the device, which is waited for. Ratios are to the first contender of the same
batch, `torch.compile` of the reference encoder in BF16; below 1 is faster.
"""

from __future__ import annotations

import runpy
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from gpu_report import Row, Skip
from numpy.typing import NDArray

from samclip.engines.base import EngineOptions, GraphSource
from samclip.engines.registry import get_backend
from samclip.errors import SamclipError
from samclip.runtime.bundles.manifest import Preprocessing
from samclip.runtime.pixels.image import load_image, preprocess

BATCHES = (1, 8)
ROUNDS, WARM_UP = 20, 5
SIZE, DRY_SIZE = 1024, 64
OPSET = 22  # BF16 convolutions begin here
PLANS = ("tensorrt", "tensorrt-rtx")
REFERENCE = Path(__file__).parents[2] / "tools/peers/workers/reference_torch.py"
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # SAM's

Pixels = NDArray[np.float32]
Run = Callable[[Pixels], None]


@dataclass(frozen=True)
class Contender:
    """A way to run the encoder; `open` makes it ready for a batch, and raises when it cannot be."""

    name: str
    open: Callable[[ExitStack, int], Run]


def check_encoders(options: Namespace) -> Iterator[Row]:
    """Time every contender that this machine can run; the others say why not."""
    try:
        import torch
    except ImportError as error:
        raise Skip(f"no torch: {error}") from error
    if not options.dry_run and not torch.cuda.is_available():
        raise Skip("torch sees no CUDA GPU")
    for batch in BATCHES[: 1 if options.dry_run else None]:
        with ExitStack() as stack:
            ready: dict[str, Run] = {}
            for contender in contenders(torch, options):
                try:
                    run = contender.open(stack, batch)
                    run(photos(options, batch))
                    ready[contender.name] = run
                except (SamclipError, ImportError, RuntimeError) as error:
                    yield Row(f"batch {batch}: {contender.name}", f"not run: {error}"[:200])
            yield from _race(ready, batch, options)


def contenders(torch: Any, options: Namespace) -> Iterator[Contender]:
    """List them; on a dry run those alone that the CPU has, in FP32."""
    types = {"fp32": None} if options.dry_run else {"bf16": torch.bfloat16, "fp16": torch.float16}
    for precision, dtype in types.items():
        for name, make in (
            ("torch.compile of segment-anything's", reference),
            ("torch, ours by flex attention", flexible),
            ("torch, ours folded, fused attention", folded),
        ):
            opened = partial(_open_torch, torch, options, make, dtype)
            yield Contender(f"{name}, {precision}", opened)
    engines = ("onnxruntime",) if options.dry_run else ("cuda", *PLANS)
    for backend in engines:
        for precision in types:
            opened = partial(_open_engine, options, backend, precision)
            yield Contender(f"ours, {backend}, {precision}", opened)


def photos(options: Namespace, batch: int) -> Pixels:
    """Return `batch` real photos as the encoder takes them: Bx3xSxS float32."""
    from samclip.runtime.pixels.image import photo_paths

    pixels = Preprocessing(image_size=_size(options), mean=MEAN, std=STD)
    paths = photo_paths(options.photos)
    chosen = [paths[place % len(paths)] for place in range(batch)]
    return np.concatenate([preprocess(load_image(path), pixels)[0] for path in chosen])


def reference(torch: Any, options: Namespace) -> Any:
    """segment-anything's own encoder, compiled; its random weights are those of all."""
    encoder = _theirs(torch, _size(options))
    return encoder if options.dry_run else torch.compile(encoder)


def folded(torch: Any, options: Namespace) -> Any:
    """Our encoder with relative positions folded into queries and keys: no mask for the kernel."""
    from samclip.export.models.attention import set_attention_lowering

    encoder = _ours(options)
    set_attention_lowering(encoder, "fold")
    return encoder if options.dry_run else torch.compile(encoder)


def flexible(torch: Any, options: Namespace) -> Any:
    """Our encoder by torch's flex attention: a flash kernel that adds the positions as it goes."""
    from torch.nn.attention.flex_attention import flex_attention

    from samclip.export.models.attention import RelPosAttention

    def attend(self: Any, q: Any, k: Any, v: Any, rel_h: Any, rel_w: Any) -> Any:
        width = self.input_size[1]

        def placed(score: Any, image: Any, head: Any, query: Any, key: Any) -> Any:
            row = rel_h[image, head, query, key // width]
            return score + row + rel_w[image, head, query, key % width]

        return flex_attention(q, k, v, score_mod=placed, scale=self.scale)

    encoder = _ours(options)
    for part in encoder.modules():
        if isinstance(part, RelPosAttention):
            part.attend = attend.__get__(part)  # type: ignore[method-assign]
    return encoder if options.dry_run else torch.compile(encoder)


def _open_torch(
    torch: Any, options: Namespace, make: Any, dtype: Any, stack: ExitStack, batch: int
) -> Run:
    del batch  # any
    device = torch.device("cpu" if options.dry_run else f"cuda:{options.device}")
    torch.manual_seed(0)
    encoder = make(torch, options).eval().to(device, dtype)
    wait = torch.cuda.synchronize if device.type == "cuda" else nullcontext
    stack.callback(encoder.cpu)

    def run(pixels: Pixels) -> None:
        with torch.inference_mode():
            encoder(torch.from_numpy(pixels).to(device, dtype))
            wait()

    return run


def _open_engine(
    options: Namespace, backend: str, precision: str, stack: ExitStack, batch: int
) -> Run:
    probe = get_backend(backend).probe()
    if not probe.available:
        raise ImportError(f"{probe.detail}. {probe.remedy}")
    source = _graph(options, precision, batch)
    if backend in PLANS:
        _build(source, backend, options.device)
    engine = get_backend(backend).load(source, EngineOptions(device=options.device))
    stack.enter_context(closing(engine))
    # the smaller output, brought to the host, says that the run has ended
    return lambda pixels: _wait(engine.run({"image": pixels}, ["image_embeddings"]))


def _wait(results: Any) -> None:
    results["image_embeddings"].numpy()


def _graph(options: Namespace, precision: str, batch: int) -> GraphSource:
    """Export our encoder for a batch, in a half precision where one is asked for."""
    import onnx_ir as ir
    import torch

    from samclip.export.graphs import GraphSpec, export_graph
    from samclip.export.precision.half import to_half

    size = _size(options)
    image = torch.zeros(batch, 3, size, size)
    outputs = ("backbone_features", "image_embeddings")
    model = export_graph(GraphSpec("encoder", _ours(options), {"image": image}, outputs), OPSET)
    if precision != "fp32":
        model = to_half(model, precision, frozenset())  # type: ignore[arg-type]
    return GraphSource("encoder", ir.to_proto(model).SerializeToString(), precision=precision)


def _build(source: GraphSource, backend: str, device: int) -> None:
    from samclip.engines.plans.build import build_plan
    from samclip.engines.plans.library import choose_targets, open_library
    from samclip.engines.plans.request import BuildRequest

    library = open_library(backend, device)
    build_plan(BuildRequest(source, choose_targets(library, ())), library)


def _race(ready: dict[str, Run], batch: int, options: Namespace) -> Iterator[Row]:
    """Let all take turns, the order turned round each time; medians for an image, and ratios."""
    pixels = photos(options, batch)
    times: dict[str, list[float]] = {name: [] for name in ready}
    rounds, warm_up = (2, 0) if options.dry_run else (ROUNDS, WARM_UP)
    for turn in range(rounds + warm_up):
        for name in list(ready)[:: 1 if turn % 2 else -1]:
            begun = time.perf_counter()
            ready[name](pixels)
            if turn >= warm_up:
                times[name].append(1e3 * (time.perf_counter() - begun) / batch)
    base = next(iter(times.values()), [])
    for name, taken in times.items():
        yield Row(f"batch {batch}: {name}: median", statistics.median(taken), "ms/img")
        ratios = [a / b for a, b in zip(taken, base, strict=True)]
        yield Row(f"batch {batch}: {name}: ratio to the first", statistics.median(ratios), "x")


def _ours(options: Namespace) -> Any:
    import torch

    from samclip.export.models.sam_vit import SAM_VIT_CONFIGS, SamVit

    encoder = SamVit(SAM_VIT_CONFIGS["vit_b"], _size(options))
    encoder.load_state_dict(_theirs(torch, _size(options)).state_dict())
    return encoder.eval()


def _theirs(torch: Any, size: int) -> Any:
    return runpy.run_path(str(REFERENCE))["build"](
        SimpleNamespace(seed=0, image_size=size, checkpoint=None), torch
    )


def _size(options: Namespace) -> int:
    return DRY_SIZE if options.dry_run else SIZE
