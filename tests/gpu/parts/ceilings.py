"""The GPU's ceilings: products of large matrices, and copies; random data, as zeros are faster."""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Iterator

from report import Row, attempt

from parts.timing import race
from parts.torch_here import need_torch

TYPES = ("bfloat16", "float16", "float32")


def check_ceilings(options: Namespace) -> Iterator[Row]:
    torch, device = need_torch(options)
    side = 256 if options.dry_run else 8192
    wait = (lambda: None) if options.dry_run else torch.cuda.synchronize

    def product(name: str) -> Iterator[Row]:
        a, b = (torch.randn(side, side, device=device).to(getattr(torch, name)) for _ in range(2))

        def run() -> None:
            a @ b
            wait()

        ms = statistics.median(race([run], options, torch)[0])
        yield Row(f"product of {side} x {side}, {name}", 2 * side**3 / ms / 1e9, "TFLOP/s")

    for name in TYPES[-1:] if options.dry_run else TYPES:
        yield from attempt(f"product, {name}", lambda name=name: product(name))
    yield from attempt("copies", lambda: _copies(options))


def _copies(options: Namespace) -> Iterator[Row]:
    torch, device = need_torch(options)
    wait = (lambda: None) if options.dry_run else torch.cuda.synchronize
    source = torch.randn(2**16 if options.dry_run else 2**28, device=device)
    target = torch.empty_like(source)
    host = torch.randn(3, 64, 64) if options.dry_run else torch.randn(3, 1024, 1024).pin_memory()
    photo = host.to(device)

    def within() -> None:
        target.copy_(source)
        wait()

    def to_device() -> None:
        photo.copy_(host, non_blocking=True)
        wait()

    def to_host() -> None:
        host.copy_(photo, non_blocking=True)
        wait()

    ms = statistics.median(race([within], options, torch)[0])
    yield Row("copy within the GPU, read and written", 8 * source.numel() / ms / 1e6, "GB/s")
    for what, run in (("to the GPU", to_device), ("to the host", to_host)):
        taken = statistics.median(race([run], options, torch)[0])
        yield Row(f"photo of 1024 px in float32, pinned, {what}", taken, "ms")
