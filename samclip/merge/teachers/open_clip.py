"""A CLIP as the teacher of names: an image tower of open_clip's layout or of Hugging Face's.

Towers of the first kind are built by the open_clip library; a `CLIPModel` or `SiglipModel` folder
needs no library.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samclip.disk.user_files import read_user_file
from samclip.errors import CheckpointError, TrainingError, did_you_mean
from samclip.export.checkpoints.checkpoint import Checkpoint, fit_state, read_checkpoint
from samclip.export.checkpoints.clip_settings import OPEN_CLIP_FILE
from samclip.export.checkpoints.model_files import MAX_JSON_BYTES
from samclip.export.checkpoints.vision_checkpoint import HUGGING_FACE, read_vision
from samclip.export.checkpoints.vision_settings import CLIP_MEAN, CLIP_STD
from samclip.library_errors import is_library_error
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.teachers.base import fingerprint_of

VERSION = 1  # of the recipe, part of the fingerprint
LIBRARY = "open_clip"

Triple = tuple[float, float, float]
Table = TypeVar("Table")


class Preprocess(msgspec.Struct, frozen=True):
    """The used part of a preprocessing table: statistics of RGB in [0, 1]."""

    mean: Triple = CLIP_MEAN
    std: Triple = CLIP_STD


class ModelTable(msgspec.Struct, frozen=True):
    """The used part of a model's table; `vision_cfg` is passed to the library unchanged."""

    embed_dim: int
    vision_cfg: dict[str, Any]
    quick_gelu: bool = False


class ModelFile(msgspec.Struct, frozen=True):
    """The content of `open_clip_config.json`."""

    model_cfg: ModelTable
    preprocess_cfg: Preprocess = Preprocess()


