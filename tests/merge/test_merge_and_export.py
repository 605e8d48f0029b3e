"""From checkpoints to a bundle that names regions, by the commands alone."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer import Typer
from typer.testing import CliRunner

import samclip
from samclip.cli.main import app as runtime
from samclip.export.checkpoints.fetch import file_sha256
from samclip.export.cli import app as export
from samclip.merge.cli import app as merge
from samclip.runtime.assets import packaged_photos

CONFIG = """
name = "small"
license = "Apache-2.0"
notes = "of a test"
[student]
checkpoint = "{sam}"
text_checkpoint = "{text}"
image_size = 128
[teachers.names]
kind = "conse"
checkpoint = "{recogniser}"
text_checkpoint = "{text}"
templates = "none"
[teachers.masks]
checkpoint = "{sam}"
[data]
holdout = 0.5
[data.names]
folders = ["{photos}"]
[data.masks]
folders = ["{photos}"]
[evaluation]
photos = 1
regions = 2
[[stages]]
name = "head"
steps = 1
learning_rate = 1e-3
train = {{ clip_head = 1.0 }}
losses = {{ clip = 1.0 }}
names = {{ batch = 2, size = [128, 64] }}
[[stages]]
name = "merge"
steps = 2
learning_rate = 1e-4
train = {{ clip_head = 1.0, image_encoder = 0.1, mask_decoder = 0.1 }}
losses = {{ clip = 1.0, sam = 10.0, region = 1.0 }}
names = {{ batch = 2, size = 64 }}
masks = {{ batch = 1, size = 128, prompts = 2, regions = 2 }}
"""


def run(app: Typer, *arguments: object) -> str:
    """Run a command that must succeed, and return its output."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.slow  # a real model is trained, exported and run
def test_a_merged_model_becomes_a_bundle_that_names_things(
    tmp_path: Path,
    mobile_sam_checkpoint: Path,
    recogniser_checkpoint: Path,
    text_checkpoint: Path,
    photo: NDArray[np.uint8],
) -> None:
    file, output, bundle = tmp_path / "run.toml", tmp_path / "run", tmp_path / "bundle"
    file.write_text(
        CONFIG.format(
            sam=mobile_sam_checkpoint,
            text=text_checkpoint,
            recogniser=recogniser_checkpoint,
            photos=packaged_photos(),
        ),
        "utf-8",
    )
    run(merge, "--config", file, "--output", output)
    merged = output / "merged.safetensors"
    run(merge, "--config", file, "--evaluate-only", merged)
    run(export, "--checkpoint", merged, "--output", bundle, "--templates", "none", "--no-verify")

    sources = json.loads(run(runtime, "info", bundle, "--json"))["manifest"]["provenance"][
        "sources"
    ]
    recorded = [(source["role"], source["sha256"]) for source in sources]
    assert recorded == [
        ("merged", file_sha256(merged)),
        ("sam", file_sha256(mobile_sam_checkpoint)),
        ("text", file_sha256(text_checkpoint)),
        ("teacher", file_sha256(recogniser_checkpoint)),
        ("teacher", file_sha256(mobile_sam_checkpoint)),
    ]
    table = run(runtime, "info", bundle)
    assert table.count("teacher") == 2
    # An untrained head would warn, and warnings are errors here.
    with samclip.load(bundle) as model, model.encode(photo) as scene:
        named = scene.classify(["a cup of coffee", "a rocket"])
        assert named.trained_head
        assert named.probabilities.sum() == pytest.approx(1, abs=1e-6)
        assert scene.segment(points=[(300, 200)], names=["cup", "table"]).names
