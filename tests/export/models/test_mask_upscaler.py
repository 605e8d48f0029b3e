from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from samclip.engines.base import EngineOptions, GraphSource
from samclip.engines.onnxruntime.backend import CPU
from samclip.engines.plans.build import build_plan
from samclip.engines.plans.library import open_library
from samclip.engines.plans.request import BuildRequest
from samclip.export.exporter import check_readable
from samclip.export.graph_files import GraphFiles
from samclip.export.models.mask_upscaler import (
    MaskUpscaler,
    mask_upscaler_graph,
    mask_upscaler_samples,
)
from samclip.export.verification import TOLERANCE, measure
from samclip.runtime.pixels.image import Letterbox, photo_paths


def written(image_size: int, opset: int = 20) -> tuple[GraphFiles, GraphSource]:
    files = mask_upscaler_graph((image_size, image_size)).write(("chunk",), opset)
    ((_, source),) = files.sources()
    return files, source


@pytest.mark.parametrize(("image_size", "opset"), [(64, 18), (512, 20), (1024, 23)])
def test_the_graph_is_small_allowed_and_right_on_photos(image_size: int, opset: int) -> None:
    files, source = written(image_size, opset)
    assert sum(map(len, files.files.values())) < 6_000
    check_readable([files])  # by the bounds of strangers' graphs, for every photo's size
    side = image_size // 4
    assert [(spec.name, spec.dtype, spec.shape) for spec in files.graph.inputs] == [
        ("low_res_mask", "float32", (side, side)),
        ("rows", "float32", ("height", 3)),
        ("columns", "float32", ("width", 3)),
    ]
    assert [(spec.name, spec.dtype, spec.shape) for spec in files.graph.outputs] == [
        ("mask", "uint8", ("height", "width")),
        ("logits", "float32", ("height", "width")),
    ]
    photos = photo_paths()
    rows = measure(
        source,
        "fp32",
        [s for photo in photos for s in mask_upscaler_samples((image_size, image_size), photo)],
    )
    assert len(rows) == len(photos)
    assert max(row.max_rel_error for row in rows) < 2e-5 < TOLERANCE


def test_it_is_the_torch_module() -> None:
    _, source = written(64)
    rows, columns = Letterbox.fit((31, 40), 64).upscale_taps(16)
    logits = np.random.default_rng(2).normal(0, 8, (16, 16)).astype(np.float32)
    expected = MaskUpscaler((16, 16))(*map(torch.from_numpy, (logits, rows, columns)))
    engine = CPU.load(source, EngineOptions(threads=1))
    found = engine.run({"low_res_mask": logits, "rows": rows, "columns": columns})
    for name, tensor in zip(("mask", "logits"), expected, strict=True):
        assert found[name].numpy().dtype == tensor.numpy().dtype
        np.testing.assert_allclose(found[name].numpy(), tensor.numpy(), atol=1e-5)
    engine.close()


def test_tensorrt_for_rtx_builds_it(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="builds a real engine, without a GPU")
    _, source = written(512)
    request = BuildRequest(source, ("8.6",), folder=tmp_path, gate=False)
    sidecar = build_plan(request, open_library("tensorrt-rtx")).stored.sidecar
    assert sidecar is not None
    ports = {port.name: (port.mode, port.dtype, port.most) for port in sidecar.tensors}
    assert ports["mask"] == ("output", "uint8", None)
    assert ports["rows"] == ("input", "float32", (4096, 3))