class FirstOutput(nn.Module):
    """A tower of embeddings and patches, for its embeddings alone."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, images: Tensor) -> Tensor:
        """Embed Bx3xSxS as BxD."""
        embeds: Tensor = self.tower(images)[0]
        return embeds


class OpenClip:
    """A frozen image tower, in eval mode; the text tower is never built.

    `checkpoint`: a file of open_clip's own layout (`visual.*`), or a folder that holds one, or the
    folder of a `CLIPModel` or `SiglipModel`, whose own files describe it and need no `model`.
    `model`: the library's name for it, such as ViT-B-32 (ViT-B-32-quickgelu for OpenAI's own
    weights, which do not record their activation); None takes `open_clip_config.json` next to the
    weights. Where that file exists, its mean and deviation are used in any case. Pictures are
    squashed to the tower's square, so that it sees all that the student sees. Raises
    CheckpointError when weights or tables do not fit, TrainingError when the library cannot be
    imported.
    """

    def __init__(
        self,
        model: str | None,
        checkpoint: Path,
        device: torch.device | str = "cpu",
    ) -> None:
        weights = read_checkpoint(checkpoint)
        self._device = torch.device(device)
        if weights.has(HUGGING_FACE):
            self._take_hugging_face(weights, model)
            return
        config = weights.path.with_name(OPEN_CLIP_FILE)
        described = _decode(config, ModelFile) if config.is_file() else None
        if model is not None:
            table = _library_table(model)
            if described is not None:
                _require_same(table, described.model_cfg, model, config)
        elif described is not None:
            table = described.model_cfg
        else:
            raise CheckpointError(
                f"there is no {OPEN_CLIP_FILE} next to {weights.path}; name the model, such as "
                "ViT-B-32"
            )
        preprocess = Preprocess() if described is None else described.preprocess_cfg
        tower = _build_tower(table)
        fit_state(tower, weights.part("visual."), f"image tower of {model or weights.path.name}")
        self._take(tower, preprocess)
        self._input_size = _input_size(table)
        self._embed_dim = table.embed_dim
        self._fingerprint = fingerprint_of("open_clip", VERSION, weights.sha256, table, preprocess)

    def _take_hugging_face(self, weights: Checkpoint, model: str | None) -> None:
        if model is not None:
            raise CheckpointError(
                f"{weights.path} is in Hugging Face's layout, and the files next to it describe "
                f"it; leave the model's name out, {model!r}"
            )
        tower = read_vision(weights)
        settings = tower.settings
        self._take(FirstOutput(tower.module), Preprocess(settings.mean, settings.std))
        self._input_size = (tower.image_size, tower.image_size)
        self._embed_dim = tower.embed_dim
        self._fingerprint = fingerprint_of(
            "hugging_face", VERSION, weights.sha256, tower.model, asdict(settings)
        )

    def _take(self, tower: nn.Module, preprocess: Preprocess) -> None:
        self._tower = tower.to(self._device).eval().requires_grad_(False)
        # In units of [0, 255].
        self._mean = tuple(255.0 * value for value in preprocess.mean)
        self._std = tuple(255.0 * value for value in preprocess.std)

    @property
    def fingerprint(self) -> str:
        """A digest of weights and tables, lowercase hexadecimal."""
        return self._fingerprint

    @property
    def embed_dim(self) -> int:
        """D, the dimension of the text space."""
        return self._embed_dim

    @torch.no_grad()
    def embed(self, batch: PixelBatch) -> Tensor:
        """Embed B pictures: BxD float32, of unit length."""
        image = batch.to(self._device).resized(*self._input_size)
        mean, std = (
            torch.tensor(values, device=self._device).reshape(1, 3, 1, 1)
            for values in (self._mean, self._std)
        )
        embeds: Tensor = self._tower((image - mean) / std)
        return F.normalize(embeds, dim=1).to(batch.pixels.device)


def _require_same(table: ModelTable, described: ModelTable, model: str, config: Path) -> None:
    """Refuse a name whose table contradicts, in what weights do not show, the one next to them."""
    if table.quick_gelu != described.quick_gelu:
        raise CheckpointError(
            f"the model {model!r} has quick_gelu {table.quick_gelu}, and {config} says "
            f"{described.quick_gelu}; leave the name out, or give the one that belongs to the "
            "weights"
        )


def _build_tower(table: ModelTable) -> nn.Module:
    """Build the image tower with random weights.

    Raises CheckpointError for a table that the library refuses.
    """
    vision = {**table.vision_cfg, "timm_model_pretrained": False, "output_tokens": False}
    library = _library()
    try:  # the function with which open_clip's own CLIP classes build their image tower
        tower: nn.Module = library._build_vision_tower(table.embed_dim, vision, table.quick_gelu)
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        if not is_library_error(error, "torch", "timm", library.__name__.partition(".")[0]):
            raise
        raise CheckpointError(
            f"open_clip cannot build the image tower that the table describes: {error}. Give the "
            "table or the model's name that belongs to the weights."
        ) from error
    return tower


def _library() -> Any:
    """Import open_clip's `model`; raises TrainingError where that fails."""
    try:
        return importlib.import_module(f"{LIBRARY}.model")
    except ImportError as error:
        raise TrainingError(
            f"an open_clip teacher needs the open_clip_torch package and torchvision: {error}. "
            "Install both: pip install open_clip_torch torchvision"
        ) from error


def _library_table(model: str) -> ModelTable:
    """Read the library's own table of a model; raises CheckpointError for an unknown name."""
    spec = importlib.util.find_spec(LIBRARY)
    if spec is None or not spec.submodule_search_locations:
        raise TrainingError(
            "an open_clip teacher needs the open_clip_torch package: pip install open_clip_torch"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model_configs"
    tables = {path.stem: path for path in folder.glob("*.json")}
    if model not in tables:
        raise CheckpointError(f"open_clip knows no model {model!r}{did_you_mean(model, tables)}")
    return _decode(tables[model], ModelTable)


def _decode(file: Path, kind: type[Table]) -> Table:
    try:
        data = read_user_file(file, MAX_JSON_BYTES, "the table of open_clip", CheckpointError)
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{file} is not a table of open_clip: {error}") from error


def _input_size(table: ModelTable) -> tuple[int, int]:
    """Return the tower's input size (h, w) in pixels."""
    size = table.vision_cfg.get("image_size", 224)  # the library's default
    try:
        height, width = (size, size) if isinstance(size, int) else size
        return int(height), int(width)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"the table of open_clip gives image_size {size!r:.80}; expected one side or two"
        ) from error
