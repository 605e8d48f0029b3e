"""The files that describe runs: their content, and mistakes in them."""

import os
from pathlib import Path
from typing import Any

import pytest
from tree import CONFIGS

from samclip.errors import ConfigError, InputError
from samclip.merge.config.run import (
    RunConfig,
    parse_config,
    read_config,
    required_streams,
    required_teachers,
)
from samclip.merge.config.stages import Losses, StitchStage, TrainStage

MINIMAL = """
name = "small"
[student]
checkpoint = "mobile_sam"
[teachers.names]
kind = "conse"
checkpoint = "efficientnet_lite2"
[teachers.masks]
checkpoint = "mobile_sam"
[data.names]
folders = ["photos"]
[data.masks]
folders = ["photos"]
[[stages]]
name = "head"
steps = 10
learning_rate = 1e-3
train = { clip_head = 1.0 }
losses = { clip = 1.0 }
names = { batch = 4, size = 224 }
"""


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Read a configuration from text."""

    def reading(text: str, **options: Any) -> RunConfig:
        file = tmp_path / "run.toml"
        file.write_text(text, "utf-8")
        return read_config(file, **options)

    return reading


def test_defaults(read: Any) -> None:
    config = read(MINIMAL)
    assert (config.seed, config.precision, config.save_every) == (0, "auto", 100)
    assert config.student.model_type is None
    [stage] = config.stages
    assert isinstance(stage, TrainStage)
    assert (stage.stop, stage.clip_norm, stage.ema, stage.schedule) == (1.0, 1.0, None, "cosine")
    assert stage.names.sizes == (224,)
    assert (required_teachers(stage), required_streams(stage)) == (("names",), ("names",))


def test_stages_are_of_two_kinds(read: Any) -> None:
    config = read(MINIMAL + '[[stages]]\nname = "seam"\nkind = "stitch"\nphotos = 5\n')
    stitch = config.stages[1]
    assert isinstance(stitch, StitchStage)
    assert (stitch.photos, required_teachers(stitch), required_streams(stitch)) == (
        5,
        ("masks",),
        ("masks",),
    )


def test_a_stage_is_stretched(read: Any) -> None:
    text = MINIMAL + '[[stages]]\nname = "seam"\nkind = "stitch"\nphotos = 5\n'
    assert [s.steps for s in read(text, steps_scale=2.5).stages[:1]] == [25]
    assert read(text, steps_scale=0.01).stages[0].steps == 1
    assert read(text, steps_scale=0.01).stages[1].photos == 1
    epochs = text.replace("steps = 10", "epochs = 4")
    assert read(epochs, steps_scale=0.5).stages[0].epochs == 2


def test_the_digest_distinguishes_runs(read: Any) -> None:
    digest = read(MINIMAL).digest
    assert digest == read("# a comment\n" + MINIMAL).digest
    assert digest == read("seed = 0\n" + MINIMAL).digest
    assert digest != read("seed = 1\n" + MINIMAL).digest
    assert digest != read(MINIMAL, steps_scale=2).digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("learning_rate", "learning_rat"), "did you mean 'learning_rate'"),
        (("[teachers.names]", "[teachers.nams]"), "did you mean 'names'"),
        (("clip = 1.0", "klip = 1.0"), "did you mean 'clip'"),
        (
            ("losses = { clip = 1.0 }", "losses = { patch = 1.0 }"),
            "`patch`.*; there are clip, region",
        ),
        (('checkpoint = "mobile_sam"\n[t', 'checkpont = "mobile_sam"\n[t'), "mean 'checkpoint'"),
        (('kind = "conse"', 'kind = "cones"'), r"cones.*\$\.teachers\.names\.kind"),
        (("steps = 10", 'steps = "10"'), r"Expected `int \| null`.*\$\.stages\[0\]\.steps"),
        (('name = "head"\nsteps', "steps"), "missing required field `name`"),
        (("clip = 1.0 }", "clip = 1.0"), "not valid TOML"),
    ],
)
def test_mistakes_of_spelling_and_type(read: Any, change: tuple[str, str], message: str) -> None:
    assert change[0] in MINIMAL
    with pytest.raises(ConfigError, match=message):
        read(MINIMAL.replace(*change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("steps = 10", "steps = 10\nepochs = 1"), "'head': expected either steps or epochs"),
        (("steps = 10\n", ""), "either steps or epochs"),
        (("steps = 10", "steps = 0"), "a length above 0"),
        (("steps = 10", "steps = 10\nstop = 1.5"), "stop above 0, up to 1"),
        (("steps = 10", "steps = 10\nwarmup = 1.0"), "warmup, floor"),
        (("steps = 10", "steps = 10\nema = 1.0"), "ema between 0 and 1"),
        (("steps = 10", "steps = 10\nclip_norm = 0.0"), "clip_norm above 0"),
        (("1e-3", "0.0"), "learning_rate above 0"),
        (("clip_head = 1.0 }", "}"), "parts to train"),
        (("clip_head = 1.0", "clip_head = -1.0"), "factors of at least 0"),
        (("clip = 1.0", "clip = 0.0"), "a loss above 0"),
        (("clip = 1.0", "clip = -1.0"), "losses of at least 0"),
        (("clip = 1.0", "sam = 1.0"), r"masks = \{"),
        (("clip = 1.0", "region = 1.0"), "regions above 0"),
        (("batch = 4", "batch = 0"), "batch and micro above 0"),
        (("batch = 4", "batch = 4, views = -1"), "views and regions"),
        (("size = 224", "size = [224, 100]"), "multiples of 16"),
        (("size = 224", "size = []"), "multiples of 16"),
        (("[data.names]", "[data]\nholdout = 1.0\n[data.names]"), "data.holdout is 1.0"),
        (("[[stages]]", '[[stages]]\nname = "head"\nkind = "stitch"\n[[stages]]'), "'head'"),
        (('[data.names]\nfolders = ["photos"]', "[data.names]"), r"\[data.names\] folders"),
    ],
)
def test_mistakes_of_sense(read: Any, change: tuple[str, str], message: str) -> None:
    assert change[0] in MINIMAL
    with pytest.raises(ConfigError, match=message) as caught:
        read(MINIMAL.replace(*change))
    assert "run.toml" in str(caught.value)


def test_views_out_of_range_are_refused(read: Any) -> None:
    wrong = MINIMAL.replace("size = 224", "size = 224, view = { flip = 2.0 }")
    with pytest.raises(InputError, match=r"flip of a view is 2\.0"):
        read(wrong)


def test_teachers_that_a_stage_needs(read: Any) -> None:
    teacher = '[teachers.names]\nkind = "conse"\ncheckpoint = "efficientnet_lite2"\n'
    assert teacher in MINIMAL
    with pytest.raises(ConfigError, match=r"'head' needs \[teachers.names\]"):
        read(MINIMAL.replace(teacher, ""))


@pytest.mark.parametrize("name", ["../../../evil", "/etc/x", "~", "..", "", "a\\u0000b", "-rf"])
def test_a_runs_name_stays_in_its_folder(read: Any, name: str) -> None:
    with pytest.raises(ConfigError, match="the run's name"):
        read(MINIMAL.replace('name = "small"', f'name = "{name}"', 1))


def test_a_run_is_read_from_plain_files_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.toml")
    for path in (tmp_path / "run.toml", Path("/dev/zero"), tmp_path):
        with pytest.raises(ConfigError, match="expected a plain file"):
            read_config(path)


def test_one_folder_stands_for_all_photos(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(MINIMAL + '[[stages]]\nname = "seam"\nkind = "stitch"\n', "utf-8")
    given = read_config(file)
    data = read_config(file, photos=Path("mine")).data
    assert data.names is not None
    assert data.masks is not None
    assert (data.names.folders, data.masks.folders, data.instances) == (("mine",), ("mine",), None)
    assert (data.holdout, data.cache) == (given.data.holdout, given.data.cache)
    assert read_config(file, photos=Path("mine")).digest != given.digest

    bare = "".join(MINIMAL.split('[data.names]\nfolders = ["photos"]\n[data.masks]\n'
                                 'folders = ["photos"]\n'))  # fmt: skip
    file.write_text(bare, "utf-8")
    with pytest.raises(ConfigError, match=r"needs photos.*--photos FOLDER"):
        read_config(file)
    data = read_config(file, photos=Path("mine")).data
    assert data.names is not None
    assert (data.names.folders, data.masks) == (("mine",), None)


def test_a_folder_of_photos_has_no_annotations() -> None:
    with pytest.raises(ConfigError, match=r"has annotations, .*instances_train2017.json, which"):
        read_config(CONFIGS / "ovsam_rn50.toml", photos=Path("mine"))


def test_a_run_without_stages() -> None:
    raw = {"name": "x", "student": {"checkpoint": "a"}, "teachers": {}, "data": {}, "stages": []}
    with pytest.raises(ConfigError, match="there are no stages"):
        parse_config(raw, "run.toml")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone.toml cannot be read: No such file"):
        read_config(tmp_path / "gone.toml")
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_config(tmp_path / "latin.toml")


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.toml")), ids=lambda file: file.stem)
def test_every_configuration_here_is_valid(file: Path) -> None:
    config = read_config(file)
    assert config.stages
    assert config.notes


def test_the_papers_recipe_in_its_numbers() -> None:
    """SAM-CLIP (Wang et al., 2023), section 4 and appendix A."""
    config = read_config(CONFIGS / "sam_clip_vit_b.toml")
    head, merge, resolution = config.stages
    assert isinstance(head, TrainStage)
    assert isinstance(merge, TrainStage)
    assert isinstance(resolution, TrainStage)
    assert [s.learning_rate for s in (head, merge, resolution)] == [8e-4, 4e-5, 8e-4]
    assert [(s.epochs, s.stop) for s in (head, merge, resolution)] == [(20, 1), (20, 0.8), (3, 1)]
    assert [s.steps for s in (head, merge, resolution)] == [None] * 3
    assert head.train == resolution.train == {"clip_head": 1.0}
    assert merge.train == {"clip_head": 1.0, "image_encoder": 0.1, "mask_decoder": 0.1}
    assert head.losses == Losses(clip=1)
    assert resolution.losses == head.losses
    assert merge.losses == Losses(clip=1, sam=10)
    assert (merge.mask_loss.focal, merge.mask_loss.dice, merge.mask_loss.iou) == (20, 1, 0)
    assert head.masks is None
    assert resolution.masks is None
    assert merge.names is not None
    assert merge.masks is not None
    assert (merge.names.batch, merge.names.sizes) == (2048, (224, 448))
    assert (merge.masks.batch, merge.masks.sizes, merge.masks.prompts) == (32, (1024,), 32)
    assert resolution.names is not None
    assert resolution.names.sizes == (224, 448, 1024)
    assert config.data.holdout == 0.01
    assert (config.student.image_size, config.student.recogniser) == (1024, None)
    assert config.teachers.names is not None
    assert (config.teachers.names.kind, config.teachers.names.model) == ("open_clip", "ViT-L-14")
    assert config.teachers.masks is not None
    assert config.teachers.masks.checkpoint == config.student.checkpoint  # SAM teaches itself
