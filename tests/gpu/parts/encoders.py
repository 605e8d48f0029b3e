"""SAM's ViT-B encoder by torch: each lowering and precision, eager and compiled, one after another.

The most telling come first, and each one's rows are there before the next begins: compiling takes a
minute or more for each. Ratios are to the reference of the same batch, eager with an additive mask
in BF16.
"""

from __future__ import annotations

import copy
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from report import Row, attempt

from parts.timing import Contender, compare_times, kernel_rows
from parts.torch_here import need_torch
from parts.torch_models import as_tuple, lower, photos, random_encoder, torch_contender
from samclip.runtime.bundles.manifest import Preprocessing

TYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
SIZE, DRY_SIZE = 1024, 64
FLOP = 972e9  # of one image at 1024 px, counted by `samclip-bench roofline`
PIXELS = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}  # SAM's
LEAST_COSINE = 0.99  # far below what rounding does, far above what a wrong kernel does
SECONDS = {False: 12.0, True: 100.0}  # that a contender may take, eager and compiled


@dataclass(frozen=True)
class Form:
    """A way to run the encoder."""

    lowering: str
    precision: str
    compiled: bool = False
    batch: int = 1

    def __str__(self) -> str:
        how = "compiled" if self.compiled else "eager"
        return f"{self.lowering}, {how}, {self.precision}, batch {self.batch}"


FORMS = (
    Form("bias", "bf16"),
    Form("bias", "fp16"),
    Form("fold", "bf16"),
    Form("bias", "bf16", batch=8),
    Form("bias", "bf16", compiled=True),
    Form("flex", "bf16", compiled=True),
    Form("fold", "bf16", compiled=True),
    Form("chunk", "bf16"),
    Form("fold", "fp16"),
    Form("fold", "bf16", batch=8),
    Form("bias", "fp32"),
    Form("flex", "bf16", compiled=True, batch=8),
    Form("flex", "fp16", compiled=True),
)
DRY_FORMS = (Form("bias", "fp32"), Form("fold", "fp32"), Form("flex", "fp32"))


def check_encoders(options: Namespace) -> Iterator[Row]:
    """Time every form, as long as there is time."""
    torch, device = need_torch(options)
    size = DRY_SIZE if options.dry_run else SIZE
    pixels = photos(options, 8, Preprocessing(image_size=size, **PIXELS))
    exact = random_encoder("vit_b", size)
    with torch.inference_mode():
        image = torch.from_numpy(pixels[:1]).to(device)
        truth = as_tuple(copy.deepcopy(exact).to(device)(image))[-1].cpu().numpy()
    deadline = options.begun + options.seconds
    references: dict[int, Contender] = {}
    for form in DRY_FORMS if options.dry_run else FORMS:
        left = deadline - time.monotonic()
        if left < SECONDS[form.compiled]:
            yield Row(str(form), f"left out: {left:.0f} s were left")
            continue

        def check(form: Form = form) -> Iterator[Row]:
            yield from _check_form(form, exact, pixels, truth, references, options)

        yield from attempt(str(form), check)


def _check_form(
    form: Form,
    exact: Any,
    pixels: Any,
    truth: Any,
    references: dict[int, Contender],
    options: Namespace,
) -> Iterator[Row]:
    torch, device = need_torch(options)
    on_gpu = device.type == "cuda"
    begun = time.monotonic()
    dtype = getattr(torch, TYPES[form.precision])
    encoder = lower(copy.deepcopy(exact), form.lowering).to(device, dtype)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    forward = torch.compile(encoder) if form.compiled else encoder
    given = pixels[: form.batch]
    contender, embeddings = torch_contender(str(form), forward, dtype, given, options)
    found = embeddings()[:1].cpu().numpy()
    yield Row(f"{form}: ready after", time.monotonic() - begun, "s")
    yield Row(f"{form}: all finite", int(np.isfinite(found).all()), "", 1)
    yield Row(f"{form}: cosine with FP32", _cosine(truth, found), "", LEAST_COSINE)
    reference = references.get(form.batch)
    reason = f"the reference of batch {form.batch} did not run before"
    for row in compare_times(str(form), contender, reference, reason, options, torch):
        yield row
        if row.what == f"{form}: on the device" and isinstance(row.value, float):
            work = FLOP * (pixels.shape[-1] / SIZE) ** 2
            yield Row(f"{form}: of one image", work / row.value / 1e9, "TFLOP/s")
    yield from _queued(form, embeddings, options)
    if on_gpu:
        yield Row(f"{form}: memory, peak", torch.cuda.max_memory_allocated() / 2**20, "MiB")
    yield from kernel_rows(str(form), contender, options, torch)
    if (form.lowering, form.compiled) == ("bias", False) and form.precision in ("bf16", "fp32"):
        references.setdefault(form.batch, contender)


def _queued(form: Form, embeddings: Any, options: Namespace) -> Iterator[Row]:
    """The time of a call among many that are not waited for, as only torch can be asked."""
    torch, device = need_torch(options)
    calls = 2 if options.dry_run else 20
    if device.type != "cuda":
        return
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(calls):
        embeddings()
    last.record()
    last.synchronize()
    taken = first.elapsed_time(last) / calls / form.batch
    yield Row(f"{form}: on the device, {calls} calls queued", taken, "ms/img")


def _cosine(expected: Any, found: Any) -> float:
    a, b = expected.astype(np.float64).ravel(), found.astype(np.float64).ravel()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm else 0.0
