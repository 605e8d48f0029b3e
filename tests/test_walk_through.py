"""The pages' way from the installed package to a device, run as a user runs it.

docs/export/precision.md, docs/deploy/rtx.md, docs/deploy/jetson.md and docs/models/choosing.md
start from the shipped bundle: export it at 512 px in FP16 and INT8, for a camera's shape as the
pages for devices do, look at it, build plans for RTX GPUs, list them, remove them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import samclip
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.pixels.image import photo_paths

pytestmark = pytest.mark.slow

EXPORT, SAMCLIP = "export", "run"  # entry points in samclip.commands


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A user's folder: photos to calibrate on, others held back, and nothing else."""
    for folder, photos in (("photos", photo_paths()[:1]), ("held-back", photo_paths()[2:3])):
        (tmp_path / folder).mkdir()
        for photo in photos:
            (tmp_path / folder / photo.name).write_bytes(photo.read_bytes())
    return tmp_path


def run(home: Path, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of the installed commands in a process of its own, in the user's folder."""
    own = {"SAMCLIP_HOME": str(home / "bundles"), "SAMCLIP_CACHE_DIR": str(home / "cache")}
    program = f"from samclip.commands import {command}; {command}()"
    made = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=home,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-4000:]
    return made


def test_from_the_package_to_a_plan(home: Path) -> None:
    made = run(
        *(home, EXPORT, "--checkpoint", "samclip-tiny", "--imgsz", "512", "--aspects", "16:9"),
        *("--fp16", "--int8", "--calib", "photos", "--photos", "held-back"),
        *("--output", "tiny-512"),
    )
    assert "are taken as stored: int8;" in made.stderr
    assert "layers in INT8, gates hold" in made.stderr
    # An attempt to leave layers out has a line; photos and steps within it have none. Behind the
    # first rule are tables, with rows for each shape.
    steps, _, tables = made.stderr.partition("───")
    assert tables
    assert len(steps.splitlines()) < 100
    manifest = Bundle.open(home / "tiny-512").manifest
    assert manifest.preprocessing.image_size == 512
    assert manifest.canvases == ((288, 512), (512, 288))
    assert manifest.head is not None
    assert manifest.head.trained
    found = {variant.precision for variant in manifest.graphs.encoder.variants}
    assert found == {"int8_fp16", "fp16", "int8", "fp32"}
    assert all(row.passed for record in manifest.reductions for row in record.gates)
    assert all(row.max_rel_error <= row.tolerance for row in manifest.parity)
    with samclip.load(home / "tiny-512", "onnxruntime") as model:
        shares = model.encode(photo_paths()[2]).classify(["a cat", "a rocket", "a cup"])
    assert shares.probabilities.argmax() == 2
    run(home, SAMCLIP, "info", "tiny-512")
    if find_spec("tensorrt_rtx") is None:
        pytest.skip("the rest of the way needs tensorrt_rtx")
    target = ("--backend", "tensorrt-rtx", "--target", "sm86", "--precision", "fp16")
    run(home, SAMCLIP, "engine", "build", "tiny-512", *target)
    listed = json.loads(run(home, SAMCLIP, "engine", "list", "--json").stdout)
    assert "tiny-512" in json.dumps(listed)
    planned = {plan["sidecar"]["graph"]["name"] for plan in listed["plans"]}
    assert {"encoder", "encoder-512x288", "mask_decoder-512x288"} <= planned
    run(home, SAMCLIP, "engine", "remove", "--all")
    assert "tiny-512" not in run(home, SAMCLIP, "engine", "list", "--json").stdout
