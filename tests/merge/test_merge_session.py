"""One call of the command on a small model: the results in its folder, and its refusals."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from rich.console import Console
from tiny_run import DIM, tiny_assembly, tiny_config, tiny_teachers, write_photos

from samclip.errors import CheckpointError, TrainingError
from samclip.export.checkpoints.fetch import file_sha256
from samclip.export.families.merged_assembly import Checkpoints, assemble
from samclip.merge import merge_session
from samclip.merge.config.run import RunConfig
from samclip.merge.merge_session import MergeSession, SessionOptions
from samclip.merge.training.evaluation import read_records
from samclip.merge.training.state import StateFolder
from samclip.merge.training.step_log import StepLog


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with generated photos, and the teachers' files, whose content is not read."""
    folder = tmp_path_factory.mktemp("merge")
    write_photos(folder / "photos")
    for name in ("names.pth", "masks.pth"):
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.fixture(scope="module")
def config(place: Path) -> RunConfig:
    """Two steps on those photos."""
    photos = str(place / "photos")
    base = tiny_config()
    stage = msgspec.structs.replace(base.stages[0], steps=2)
    return msgspec.structs.replace(
        base,
        license="MIT",
        notes="a test",
        stages=(stage,),
        teachers=msgspec.convert(
            {
                "names": {"kind": "conse", "checkpoint": str(place / "names.pth")},
                "masks": {"checkpoint": str(place / "masks.pth")},
            },
            type(base.teachers),
        ),
        data=msgspec.convert(
            {"names": {"folders": [photos]}, "masks": {"folders": [photos]}, "holdout": 0.3},
            type(base.data),
        ),
    )


class Call:
    """Makes sessions with small models, and keeps their output."""

    def __init__(self, folder: Path) -> None:
        self.output, self.file = folder / "run", folder / "run.toml"
        self.file.write_text("# the file\n")
        self.printed = io.StringIO()

    def __call__(self, config: RunConfig, **options: Any) -> MergeSession:
        console = Console(file=self.printed, width=200)
        return MergeSession(config, SessionOptions(self.output, self.file, **options), console)


MADE = {
    "make_student": lambda config: tiny_assembly(),
    "make_teachers": lambda config, cache, device: tiny_teachers(cache),
    "make_vocabulary": lambda config, teacher: torch.eye(DIM),
}


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    for name, make in MADE.items():
        monkeypatch.setattr(merge_session, name, make)
    return Call(tmp_path)


@pytest.fixture(scope="module")
def finished(config: RunConfig, place: Path) -> Call:
    """A run that was trained to its end."""
    with pytest.MonkeyPatch.context() as patch:
        for name, make in MADE.items():
            patch.setattr(merge_session, name, make)
        trained = Call(place)
        trained(config).train()
    return trained


@pytest.fixture
def trained(finished: Call, call: Call) -> Call:
    """A copy of that run."""
    shutil.copytree(finished.output, call.output)
    return call


def test_a_run_leaves_its_results(finished: Call) -> None:
    assert {path.name for path in finished.output.iterdir()} == {
        *("cache", "config.toml", "curves.png", "evaluation.json", "held_back.txt", "log.csv"),
        *("merged.safetensors", "state"),
    }
    assert (finished.output / "config.toml").read_text() == "# the file\n"
    assert len(StepLog(finished.output / "log.csv").rows()) == 2
    assert [(r.stage, r.step) for r in read_records(finished.output / "evaluation.json")] == [
        ("head", None)
    ]
    assert "export it with samclip-export" in finished.printed.getvalue()


def test_the_checkpoint_records_the_run(finished: Call, config: RunConfig, place: Path) -> None:
    merged = assemble(Checkpoints(finished.output / "merged.safetensors"))
    metadata = merged.metadata
    assert (metadata.name, metadata.license, metadata.notes) == ("tiny", "MIT", "a test")
    assert metadata.head_trained
    assert [(s.role, s.file, s.sha256) for s in metadata.sources[1:]] == [
        ("teacher", name, file_sha256(place / name)) for name in ("names.pth", "masks.pth")
    ]
    state = StateFolder(finished.output / "state").read(config.digest)
    assert state is not None
    own = merged.model.state_dict()
    assert state.model
    assert all(torch.equal(own[name], tensor) for name, tensor in state.model.items())


