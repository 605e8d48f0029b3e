"""From a configuration to annotated photos and the classes of instances."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_ovsam_run import COLOURS, write_annotated

from samclip.errors import ConfigError
from samclip.merge.config.tables import (
    DataConfig,
    InstanceSourceConfig,
    LabelsConfig,
    SourceConfig,
    StudentConfig,
)
from samclip.merge.factories import make_annotations, make_labels, make_sources


@pytest.fixture
def student(text_checkpoint: Path) -> StudentConfig:
    return StudentConfig(checkpoint="none", text_checkpoint=str(text_checkpoint))


def annotated(folder: Path) -> InstanceSourceConfig:
    file = write_annotated(folder)
    return InstanceSourceConfig(folders=(str(folder / "annotated"),), annotations=str(file))


def test_annotated_photos_are_a_stream(tmp_path: Path) -> None:
    source = annotated(tmp_path)
    annotations = make_annotations(source)
    assert annotations is not None
    data = DataConfig(instances=source, masks=SourceConfig(folders=source.folders), holdout=0.4)
    train, held = make_sources(data, 0, annotations)
    assert train.keys() == held.keys() == {"masks", "instances"}
    assert len(train["instances"]) + len(held["instances"]) == len(annotations.photos)
    keys = {name: {s.key(i) for i in range(len(s))} for name, s in held.items()}
    assert keys["masks"] == keys["instances"]  # what is held back depends on the photo alone
    assert make_annotations(InstanceSourceConfig(folders=source.folders)) is None
    assert make_annotations(None) is None


def test_classes_are_the_categories_or_a_file(student: StudentConfig, tmp_path: Path) -> None:
    annotations = make_annotations(annotated(tmp_path))
    labels = make_labels(LabelsConfig(templates="vild"), student, annotations)
    assert labels is not None
    assert labels.names == COLOURS
    (tmp_path / "names.txt").write_text("red\n\nblue; azure\n")
    named = LabelsConfig(vocabulary=str(tmp_path / "names.txt"), templates=("{}",))
    chosen = make_labels(named, student, annotations)
    assert chosen is not None
    assert chosen.names == ("red", "blue")
    assert torch.equal(chosen.owners, torch.tensor([0, 1, 1]))
    assert make_labels(None, student, annotations) is None
    with pytest.raises(ConfigError, match="without annotations need"):
        make_labels(LabelsConfig(), student, None)
