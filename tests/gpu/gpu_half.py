"""Half precision by torch itself: every graph of a checkpoint on the GPU against FP32 there.

"pure" rounds every weight and activation, as a graph without a keep list would; "autocast" keeps
norms, softmax and the like in FP32, as exported graphs do: only that one is judged.
"""

from __future__ import annotations

import copy
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gpu_report import Row, Skip
from numpy.typing import NDArray

LIMITS = {"fp16": 0.9995, "bf16": None}  # cosine of embeddings under autocast
DRY_SIZE = 128


def check_torch_half(options: Namespace) -> Iterator[Row]:
    try:
        import torch
    except ImportError as error:
        raise Skip(f"no torch: {error}") from error
    if not options.dry_run and not torch.cuda.is_available():
        raise Skip("torch sees no CUDA GPU")
    device = torch.device("cpu" if options.dry_run else f"cuda:{options.device}")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model, pixels = _model(options)
    for photo in _photos(options):
        for name, module, inputs, outputs in _graphs(model, pixels, photo):
            whole = _run(torch, module.to(device), inputs, device)
            for precision, dtype in _types(torch, options):
                pure = copy.deepcopy(module).to(device, dtype)
                for mode, got in (
                    ("pure", _run(torch, pure, inputs, device, dtype)),
                    ("autocast", _run(torch, module, inputs, device, cast=dtype)),
                ):
                    where = f"{name} {precision} {mode}, {photo.name}"
                    limit = LIMITS[precision] if mode == "autocast" else None
                    yield from compare(where, dict(zip(outputs, whole, strict=True)), got, limit)


def _types(torch: Any, options: Namespace) -> list[tuple[str, Any]]:
    """FP16 alone on the CPU: there are virtual machines whose CPU claims BF16 and then traps."""
    both = [("fp16", torch.float16), ("bf16", torch.bfloat16)]
    return both[:1] if options.dry_run else both


def compare(
    where: str,
    expected: dict[str, NDArray[Any]],
    got: list[NDArray[Any]],
    limit: float | None,
) -> Iterator[Row]:
    """Cosine per output, which is judged, and the largest error as a share of the largest value."""
    for (name, reference), value in zip(expected.items(), got, strict=True):
        finite = bool(np.isfinite(value).all())
        yield Row(f"{where}: {name} finite", int(finite), "", None if limit is None else 1)
        a, b = reference.astype(np.float64).ravel(), value.astype(np.float64).ravel()
        norm = float(np.linalg.norm(a) * np.linalg.norm(b))
        yield Row(f"{where}: {name} cosine", float(a @ b) / norm if norm else 0.0, "", limit)
        worst = float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30))
        yield Row(f"{where}: {name} error / largest", worst)


def _run(
    torch: Any, module: Any, inputs: list[Any], device: Any, dtype: Any = None, cast: Any = None
) -> list[NDArray[Any]]:
    placed = [x.to(device, dtype if x.is_floating_point() else None) for x in inputs]
    with torch.inference_mode(), torch.autocast(device.type, cast, enabled=cast is not None):
        results = module(*placed)
    results = results if isinstance(results, tuple) else (results,)
    return [result.float().cpu().numpy() for result in results]


def _model(options: Namespace) -> tuple[Any, Any]:
    import torch

    from samclip.export.families.merged_assembly import Checkpoints, assemble
    from samclip.export.models.merged import MergedConfig, MergedModel
    from samclip.runtime.bundles.manifest import Preprocessing

    if options.checkpoint is None and not options.dry_run:
        raise Skip("give --checkpoint: a merged checkpoint (.safetensors)")
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    if options.checkpoint is None:
        torch.manual_seed(0)
        model = MergedModel(MergedConfig("vit_t", image_size=DRY_SIZE, embed_dim=32)).eval()
        return model, Preprocessing(image_size=DRY_SIZE, mean=mean, std=std)
    made = assemble(Checkpoints(options.checkpoint, None, None))
    known = made.metadata
    pixels = Preprocessing(image_size=known.image_size, mean=known.mean, std=known.std)
    return made.model.eval(), pixels


def _photos(options: Namespace) -> list[Path]:
    from samclip.runtime.pixels.image import photo_paths

    found: list[Path] = photo_paths(options.photos)
    return found[: 1 if options.dry_run else options.most_photos]


def _graphs(
    model: Any, pixels: Any, photo: Path
) -> Iterator[tuple[str, Any, list[Any], list[str]]]:
    """Each graph as a module, its inputs on a photo, and the names of its outputs."""
    import torch

    from samclip.export.families.merged import photo_samples
    from samclip.export.models.mask_decoder import PromptedMaskDecoder

    model.cpu()
    modules = {
        "encoder": model.image_encoder,
        "clip_head": model.clip_head,
        "mask_decoder": PromptedMaskDecoder(model.prompt_encoder, model.mask_decoder),
    }
    for sample in photo_samples(model, pixels, photo):
        inputs = [torch.from_numpy(np.array(value)) for value in sample.feeds.values()]
        yield sample.graph, modules[sample.graph], inputs, list(sample.expected)
    if model.text is not None:
        tokens = torch.randint(1, 400, (4, 16), generator=torch.Generator().manual_seed(0))
        yield "text_encoder", model.text, [tokens], ["text_embeddings"]
