"""SAM as the teacher of masks: ViT-B, L or H, or MobileSAM, from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from samclip.errors import InputError
from samclip.export.checkpoints.metadata import SAM_MEAN, SAM_STD
from samclip.export.families.merged_assembly import SAM_IMAGE_SIZE, Checkpoints, assemble
from samclip.export.models.mask_decoder import PromptedMaskDecoder
from samclip.export.models.norms import fold_batch_norms
from samclip.merge.data.mask_prompts import Prompts
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.teachers.base import MaskAnswer, fingerprint_of

VERSION = 1  # of the recipe, part of the fingerprint
PROMPTS_AT_ONCE = 16  # each has 4096 tokens of 256 numbers, held several times: 0.5 GB in all

Frozen = TypeVar("Frozen", bound=nn.Module)


class Sam:
    """A frozen SAM, in eval mode, for squares of `image_size` pixels (a multiple of 16).

    `checkpoint`: a SAM or MobileSAM file, recognised by its keys. Raises CheckpointError.
    """

    def __init__(
        self,
        checkpoint: Path,
        image_size: int = SAM_IMAGE_SIZE,
        device: torch.device | str = "cpu",
        prompts_at_once: int = PROMPTS_AT_ONCE,
    ) -> None:
        assembly = assemble(Checkpoints(main=checkpoint), image_size=image_size)
        model = assembly.model
        source = assembly.metadata.sources[0]
        self._encoder = _freeze(fold_batch_norms(model.image_encoder), device)
        decoder = PromptedMaskDecoder(model.prompt_encoder, model.mask_decoder)
        self._decoder = _freeze(decoder, device)
        self._device = torch.device(device)
        self._at_once = prompts_at_once
        self._image_size = image_size
        self._fingerprint = fingerprint_of("sam", VERSION, source.sha256, image_size)

    @property
    def fingerprint(self) -> str:
        """A digest of weights and image size, lowercase hexadecimal."""
        return self._fingerprint

    @property
    def image_size(self) -> int:
        """S, the side in pixels of the squares that it takes."""
        return self._image_size

    @torch.no_grad()
    def encode(self, batch: PixelBatch) -> Tensor:
        """Encode B pictures: Bx256xGxG float32, SAM's image embeddings."""
        squares = batch.to(self._device).scaled(self._image_size)
        _, embeddings = self._encoder(squares.normalised(SAM_MEAN, SAM_STD))
        out: Tensor = embeddings
        return out.to(batch.pixels.device)

    @torch.no_grad()
    def masks(self, embeddings: Tensor, prompts: Prompts) -> MaskAnswer:
        """Segment ONE picture by N prompts; raises InputError for embeddings of several."""
        grid = self._image_size // 16
        if tuple(embeddings.shape) != (1, 256, grid, grid):
            raise InputError(
                f"embeddings are {'x'.join(map(str, embeddings.shape))}; expected those of one "
                f"picture, 1x256x{grid}x{grid}"
            )
        own = embeddings.to(self._device, torch.float32)
        coords = torch.split(prompts.coords.to(self._device), self._at_once)
        labels = torch.split(prompts.labels.to(self._device), self._at_once)
        answers = [
            self._decoder.without_masks(own, *part) for part in zip(coords, labels, strict=True)
        ]
        iou, logits = (torch.cat(part) for part in zip(*answers, strict=True))
        return MaskAnswer(logits.to(embeddings.device), iou.to(embeddings.device))


def _freeze(module: Frozen, device: torch.device | str) -> Frozen:
    return module.to(device).eval().requires_grad_(False)
