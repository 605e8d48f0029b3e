"""Torch's results of an Open-Vocabulary SAM on an image, and the tolerance for a bundle's."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from samclip.export.models.ovsam.decoder import PromptedLabelDecoder
from samclip.export.models.ovsam.model import Ovsam, OvsamEncoder
from samclip.runtime.model import Model
from samclip.runtime.pixels.image import preprocess
from samclip.runtime.results.masks import Masks

TOLERANCE = 1e-4  # largest difference of logits over the largest logit, float32


class Reference:
    """Torch's results on an image: one prompt, and one region, at a time."""

    def __init__(self, network: Ovsam, model: Model, image: NDArray[np.uint8]) -> None:
        tensor, self.letterbox = preprocess(image, model.manifest.preprocessing)
        self.network = network
        self.decoder = PromptedLabelDecoder(network.prompt_encoder, network.mask_decoder).eval()
        with torch.no_grad():
            encoded = OvsamEncoder(network)(torch.from_numpy(np.ascontiguousarray(tensor)))
        self.embeddings, *self.levels, self.c5 = encoded

    def mask(self, coords: object, labels: object, mask: object = None) -> NDArray[np.float32]:
        """Logits hxw; `coords` Nx2 in pixels of the image."""
        given = np.asarray(mask if mask is not None else np.zeros((32, 32)), np.float32)
        with torch.no_grad():
            logits = self.decoder(
                self.embeddings,
                torch.from_numpy(self.letterbox.to_input(coords))[None],  # type: ignore[arg-type]
                torch.as_tensor([labels], dtype=torch.float32),
                torch.from_numpy(given)[None, None],
                torch.tensor([float(mask is not None)]),
            )
        return np.asarray(logits[0, 0])

    def opinions(self, box: object, text: NDArray[np.float32]) -> tuple[torch.Tensor, torch.Tensor]:
        """K logits of the classifier, and K of CLIP; `box` in pixels of the image."""
        corners = self.letterbox.to_input(np.asarray(box).reshape(2, 2)).reshape(1, 4)
        asked = {"boxes": torch.from_numpy(corners), "text": torch.from_numpy(text)}
        with torch.no_grad():
            head = self.network.roi_classifier(*self.levels, **asked)[0]
            return head.double(), self.network.clip_roi(self.c5, **asked)[0].double()

    def probabilities(
        self, box: object, logits: NDArray[np.float32], text: NDArray[np.float32], clip: float
    ) -> NDArray[np.float64]:
        """K probabilities; `clip` is the weight of CLIP's opinion."""
        head, other = self.opinions(box, text)
        cells = F.interpolate(
            torch.from_numpy(logits)[None, None], self.c5.shape[-2:], mode="bilinear"
        )
        weights = torch.tensor([clip] * len(text) + [0.1]) * bool((cells > 0).any())
        logs = [F.log_softmax(F.pad(one, (0, 1)), dim=0) for one in (head, other)]
        fused = F.softmax((1 - weights) * logs[0] + weights * logs[1], dim=0)
        return np.asarray(fused[:-1])


def check_masks(masks: Masks, logits: list[NDArray[np.float32]]) -> None:
    assert masks.low_res_logits is not None
    for found, wanted in zip(masks.low_res_logits, logits, strict=True):
        assert np.abs(found - wanted).max() < TOLERANCE * np.abs(wanted).max()


def check_names(masks: Masks, wanted: list[NDArray[np.float64]]) -> None:
    assert masks.class_ids is not None
    assert masks.name_probabilities is not None
    assert masks.class_ids.tolist() == [int(one.argmax()) for one in wanted]
    # A probability moves by at most a quarter of what a logit of up to 100 is off by.
    np.testing.assert_allclose(masks.name_probabilities, [one.max() for one in wanted], atol=2e-3)
