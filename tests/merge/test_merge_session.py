"""One call of the command on a small model: the results in its folder, and its refusals."""

from __future__ import annotations

import io
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


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """Two steps on generated photos; the teachers' files exist, and their content is not read."""
    photos = str(write_photos(tmp_path / "photos"))
    for name in ("names.pth", "masks.pth"):
        (tmp_path / name).write_bytes(name.encode())
    base = tiny_config()
    stage = msgspec.structs.replace(base.stages[0], steps=2)
    return msgspec.structs.replace(
        base,
        license="MIT",
        notes="a test",
        stages=(stage,),
        teachers=msgspec.convert(
            {
                "names": {"kind": "conse", "checkpoint": str(tmp_path / "names.pth")},
                "masks": {"checkpoint": str(tmp_path / "masks.pth")},
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


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    made = {
        "make_student": lambda config: tiny_assembly(),
        "make_teachers": lambda config, cache, device: tiny_teachers(cache),
        "make_vocabulary": lambda config, teacher: torch.eye(DIM),
    }
    for name, make in made.items():
        monkeypatch.setattr(merge_session, name, make)
    return Call(tmp_path)


def test_a_run_leaves_its_results(call: Call, config: RunConfig, tmp_path: Path) -> None:
    call(config).train()
    assert {path.name for path in call.output.iterdir()} == {
        *("cache", "config.toml", "curves.png", "evaluation.json", "held_back.txt", "log.csv"),
        *("merged.safetensors", "state"),
    }
    assert (call.output / "config.toml").read_text() == "# the file\n"
    assert len(StepLog(call.output / "log.csv").rows()) == 2
    assert [(r.stage, r.step) for r in read_records(call.output / "evaluation.json")] == [
        ("head", None)
    ]
    assert "export it with samclip-export" in call.printed.getvalue()


def test_the_checkpoint_records_the_run(call: Call, config: RunConfig, tmp_path: Path) -> None:
    call(config).train()
    merged = assemble(Checkpoints(call.output / "merged.safetensors"))
    metadata = merged.metadata
    assert (metadata.name, metadata.license, metadata.notes) == ("tiny", "MIT", "a test")
    assert metadata.head_trained
    assert [(s.role, s.file, s.sha256) for s in metadata.sources[1:]] == [
        ("teacher", name, file_sha256(tmp_path / name)) for name in ("names.pth", "masks.pth")
    ]
    state = StateFolder(call.output / "state").read(config.digest)
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


def test_a_finished_run_is_not_run_again(call: Call, config: RunConfig) -> None:
    call(config).train()
    before = (call.output / "merged.safetensors").read_bytes()
    call(config).train()
    assert (call.output / "merged.safetensors").read_bytes() == before
    assert "every stage is done already" in call.printed.getvalue()
    assert len(StepLog(call.output / "log.csv").rows()) == 2


def test_another_configuration_needs_resume_or_restart(call: Call, config: RunConfig) -> None:
    call(config).train()
    longer = msgspec.structs.replace(
        config, stages=(*config.stages, msgspec.structs.replace(config.stages[0], name="more"))
    )
    with pytest.raises(TrainingError, match="another configuration"):
        call(longer).train()
    call(longer, resume=True).train()  # goes on: the first stage is done
    assert [row["stage"] for row in StepLog(call.output / "log.csv").rows()] == [
        *("head", "head", "more", "more")
    ]
    with pytest.raises(TrainingError, match="the state stands at stage 3, and the file has 1"):
        call(config, resume=True).train()
    call(config, restart=True).train()
    assert len(StepLog(call.output / "log.csv").rows()) == 2
    assert len(read_records(call.output / "evaluation.json")) == 1


def test_resume_insists_on_a_state(call: Call, config: RunConfig) -> None:
    with pytest.raises(TrainingError, match="holds no state to resume"):
        call(config, resume=True).train()


def test_a_state_of_another_model_is_refused(
    call: Call, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(config).train()
    monkeypatch.setattr(
        merge_session, "make_student", lambda config: tiny_assembly(embed_dim=DIM + 1)
    )
    monkeypatch.setattr(merge_session.MergeSession, "_evaluator", lambda *_: None)
    with pytest.raises(TrainingError, match=r"another model: its clip_head\.mlp\S* does not fit"):
        call(config).train()


def test_a_checkpoint_is_evaluated(call: Call, config: RunConfig) -> None:
    call(config).train()
    start = call.printed.tell()
    call(config).evaluate(call.output / "merged.safetensors")
    call.printed.seek(start)
    ours = read_records(call.output / "evaluation.json")[0]
    assert ours.line().replace("'head'", "'merged.safetensors'") in call.printed.read()
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        call(config).evaluate(call.output / "gone.safetensors")


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
