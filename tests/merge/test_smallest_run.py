"""The smallest configuration, run as its comment says, up to a bundle that answers."""

from pathlib import Path

import pytest
from tree import CONFIGS
from typer import Typer
from typer.testing import CliRunner

import samclip
from samclip.disk.user_files import read_user_file
from samclip.export.cli import app as export
from samclip.merge.cli import app as merge
from samclip.merge.config.run import read_config
from samclip.runtime.assets import packaged_photos


def run(app: Typer, *arguments: object) -> None:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


def test_it_is_small_and_its_weights_come_with_packages() -> None:
    text = (CONFIGS / "smallest.toml").read_text("utf-8")
    assert len([line for line in text.splitlines() if not line.startswith("#")]) <= 18
    student = read_config(CONFIGS / "smallest.toml").student
    given = {student.checkpoint, student.recogniser, student.text_checkpoint}
    assert given == {"mobile_sam", "efficientnet_lite2", "minilm"}


@pytest.mark.slow  # a minute: a real model is stitched, exported and run
def test_the_smallest_run_becomes_a_bundle_that_answers(
    tmp_path: Path,
    mobile_sam_checkpoint: Path,
    recogniser_checkpoint: Path,
    text_checkpoint: Path,
) -> None:
    photos, file = tmp_path / "photos", tmp_path / "smallest.toml"
    photos.mkdir()
    for path in sorted(packaged_photos().glob("*.jpg"))[:2]:
        (photos / path.name).write_bytes(read_user_file(path, 2**24, "a photo"))
    text = (CONFIGS / "smallest.toml").read_text("utf-8")
    for name, path in {
        "mobile_sam": mobile_sam_checkpoint,
        "efficientnet_lite2": recogniser_checkpoint,
        "minilm": text_checkpoint,
    }.items():
        assert f'"{name}"' in text
        text = text.replace(f'"{name}"', f'"{path}"')  # as fetched by the tests
    file.write_text(text, "utf-8")
    output, bundle = tmp_path / "run", tmp_path / "bundle"
    run(merge, "--config", file, "--photos", photos, "--output", output)
    kept = (output / "config.toml").read_text("utf-8")
    assert kept == f"# run with --photos {str(photos)!a}\n{text}"
    merged = output / "merged.safetensors"
    run(export, "--checkpoint", merged, "--output", bundle, "--templates", "none", "--no-verify")
    with samclip.load(bundle) as model, model.encode(next(photos.iterdir())) as scene:
        masks = scene.segment(boxes=[(100, 50, 400, 400)], names=["a person", "a cat"])
        assert masks.names is not None
        assert 0.2 < masks.masks[0, 0].mean() < 0.9
