"""A stage that teaches names: from labelled photos to a checkpoint whose head knows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from samclip.errors import ConfigError, TrainingError
from samclip.export.families.merged_assembly import Assembly, Checkpoints, assemble, save_merged
from samclip.export.models.conse_head import ConseHead
from samclip.merge.config.stages import LabelSource, TeachStage
from samclip.merge.data.photo_sources import FolderSource
from samclip.merge.students.merged_student import MergedStudent
from samclip.merge.teachers.output_cache import OutputCache
from samclip.merge.training.lessons import Teaching, add_taught_names, read_lessons, teach

LINES = ("red; scarlet", "blue", "unseen")
COLOURS = {"scarlet": (220, 20, 20), "blue": (20, 20, 220)}


def make_folder(folder: Path) -> None:
    """Save six photos whose halves are red and blue, with label maps."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    (folder / "classes.json").write_text('{"1": "scarlet", "2": "blue"}')
    for number in range(6):
        photo, labels = np.zeros((96, 128, 3), np.uint8), np.ones((96, 128), np.uint8)
        photo[:], labels[:, 64:] = COLOURS["scarlet"], 2
        photo[:, 64:] = COLOURS["blue"]
        photo[number] = 200  # no two files are equal
        if number % 2:
            photo, labels = photo[:, ::-1].copy(), labels[:, ::-1].copy()
        Image.fromarray(photo).save(folder / "images" / f"{number}.png")
        Image.fromarray(labels).save(folder / "labels" / f"{number}.png")


@pytest.fixture
def stage(tmp_path: Path) -> TeachStage:
    make_folder(tmp_path / "photos")
    source = LabelSource(kind="maps", folder=str(tmp_path / "photos"), size=256)
    return TeachStage(
        name="taught",
        vocabulary="names.txt",
        sources=(source,),
        epochs=10,
        batch=8,
        learning_rate=2e-2,
        context_dropout=0.9,
    )


def test_a_run_teaches_names_and_its_checkpoint_keeps_them(
    lite2_checkpoint: Path, stage: TeachStage, tmp_path: Path
) -> None:
    lessons = read_lessons(stage, LINES)
    assert lessons.concepts.names == ("red", "blue")  # nothing shows the third
    made = add_taught_names(assemble(Checkpoints(lite2_checkpoint)), stage, lessons.concepts)
    assert made.metadata.text is not None and made.metadata.taught is not None
    assert made.metadata.text.logit_scale == stage.logit_scale * stage.confidence
    student = MergedStudent(made)
    seen: list[str] = []
    work = Teaching(
        stage=stage,
        lessons=lessons,
        student=student,
        tokenizer=made.tokenizer or b"",
        replay=FolderSource(tmp_path / "photos" / "images"),
        cache=OutputCache(tmp_path / "cache"),
        holdout=0.3,
        seed=1,
    )
    line = teach(work, seen.append)
    assert "of 2 names, expected calibration error" in line
    right = float(line.split()[4])
    assert right > 0.8  # chance is 0.5

    files = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) == 12  # six photos with labels, and the same six of the replay
    times = [file.stat().st_mtime_ns for file in files]
    assert teach(work, seen.append) == line
    assert [file.stat().st_mtime_ns for file in files] == times  # read, not computed

    again = assemble(Checkpoints(save_merged(made, tmp_path / "taught.safetensors")))
    assert again.metadata.taught == made.metadata.taught
    _assert_same_answers(again, made)


def _assert_same_answers(one: Assembly, other: Assembly) -> None:
    taught, head = one.model.taught, one.model.clip_head
    assert taught is not None and isinstance(head, ConseHead) and head.taught is not None
    maps = torch.rand(1, one.model.image_encoder.backbone_channels, 8, 8)
    names = torch.randn(4, one.metadata.embed_dim)
    with torch.inference_mode():
        image, patches = head(maps, torch.ones(1, 8, 8))
        assert image.shape[1] == patches.shape[1] == one.metadata.joint_dim
        assert torch.equal(image, other.model.clip_head(maps, torch.ones(1, 8, 8))[0])
        assert other.model.taught is not None
        assert torch.equal(taught(names), other.model.taught(names))


def test_what_cannot_be_taught_is_refused(mobile_sam_checkpoint: Path, stage: TeachStage) -> None:
    with pytest.raises(TrainingError, match="no concept of"):
        read_lessons(stage, ["green", "unseen"])
    concepts = read_lessons(stage, LINES).concepts
    with pytest.raises(ConfigError, match="teaches names to a lite2 model"):
        add_taught_names(assemble(Checkpoints(mobile_sam_checkpoint)), stage, concepts)
