"""A run of a few steps on generated photos, with teachers that cost nothing; also a command.

`python tests/support/tiny_run.py FOLDER [--slow] [--bf16]` trains in FOLDER, or goes on there;
`--slow` waits between steps, so that a test can kill it in the middle.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from samclip.disk.partial_files import partial_file
from samclip.export.checkpoints.checkpoint import write_tensors
from samclip.export.checkpoints.metadata import MergedMetadata
from samclip.export.families.merged_assembly import Assembly
from samclip.export.models import clip_head, merged
from samclip.export.models.mask_decoder import PromptedMaskDecoder
from samclip.export.models.merged import MergedConfig, MergedModel
from samclip.export.models.sam_vit import SamVitConfig
from samclip.merge.config.run import RunConfig, parse_config
from samclip.merge.data.mask_prompts import Prompts
from samclip.merge.data.photo_sources import FolderSource, split
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.students.base import run_decoder
from samclip.merge.students.merged_student import MergedStudent
from samclip.merge.teachers.base import MaskAnswer
from samclip.merge.teachers.cached_teachers import Teachers
from samclip.merge.training.evaluation import Evaluator
from samclip.merge.training.state import StateFolder
from samclip.merge.training.trainer import Run, Trainer
from samclip.progress import SILENT, Silent

SIZE, DIM = 64, 8
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def tiny_model(seed: int = 0, size: int = SIZE, **config: Any) -> MergedModel:
    torch.manual_seed(seed)
    options = {"model_type": "vit_t", "image_size": size, "embed_dim": DIM, **config}
    return MergedModel(MergedConfig(**options)).eval()


def small_vit_b(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `vit_b` a small ViT of two blocks, the first in windows, the second global."""
    small = {"vit_b": SamVitConfig(48, 2, 4, (1,), window_size=3)}
    for module in (merged, clip_head):
        monkeypatch.setattr(module, "SAM_VIT_CONFIGS", small)


def tiny_assembly(seed: int = 0, **config: Any) -> Assembly:
    model = tiny_model(seed, **config)
    c = model.config
    metadata = MergedMetadata(
        model_type=c.model_type,
        image_size=c.image_size,
        embed_dim=c.embed_dim,
        pyramid=c.pyramid,
    )
    return Assembly(model, metadata)


def tiny_student(seed: int = 0, **config: Any) -> MergedStudent:
    return MergedStudent(tiny_assembly(seed, **config))


class ColourNames:
    """Names pictures by their mean colour, through a fixed random map."""

    fingerprint, embed_dim = "colour names", DIM

    def embed(self, batch: PixelBatch) -> Tensor:
        table = torch.randn(3, DIM, generator=torch.Generator().manual_seed(0))
        means = [batch.picture(i).mean(dim=(1, 2)) / 255 - 0.45 for i in range(len(batch))]
        return torch.nn.functional.normalize(torch.stack(means) @ table, dim=1)


class ModelMasks:
    """A random model as the teacher of masks."""

    def __init__(self, size: int) -> None:
        self.model = tiny_model(seed=1, size=size)
        self.decoder = PromptedMaskDecoder(self.model.prompt_encoder, self.model.mask_decoder)
        self.image_size, self.fingerprint = size, f"random masks {size}"

    @torch.no_grad()
    def encode(self, batch: PixelBatch) -> Tensor:
        _, embeddings = self.model.image_encoder(batch.normalised(MEAN, STD))
        return embeddings

    @torch.no_grad()
    def masks(self, embeddings: Tensor, prompts: Prompts) -> MaskAnswer:
        return run_decoder(self.decoder, embeddings, prompts)


