"""The smallest configuration, run as its comment says."""

from pathlib import Path

import pytest
from tree import CONFIGS
from typer.testing import CliRunner

from samclip.disk.user_files import read_user_file
from samclip.merge.cli import app as merge
from samclip.merge.config.run import read_config
from samclip.merge.factories import make_learner, read_student
from samclip.runtime.assets import packaged_photos


def test_it_is_small_and_its_weights_come_with_packages() -> None:
    text = (CONFIGS / "smallest.toml").read_text("utf-8")
    assert len([line for line in text.splitlines() if not line.startswith("#")]) <= 18
    student = read_config(CONFIGS / "smallest.toml").student
    given = {student.checkpoint, student.recogniser, student.text_checkpoint}
    assert given == {"mobile_sam", "efficientnet_lite2", "minilm"}


@pytest.mark.slow  # a minute: a real model is stitched
def test_two_photos_become_a_merged_model(
    tmp_path: Path,
    mobile_sam_checkpoint: Path,
    recogniser_checkpoint: Path,
    minilm_checkpoint: Path,
) -> None:
    photos, file = tmp_path / "photos", tmp_path / "smallest.toml"
    photos.mkdir()
    for path in sorted(packaged_photos().glob("*.jpg"))[:2]:
        (photos / path.name).write_bytes(read_user_file(path, 2**24, "a photo"))
    text = (CONFIGS / "smallest.toml").read_text("utf-8")
    for name, path in {
        "mobile_sam": mobile_sam_checkpoint,
        "efficientnet_lite2": recogniser_checkpoint,
        "minilm": minilm_checkpoint,
    }.items():
        assert f'"{name}"' in text
        text = text.replace(f'"{name}"', f'"{path}"')  # as fetched by the tests
    file.write_text(text, "utf-8")
    output = tmp_path / "run"
    arguments = ["--config", file, "--photos", photos, "--output", output]
    result = CliRunner().invoke(merge, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    kept = (output / "config.toml").read_text("utf-8")
    assert kept == f"# run with --photos {str(photos)!a}\n{text}"
    assembly = read_student(output / "merged.safetensors")
    assert assembly.metadata.name == "smallest"
    assert assembly.metadata.head_trained  # the recogniser's: names mean something
    student = make_learner(assembly)
    assert student.image_size == 512