def test_an_untrained_head_is_not_recorded_as_trained(call: Call, config: RunConfig) -> None:
    masks = msgspec.convert(
        {
            "kind": "train",
            "name": "masks",
            "steps": 1,
            "learning_rate": 1e-3,
            "train": {"image_encoder.neck": 1.0},
            "losses": {"embed": 1.0},
            "masks": {"batch": 2, "size": 64},
        },
        type(config.stages[0]),
    )
    call(msgspec.structs.replace(config, stages=(masks,))).train()
    assert not assemble(Checkpoints(call.output / "merged.safetensors")).metadata.head_trained


def test_a_finished_run_is_not_run_again(trained: Call, config: RunConfig) -> None:
    before = (trained.output / "merged.safetensors").read_bytes()
    trained(config).train()
    assert (trained.output / "merged.safetensors").read_bytes() == before
    assert "every stage is done already" in trained.printed.getvalue()
    assert len(StepLog(trained.output / "log.csv").rows()) == 2


def test_another_configuration_needs_resume_or_restart(trained: Call, config: RunConfig) -> None:
    longer = msgspec.structs.replace(
        config, stages=(*config.stages, msgspec.structs.replace(config.stages[0], name="more"))
    )
    with pytest.raises(TrainingError, match="another configuration"):
        trained(longer).train()
    trained(longer, resume=True).train()  # goes on: the first stage is done
    assert [row["stage"] for row in StepLog(trained.output / "log.csv").rows()] == [
        *("head", "head", "more", "more")
    ]
    with pytest.raises(TrainingError, match="the state stands at stage 3, and the file has 1"):
        trained(config, resume=True).train()
    trained(config, restart=True).train()
    assert len(StepLog(trained.output / "log.csv").rows()) == 2
    assert len(read_records(trained.output / "evaluation.json")) == 1


def test_resume_insists_on_a_state(call: Call, config: RunConfig) -> None:
    with pytest.raises(TrainingError, match="holds no state to resume"):
        call(config, resume=True).train()


def test_a_state_of_another_model_is_refused(
    trained: Call, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        merge_session, "make_student", lambda config: tiny_assembly(embed_dim=DIM + 1)
    )
    monkeypatch.setattr(merge_session.MergeSession, "_evaluator", lambda *_: None)
    with pytest.raises(TrainingError, match=r"another model: its clip_head\.mlp\S* does not fit"):
        trained(config).train()


def test_a_checkpoint_is_evaluated(trained: Call, config: RunConfig) -> None:
    start = trained.printed.tell()
    trained(config).evaluate(trained.output / "merged.safetensors")
    trained.printed.seek(start)
    ours = read_records(trained.output / "evaluation.json")[0]
    assert ours.line().replace("'head'", "'merged.safetensors'") in trained.printed.read()
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        trained(config).evaluate(trained.output / "gone.safetensors")


def test_without_held_back_photos_nothing_is_evaluated(call: Call, config: RunConfig) -> None:
    data = msgspec.structs.replace(config.data, holdout=0.0)
    trusting = msgspec.structs.replace(config, data=data)
    call(trusting).train()
    assert "nothing is evaluated" in call.printed.getvalue()
    assert not (call.output / "evaluation.json").exists()
    with pytest.raises(TrainingError, match=r"data\.holdout above 0"):
        call(trusting).evaluate(call.output / "merged.safetensors")


def test_teachers_are_asked_beforehand(call: Call, config: RunConfig) -> None:
    call(config).precompute()
    assert "head: names at 64 px: " in call.printed.getvalue()
    assert "head: names at 96 px: " in call.printed.getvalue()
    assert any((call.output / "cache").rglob("*.safetensors"))
    fresh = msgspec.structs.replace(config.stages[0].names, views=0)
    stage = msgspec.structs.replace(config.stages[0], names=fresh)
    with pytest.raises(TrainingError, match="no stage has fixed views"):
        call(msgspec.structs.replace(config, stages=(stage,))).precompute()
