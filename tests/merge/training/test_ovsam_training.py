"""Open-Vocabulary SAM's two stages: trained and frozen parts, and stopped runs that go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from accelerate import Accelerator
from tiny_ovsam_run import (
    OVSAM,
    STAGES,
    annotated,
    colour_labels,
    ovsam_assembly,
    ovsam_config,
    ovsam_run,
    ovsam_student,
)
from tiny_run import SIZE, StopAt, tiny_student
from tree import CONFIGS

from samclip.errors import ConfigError
from samclip.export.families.ovsam_assembly import OvsamFiles, assemble_ovsam, read_ovsam
from samclip.merge.config.run import read_config
from samclip.merge.config.stages import Losses, TrainStage
from samclip.merge.data.mask_prompts import box_prompts
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.data.views import View
from samclip.merge.merge_session import trains_head, write_result
from samclip.merge.students.ovsam_student import OvsamStudent
from samclip.merge.training.descent import Descent
from samclip.merge.training.objective import instance_terms
from samclip.merge.training.optimiser import freeze_all_but, select_parts
from samclip.merge.training.prompted_masks import prompt_instances
from samclip.merge.training.state import StateFolder
from samclip.merge.training.step_log import StepLog
from samclip.merge.training.targets import InstanceTargets
from samclip.merge.training.trainer import Run, StoppedError, Trainer

BOTH = {"names": {"kind": "conse", "checkpoint": "none"}, "masks": {"checkpoint": "none"}}
TRAINED = {"neck", "fpn", "roi_classifier", "mask_decoder"}


def trained(run: Run) -> dict[str, torch.Tensor]:
    Trainer(run).train(StateFolder(run.output / "state").read(run.config.digest))
    return {name: tensor.clone() for name, tensor in run.student.model.state_dict().items()}


def test_two_stages_move_their_parts_and_nothing_else(tmp_path: Path) -> None:
    before = ovsam_assembly().model.state_dict()
    run = ovsam_run(tmp_path / "run")
    after = trained(run)
    moved = {name.partition(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert moved == TRAINED
    assert torch.equal(after["neck.pos_embed"], before["neck.pos_embed"])  # SAM's own
    rows = StepLog(run.output / "log.csv").rows()
    assert [{t for t in ("embed", "mask", "dice", "label") if row[t]} for row in rows] == [
        *[{"embed"}] * 3,
        *[{"mask", "dice", "label"}] * 3,
    ]


def longer(stage: dict[str, object]) -> dict[str, object]:
    """A stage of 40 steps on views that are always the same."""
    stream = "masks" if "masks" in stage else "instances"
    shown = {"batch": 2, "size": SIZE, "views": 1, "view": {"whole": 1.0, "flip": 0.0}}
    return {**stage, "steps": 40, "learning_rate": 3e-3, stream: shown}


@pytest.mark.slow  # 80 steps
def test_every_loss_falls(tmp_path: Path) -> None:
    run = ovsam_run(tmp_path / "run", ovsam_config(stages=[longer(stage) for stage in STAGES]))
    trained(run)
    rows = StepLog(run.output / "log.csv").rows()
    for term, share in {"embed": 0.9, "mask": 0.9, "dice": 0.95, "label": 0.9}.items():
        values = [float(row[term]) for row in rows if row[term]]
        assert sum(values[-6:]) < share * sum(values[:6]), f"{term}: {values}"


def test_a_stopped_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = trained(ovsam_run(tmp_path / "whole"))
    for stage in ("sam2clip", "clip2sam"):
        stopped = tmp_path / stage
        with pytest.raises(StoppedError, match=f"step 1 of stage '{stage}'"):
            trained(ovsam_run(stopped, progress=StopAt(stage, 1)))
        again = trained(ovsam_run(stopped))
        assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


def test_statistics_of_batch_norms_move_where_they_are_asked_to_and_are_kept(
    tmp_path: Path,
) -> None:
    parts = {"backbone.layer1": 1.0, "neck": 1.0}
    stages = [{**STAGES[0], "train": parts, "batch_norms": "moving"}, STAGES[1]]
    before = ovsam_assembly().model.state_dict()
    whole = trained(ovsam_run(tmp_path / "whole", ovsam_config(stages=stages)))
    moved = {n.removesuffix(".running_var") for n in whole if n.endswith("running_var")
             and not torch.equal(whole[n], before[n])}  # fmt: skip
    assert moved
    assert all(name.startswith("backbone.layer1.") for name in moved)
    run = ovsam_run(tmp_path / "run", ovsam_config(stages=stages), progress=StopAt("sam2clip", 1))
    with pytest.raises(StoppedError):
        trained(run)
    again = trained(ovsam_run(tmp_path / "run", ovsam_config(stages=stages)))
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


def test_moving_statistics_take_one_process(tmp_path: Path) -> None:
    moving = {**STAGES[0], "train": {"backbone": 1.0}, "batch_norms": "moving"}
    run = ovsam_run(tmp_path, ovsam_config(stages=[moving]))
    [one] = run.config.stages
    assert isinstance(one, TrainStage)
    two = cast(Accelerator, SimpleNamespace(process_index=0, num_processes=2))
    with pytest.raises(ConfigError, match=r'"moving".*--processes 1'):
        Descent(one, run.student, run.teachers, 0, 3, two)


def prepared(tmp_path: Path) -> tuple[PixelBatch, InstanceTargets]:
    """A picture with an instance, and one without any."""
    found, labels = annotated(tmp_path), colour_labels()
    photo = found.photos.photo(0)
    height, width = photo.shape[:2]
    view = View((height, width), (0, 0, min(width, 64), min(height, 64)), SIZE)
    instances = found.shown(found.photos.key(0), view, labels)
    prompted = prompt_instances(instances, 4, 0.5, torch.Generator().manual_seed(0))
    pixels = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 255
    batch = PixelBatch(pixels, torch.tensor([[SIZE, SIZE], [40, SIZE]]))
    return batch, InstanceTargets([prompted, None], labels, [1, 2])


def stage(**losses: float) -> TrainStage:
    config = ovsam_config(stages=[{**STAGES[1], "losses": losses}])
    [made] = config.stages
    assert isinstance(made, TrainStage)
    return made


def test_each_loss_reaches_its_parts_alone(tmp_path: Path) -> None:
    student = ovsam_student()
    batch, targets = prepared(tmp_path)
    every = dict.fromkeys([*TRAINED, "backbone", "prompt_encoder", "clip_roi"], 1.0)
    freeze_all_but(student.model, select_parts(student.model, every))
    reached = {}
    for loss in ("mask", "dice", "label"):
        student.model.zero_grad(set_to_none=True)
        terms = instance_terms(student, batch, targets, stage(**{loss: 1.0}))
        assert terms.keys() == {loss}
        assert terms[loss].shape == (2,)
        assert float(terms[loss][1].detach()) == 0  # no instances
        terms[loss].sum().backward()
        reached[loss] = {
            name.partition(".")[0]
            for name, parameter in student.model.named_parameters()
            if parameter.grad is not None and bool(parameter.grad.any())
        }
    masks = {"backbone", "neck", "prompt_encoder", "mask_decoder"}
    assert reached == {"mask": masks, "dice": masks, "label": {"backbone", "fpn", "roi_classifier"}}


def test_a_frozen_backbone_leaves_no_graph(tmp_path: Path) -> None:
    student = ovsam_student()
    batch, _ = prepared(tmp_path)
    freeze_all_but(student.model, select_parts(student.model, {"neck": 1.0}))
    encoded = student.encode(batch)
    assert not any(level.requires_grad for level in encoded.levels)
    assert encoded.embeddings.requires_grad


def test_a_prompt_has_a_single_mask(tmp_path: Path) -> None:
    student = ovsam_student()
    batch, _ = prepared(tmp_path)
    with torch.no_grad():
        encoded = student.encode(batch)
        boxes = torch.tensor([[4.0, 4.0, 40.0, 40.0], [0.0, 0.0, 64.0, 64.0]])
        answer = student.masks(encoded, 0, box_prompts(boxes))
        named = student.names(encoded, batch)
    assert answer.logits.shape == (2, 1, SIZE // 4, SIZE // 4)
    assert torch.equal(answer.best_masks(), answer.logits[:, 0] > 0)
    assert named.image.shape == (2, 8)
    masks = torch.zeros(1, 16, 16, dtype=torch.bool)
    masks[0, 2:5, 3:9] = True
    box = torch.tensor([[12.0, 8.0, 36.0, 20.0]])
    assert torch.equal(named.regions(0, masks), encoded.region_embeds(0, box))
    larger = PixelBatch(torch.zeros(1, 3, 96, 96), torch.tensor([[96, 96]]))
    with pytest.raises(ConfigError, match="masks of pictures of 96 px"):
        student.masks(student.encode(larger), 0, box_prompts(boxes))


def test_instances_are_not_for_merged_models(tmp_path: Path) -> None:
    batch, targets = prepared(tmp_path)
    with pytest.raises(ConfigError, match="Open-Vocabulary SAM"):
        instance_terms(tiny_student(), batch, targets, stage(mask=1.0))


def test_what_was_trained_is_what_is_read(
    tmp_path: Path, mobile_sam_checkpoint: Path, text_checkpoint: Path
) -> None:
    config = ovsam_config(
        stages=STAGES[:1], teachers={"masks": {"checkpoint": str(mobile_sam_checkpoint)}}
    )
    sizes = replace(OVSAM, backbone=replace(OVSAM.backbone, embed_dim=48))
    files = OvsamFiles(mobile_sam_checkpoint, text=text_checkpoint)
    assembly = assemble_ovsam(files, "ovsam", sizes)
    before = assembly.model.neck.blocks[0].mlp.lin1.weight.clone()
    trained(ovsam_run(tmp_path / "run", config, student=OvsamStudent(assembly)))
    again = read_ovsam(write_result(config, assembly, tmp_path / "merged.safetensors"))
    assert not torch.equal(again.model.neck.blocks[0].mlp.lin1.weight, before)
    state = again.model.state_dict()
    assert all(torch.equal(state[k], v) for k, v in assembly.model.state_dict().items())
    assert again.metadata.name == "tiny-ovsam"
    roles = [source.role for source in again.metadata.sources]
    assert roles == ["merged", "sam", "text", "teacher"]
    assert not again.metadata.head_trained  # only the first of two stages was run


def test_the_second_stage_trains_what_names() -> None:
    assert trains_head(ovsam_config())
    assert not trains_head(ovsam_config(stages=STAGES[:1]))


@pytest.mark.parametrize("name", ["ovsam_rn50x16", "ovsam_rn50", "ovsam_tiny"])
def test_the_shipped_recipes(name: str) -> None:
    config = read_config(CONFIGS / f"{name}.toml")
    assert config.student.is_ovsam
    neck, head = config.stages[-2:]
    assert isinstance(neck, TrainStage)
    assert isinstance(head, TrainStage)
    assert (neck.train, neck.losses) == ({"neck": 1.0}, Losses(embed=1))
    loss = neck.embed_loss
    assert (loss.cosine, loss.smooth_l1, loss.squared) == (0, 0, 1)
    assert head.train.keys() == {"fpn", "roi_classifier", "mask_decoder"}
    assert head.losses == Losses(mask=5, dice=5, label=2)  # the paper's
    assert head.instances is not None
    assert head.instances.boxes == 0.5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": None}, r"needs \[labels\]"),
        ({"student": {"checkpoint": "none"}}, "trains on instances, which takes a student"),
        ({"student": {"checkpoint": "none", "model_type": "ovsam"}}, r"\[student\.sizes\]"),
        (
            {"student": {"checkpoint": "none", "model_type": "ovsam-rn50"}},
            "at the student's own size, 1024",
        ),
        ({"stages": [{**STAGES[0], "losses": {"sam": 1.0}}]}, "is trained by the losses clip"),
        ({"stages": [{**STAGES[1], "instances": None}]}, "expected instances = "),
        (
            {"data": {"masks": {"folders": ["p"]}}, "teachers": BOTH},
            r"needs photos: \[data\.instances\]",
        ),
        (
            {"data": {"masks": {"folders": ["p"]}, "instances": {"folders": ["p"]}}},
            r"needs \[teachers\.names\]",
        ),
    ],
)
def test_mistakes_are_named(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ovsam_config(**changes)
