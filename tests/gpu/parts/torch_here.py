"""Torch and its device, for parts that cannot do without either."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from report import NotHereError


def need_torch(options: Namespace) -> tuple[Any, Any]:
    """Return torch and the device to use, the CPU on a dry run; raises NotHereError."""
    try:
        import torch
    except ImportError as error:
        raise NotHereError(f"torch is not installed: {error}") from error
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if options.dry_run:
        return torch, torch.device("cpu")
    if not torch.cuda.is_available():
        raise NotHereError("torch sees no CUDA GPU")
    torch.cuda.set_device(options.device)
    return torch, torch.device("cuda", options.device)


def find_torch(options: Namespace) -> tuple[Any, Any] | None:
    """Return torch and the device to use; None where torch has none."""
    try:
        return need_torch(options)
    except NotHereError:
        return None
