"""samexporter's MobileSAM: its own export scripts, and its own class around ONNX Runtime."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SIZE = 1024  # the only one that samexporter builds MobileSAM for


def load(setup: Any) -> Any:
    """Make its two sessions; the class takes no thread count, so the process gets fewer cores."""
    _check(setup)
    if setup.threads < (os.cpu_count() or 1) and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: setup.threads])
    cv2 = importlib.import_module("cv2")
    cv2.setNumThreads(setup.threads)
    library = importlib.import_module("samexporter.sam_onnx")
    files = [str(Path(setup.folder) / f"{name}.onnx") for name in ("encoder", "decoder")]
    model = library.SegmentAnythingONNX(*files, providers=["CPUExecutionProvider"])
    run_encoder = model.run_encoder

    def run(photo: str, watch: Any) -> None:
        def timed(inputs: Any) -> Any:
            watch.lap("prepare")
            found = run_encoder(inputs)
            watch.lap("encoder")
            return found

        model.run_encoder = timed
        image = cv2.imread(photo)
        height, width = image.shape[:2]
        embedding = model.encode(image)
        point = {"type": "point", "data": [width / 2, height / 2], "label": 1}
        _ = model.predict_masks(embedding, [point]) > 0
        watch.lap("segment a point")

    return run


def export(setup: Any) -> None:
    """Run its two scripts, as its README says, on the checkpoint of MobileSAM."""
    _check(setup)
    for part in ("encoder", "decoder"):
        command = [sys.executable, "-I", "-m", f"samexporter.export_{part}"]
        command += ["--checkpoint", setup.checkpoint, "--model-type", "mobile"]
        command += ["--output", str(Path(setup.folder) / f"{part}.onnx")]
        command += ["--use-preprocess"] if part == "encoder" else []
        subprocess.run(command, check=True, stdout=sys.stderr)


def _check(setup: Any) -> None:
    if setup.image_size != SIZE:
        raise ValueError(f"samexporter builds MobileSAM for {SIZE} px, not {setup.image_size}")
