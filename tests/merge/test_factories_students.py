"""From a configuration to the Open-Vocabulary SAM that is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from samclip.export.families.ovsam_assembly import OvsamAssembly, save_ovsam
from samclip.merge.config.tables import OvsamSizes, StudentConfig
from samclip.merge.factories import make_learner, make_student, read_student
from samclip.merge.students.ovsam_student import OvsamStudent

SIZES = OvsamSizes(
    width=8,
    depths=(1, 1, 1, 1),
    pool_grid=2,
    neck_width=16,
    neck_depth=1,
    neck_heads=2,
    neck_window=3,
    fpn_channels=8,
)


@pytest.fixture(scope="module")
def student(mobile_sam_checkpoint: Path, text_checkpoint: Path) -> StudentConfig:
    return StudentConfig(
        checkpoint=str(mobile_sam_checkpoint),
        text_checkpoint=str(text_checkpoint),
        model_type="ovsam",
        image_size=64,
        sizes=SIZES,
    )


def test_a_student_of_sizes_of_its_own(student: StudentConfig, tmp_path: Path) -> None:
    assembly = make_student(student)
    assert isinstance(assembly, OvsamAssembly)
    config = assembly.model.config
    assert (config.image_size, config.embed_dim, config.fpn_channels) == (64, 48, 8)
    assert (config.neck.width, config.neck.depth, config.neck.window_size) == (16, 1, 3)
    again = read_student(save_ovsam(assembly, tmp_path / "merged.safetensors"))
    assert isinstance(make_learner(again), OvsamStudent)
    own, *origins = again.metadata.sources
    assert (own.role, own.file, tuple(origins)) == (
        "merged",
        "merged.safetensors",
        assembly.metadata.sources,
    )
    assert replace(again.metadata, sources=tuple(origins)) == assembly.metadata
