import tarfile
from pathlib import Path

import pytest
import torch
from photo_sources import write_photos

from samclip.errors import ConfigError, InputError, TrainingError
from samclip.merge import factories
from samclip.merge.config.run import RunConfig
from samclip.merge.config.tables import (
    DataConfig,
    NameTeacherConfig,
    SourceConfig,
    StudentConfig,
    TeachersConfig,
)
from samclip.merge.factories import (
    expand_shards,
    make_accelerator,
    make_name_teacher,
    make_sources,
    make_teachers,
    make_vocabulary,
    open_source,
    read_lines,
    require_devices,
)

CPU = torch.device("cpu")
NAMES = [f"{index}.png" for index in range(6)]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", NAMES)


def shard(path: Path, files: list[Path]) -> str:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for file in files:
            tar.add(file, file.name)
    return str(path)


def test_photos_are_split_once_for_both_streams(photos: Path) -> None:
    source = SourceConfig(folders=(str(photos),))
    train, held = make_sources(DataConfig(names=source, masks=source, holdout=0.5), seed=0)
    assert train["names"] is train["masks"]
    assert held["names"] is held["masks"]
    trained = {train["names"].key(i) for i in range(len(train["names"]))}
    kept = {held["names"].key(i) for i in range(len(held["names"]))}
    assert not trained & kept
    assert len(trained | kept) == 6


def test_a_stream_without_photos_is_absent(photos: Path) -> None:
    train, held = make_sources(DataConfig(masks=SourceConfig(folders=(str(photos),))), seed=0)
    assert train.keys() == held.keys() == {"masks"}
    with pytest.raises(InputError, match="there is no folder"):
        make_sources(DataConfig(names=SourceConfig(folders=("nowhere",))), seed=0)


def test_folders_and_shards_are_one_source(photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.iterdir())
    shard(tmp_path / "shards" / "b.tar", files[:2])
    shard(tmp_path / "shards" / "a.tar", files[4:])
    for file in files[4:]:
        file.unlink()
    config = SourceConfig(folders=(str(photos),), shards=(str(tmp_path / "shards" / "*.tar"),))
    assert len(open_source(config)) == 6  # what is in both counts once


def test_patterns_stand_for_shards(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b", "a", "c"):
        shard(tmp_path / "shards" / f"{name}.tar", [])
    monkeypatch.chdir(tmp_path)
    assert expand_shards(["shards/c.tar", "shards/[ab].tar"]) == [
        "shards/c.tar",
        "shards/a.tar",
        "shards/b.tar",
    ]
    assert expand_shards([f"{tmp_path}/shards/?.tar"])[0] == f"{tmp_path}/shards/a.tar"
    with pytest.raises(InputError, match=r"no shard matches shards/x\*\.tar"):
        expand_shards(["shards/x*.tar"])


def test_teachers_that_a_run_lacks_are_asked_in_vain(tmp_path: Path) -> None:
    config = RunConfig(
        name="x",
        student=StudentConfig(checkpoint="none"),
        teachers=TeachersConfig(),
        data=DataConfig(),
        stages=(),
    )
    teachers = make_teachers(config, tmp_path, CPU)
    for ask in (lambda: teachers.names, lambda: teachers.masks(64), teachers.mask_encoder):
        with pytest.raises(ConfigError, match=r"\[teachers\.(names|masks)\]"):
            ask()


def test_conse_needs_a_text_checkpoint() -> None:
    with pytest.raises(ConfigError, match="kind conse needs text_checkpoint"):
        make_name_teacher(NameTeacherConfig(kind="conse", checkpoint="none"), CPU)


class Names:
    """A name teacher without classes."""

    fingerprint, embed_dim = "names", 4


def test_an_evaluation_needs_a_vocabulary(tmp_path: Path, text_checkpoint: Path) -> None:
    lacking = NameTeacherConfig(kind="open_clip", checkpoint="none")
    with pytest.raises(ConfigError, match="vocabulary, a file with one name a line"):
        make_vocabulary(lacking, Names())  # type: ignore[arg-type]
    (tmp_path / "names.txt").write_text("cat\n\n a dog \n", "utf-8")
    config = NameTeacherConfig(
        kind="open_clip",
        checkpoint="none",
        vocabulary=str(tmp_path / "names.txt"),
        text_checkpoint=str(text_checkpoint),
    )
    embeds = make_vocabulary(config, Names())  # type: ignore[arg-type]
    assert embeds.shape == (2, 48)
    assert embeds.norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)


def test_names_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text(" cat \n\n\tdog", "utf-8")
    assert read_lines(str(tmp_path / "names.txt")) == ("cat", "dog")
    with pytest.raises(TrainingError, match=r"gone\.txt cannot be read"):
        read_lines(str(tmp_path / "gone.txt"))


def test_processes_need_a_gpu_each_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    require_devices(64)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    require_devices(2)
    with pytest.raises(TrainingError, match="this machine has 2; give --processes 2"):
        require_devices(3)


@pytest.mark.parametrize(
    ("precision", "cuda", "bf16", "expected"),
    [
        ("auto", False, True, (True, "no")),
        ("auto", True, True, (False, "bf16")),
        ("auto", True, False, (False, "no")),
        ("fp32", True, True, (False, "no")),
        ("bf16", False, False, (True, "bf16")),
    ],
)
def test_auto_precision(
    precision: str,
    cuda: bool,
    bf16: bool,
    expected: tuple[bool, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[tuple[bool, str]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    monkeypatch.setattr(
        factories,
        "Accelerator",
        lambda cpu, mixed_precision, kwargs_handlers: made.append((cpu, mixed_precision)),
    )
    config = RunConfig(
        name="x",
        student=StudentConfig(checkpoint="none"),
        teachers=TeachersConfig(),
        data=DataConfig(),
        stages=(),
        precision=precision,  # type: ignore[arg-type]
    )
    make_accelerator(config)
    assert made == [expected]
