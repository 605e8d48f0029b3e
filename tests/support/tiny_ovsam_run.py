"""A run of a few steps that trains a small Open-Vocabulary SAM on annotated photos."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from small_ovsam import SMALL_OVSAM, random_ovsam
from tiny_run import DIM, SIZE, ColourNames, ModelMasks, tiny_model

from samclip.export.checkpoints.metadata import TextMetadata
from samclip.export.families.ovsam_assembly import OvsamAssembly, OvsamMetadata
from samclip.merge.config.run import RunConfig, parse_config
from samclip.merge.data.annotations import Annotations, read_annotations
from samclip.merge.data.labels import Labels
from samclip.merge.data.photo_sources import FolderSource
from samclip.merge.students.ovsam_student import OvsamStudent
from samclip.merge.teachers.cached_teachers import Teachers
from samclip.merge.training.trainer import Run
from samclip.progress import SILENT

COLOURS = ("red", "green", "blue")
OVSAM = replace(
    SMALL_OVSAM,
    backbone=replace(SMALL_OVSAM.backbone, embed_dim=DIM),
    neck=replace(SMALL_OVSAM.neck, out_channels=256),
    image_size=SIZE,
)


def ovsam_assembly(seed: int = 0) -> OvsamAssembly:
    metadata = OvsamMetadata(
        model_type="ovsam",
        image_size=SIZE,
        backbone=OVSAM.backbone,
        neck=OVSAM.neck,
        fpn_channels=OVSAM.fpn_channels,
        text=TextMetadata(model="none", logit_scale=1.0),
    )
    torch.manual_seed(seed)  # of the prompts' frequencies
    return OvsamAssembly(random_ovsam(OVSAM, seed), metadata, b"{}")


def ovsam_student(seed: int = 0) -> OvsamStudent:
    return OvsamStudent(ovsam_assembly(seed))


def colour_labels() -> Labels:
    """Three classes, the second with a synonym, in a space of `DIM` dimensions."""
    rows = torch.randn(4, DIM, generator=torch.Generator().manual_seed(5))
    text = torch.nn.functional.normalize(rows, dim=1)
    return Labels(COLOURS, text, torch.tensor([0, 1, 1, 2]))


def write_annotated(folder: Path, count: int = 6) -> Path:
    """Write photos of a coloured rectangle each, and `instances.json` next to their folder."""
    photos = folder / "annotated"
    photos.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    images, annotations = [], []
    for index in range(count):
        height, width = (int(side) for side in random.integers(50, 80, 2))
        photo = np.full((height, width, 3), 90, np.uint8)
        photo[8:40, 10:35, index % 3] = 250
        Image.fromarray(photo).save(photos / f"{index}.png")
        images.append({"id": index, "width": width, "height": height, "file_name": f"{index}.png"})
        annotations.append(
            {
                "image_id": index,
                "category_id": 10 + index % 3,
                "segmentation": [[10, 8, 35, 8, 35, 40, 10, 40]],
                "bbox": [10, 8, 25, 32],
            }
        )
    categories = [{"id": 10 + place, "name": name} for place, name in enumerate(COLOURS)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    file = folder / "instances.json"
    file.write_text(json.dumps(content))
    return file


def annotated(folder: Path) -> Annotations:
    file = write_annotated(folder)
    return read_annotations(file, [FolderSource(folder / "annotated")])


STAGES: list[dict[str, Any]] = [
    {
        "name": "sam2clip",
        "steps": 3,
        "learning_rate": 1e-3,
        "train": {"neck": 1.0},
        "losses": {"embed": 1.0},
        "embed_loss": {"cosine": 0, "smooth_l1": 0, "squared": 1},
        "masks": {"batch": 2, "size": SIZE, "views": 1, "view": {"whole": 1.0}},
    },
    {
        "name": "clip2sam",
        "steps": 3,
        "learning_rate": 1e-3,
        "train": {"fpn": 1.0, "roi_classifier": 1.0, "mask_decoder": 1.0},
        "losses": {"mask": 5.0, "dice": 5.0, "label": 2.0},
        "instance_loss": {"points": 64},
        "instances": {"batch": 2, "size": SIZE, "prompts": 4},
    },
]


def ovsam_config(**changes: Any) -> RunConfig:
    raw: dict[str, Any] = {
        "name": "tiny-ovsam",
        "save_every": 2,
        "student": {
            "checkpoint": "none",
            "text_checkpoint": "none",
            "model_type": "ovsam-rn50",
            "image_size": SIZE,
        },
        "teachers": {"masks": {"checkpoint": "none"}},
        "labels": {},
        "data": {
            "masks": {"folders": ["photos"]},
            "instances": {"folders": ["photos"], "annotations": "instances.json"},
        },
        "stages": STAGES,
        **changes,
    }
    return parse_config(raw, "ovsam.toml")


def ovsam_run(output: Path, config: RunConfig | None = None, **parts: Any) -> Run:
    output.mkdir(parents=True, exist_ok=True)
    outlined = annotated(output.parent)
    teachers = Teachers(
        ColourNames(),
        ModelMasks,
        lambda: tiny_model(1),
        output / "cache",
        torch.device("cpu"),
        colour_labels(),
        outlined,
    )
    made = {
        "config": config or ovsam_config(),
        "output": output,
        "teachers": teachers,
        "sources": dict.fromkeys(("names", "masks", "instances"), outlined.photos),
        "evaluator": None,
        "progress": SILENT,
        "curves": False,
        **parts,
    }
    made.setdefault("student", ovsam_student())
    made.setdefault("accelerator", Accelerator(cpu=True))
    return Run(**made)
