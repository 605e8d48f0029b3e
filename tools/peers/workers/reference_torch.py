"""The reference SAM ViT-B image encoder in torch, eager or compiled, and its plain ONNX export.

The module is imported from segment-anything's own file, without the package around it, whose
`__init__` asks for torchvision: none of the registry can be imported with torch's CPU build.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys
import types
from functools import partial
from pathlib import Path
from typing import Any

PREFIX = "image_encoder."
OPSET = 17
SMALL = 0.02  # standard deviation of what would otherwise start at zero


def load(setup: Any) -> Any:
    """Make the encoder ready; with the option `compile`, under torch.compile."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(setup.threads)
    encoder = build(setup, torch)
    if setup.options.get("compile"):
        encoder = _compiled(torch, encoder)

    def run(photo: str, watch: Any) -> None:
        pixels, _, _ = setup.prepare(photo)
        watch.lap("prepare")
        with torch.inference_mode():
            encoder(torch.from_numpy(pixels))
        watch.lap("encoder")

    return run


def export(setup: Any) -> None:
    """Write encoder.onnx into `setup.folder` as torch.onnx.export traces it."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(setup.threads)
    encoder = build(setup, torch)
    example = torch.zeros(1, 3, setup.image_size, setup.image_size)
    with torch.no_grad():
        torch.onnx.export(
            encoder,
            (example,),
            str(Path(setup.folder) / "encoder.onnx"),
            input_names=["image"],
            output_names=["image_embeddings"],
            opset_version=OPSET,
            dynamo=False,  # as segment-anything's script and samexporter do
        )


def build(setup: Any, torch: Any) -> Any:
    """Return ViT-B with the checkpoint's weights, or with random ones."""
    torch.manual_seed(setup.seed)
    encoder = _import_model("image_encoder").ImageEncoderViT(
        img_size=setup.image_size,
        patch_size=16,
        embed_dim=768,
        depth=12,
        num_heads=12,
        mlp_ratio=4,
        out_chans=256,
        qkv_bias=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=(2, 5, 8, 11),
    )
    if setup.checkpoint is not None:
        state = torch.load(setup.checkpoint, map_location="cpu", weights_only=True)
        kept = {k[len(PREFIX) :]: v for k, v in state.items() if k.startswith(PREFIX)}
        encoder.load_state_dict(kept)
    else:
        for parameter in encoder.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=SMALL)
    return encoder.eval()


def _import_model(name: str) -> Any:
    """Import one of the package's modules of models."""
    spec = importlib.util.find_spec("segment_anything")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("segment_anything is not installed in this environment")
    package = types.ModuleType("sam_import_model")
    package.__path__ = [str(Path(spec.origin).parent / "modeling")]
    sys.modules["sam_import_model"] = package
    return importlib.import_module(f"sam_import_model.{name}")


def _compiled(torch: Any, encoder: Any) -> Any:
    if shutil.which("c++") is None and shutil.which("g++") is None:
        raise RuntimeError(
            "torch.compile makes C++ code for the CPU and found no compiler. Install g++."
        )
    return torch.compile(encoder)