def write_photos(folder: Path, count: int = 12) -> Path:
    """Write small pictures of a rectangle on a ground of another colour."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for index in range(count):
        height, width = random.integers(40, 80, 2)
        photo = np.full((height, width, 3), random.integers(0, 256, 3), np.uint8)
        photo[8:30, 10:25] = random.integers(0, 256, 3)
        place = folder / f"{index}.png"
        if not place.exists():  # several processes write, and one may already read
            with partial_file(place, synced=False) as file:
                Image.fromarray(photo).save(file, "PNG")
    return folder


def tiny_teachers(cache: Path) -> Teachers:
    return Teachers(ColourNames(), ModelMasks, lambda: tiny_model(1), cache, torch.device("cpu"))


PARTS = {"clip_head.mlp": 1.0, "mask_decoder": 0.5, "image_encoder.neck": 0.5}


def tiny_config(**changes: Any) -> RunConfig:
    """Two stages: only names at two sizes, then names and masks together."""
    raw: dict[str, Any] = {
        "name": "tiny",
        "save_every": 2,
        "student": {"checkpoint": "none"},
        "teachers": {
            "names": {"kind": "conse", "checkpoint": "none"},
            "masks": {"checkpoint": "none"},
        },
        "data": {"names": {"folders": ["photos"]}, "masks": {"folders": ["photos"]}},
        "evaluation": {"photos": 2, "regions": 4},
        "stages": [
            {
                "name": "head",
                "steps": 3,
                "learning_rate": 1e-3,
                "train": {"clip_head.mlp": 1.0},
                "losses": {"clip": 1.0},
                "names": {"batch": 4, "size": [64, 96], "views": 1},
            },
            {
                "name": "both",
                "steps": 5,
                "learning_rate": 1e-3,
                "ema": 0.9,
                "train": PARTS,
                "losses": {"clip": 1.0, "sam": 10.0, "embed": 1.0},
                "names": {"batch": 4, "size": 64},
                "masks": {"batch": 2, "size": 64, "prompts": 3},
            },
        ],
        **changes,
    }
    return parse_config(raw, "tiny.toml")


def tiny_run(output: Path, config: RunConfig | None = None, **parts: Any) -> Run:
    config = config or tiny_config()
    photos = FolderSource(write_photos(output.parent / "photos"))
    train, held = split(photos, 0.3, config.seed)
    teachers = tiny_teachers(output / "cache")
    evaluator = Evaluator(
        config.evaluation, teachers, held, torch.eye(DIM), SIZE, output / "evaluation.json"
    )
    output.mkdir(parents=True, exist_ok=True)
    made = {
        "config": config,
        "output": output,
        "teachers": teachers,
        "sources": {"names": train, "masks": train},
        "evaluator": evaluator,
        "progress": SILENT,
        "curves": False,
        **parts,
    }
    made.setdefault("student", tiny_student())
    made.setdefault("accelerator", Accelerator(cpu=True))
    return Run(**made)


def train(run: Run) -> None:
    """Go on from the state in the run's folder and write the weights to `weights.safetensors`."""
    Trainer(run).train(StateFolder(run.output / "state").read(run.config.digest))
    if run.accelerator.is_main_process:
        write_tensors(run.output / "weights.safetensors", run.student.model.state_dict(), {})


class Slow(Silent):
    """Waits at every step."""

    def advance(self, text: str = "") -> None:
        time.sleep(0.3)


class StopAt(Silent):
    """Sends this process a signal at one step of one stage."""

    def __init__(self, stage: str, step: int) -> None:
        self._at = (stage, step)
        self._current = ("", 0)

    def stage(self, name: str, total: int | None = None, done: int = 0) -> Any:
        self._current = (name, done)
        return super().stage(name, total, done)

    def advance(self, text: str = "") -> None:
        stage, step = self._current
        self._current = (stage, step + 1)
        if (stage, step) == self._at:
            os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    precision = "bf16" if "--bf16" in sys.argv else "no"
    train(
        tiny_run(
            Path(sys.argv[1]),
            progress=Slow() if "--slow" in sys.argv else SILENT,
            accelerator=Accelerator(cpu=True, mixed_precision=precision),
        )
    )
