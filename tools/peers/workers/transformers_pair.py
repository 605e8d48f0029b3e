"""transformers' SamModel and CLIPModel (ViT-B/16) side by side, as people run them unmerged.

Random weights: what they find is meaningless, how long it takes is not. Names are embedded
beforehand. Coarse semantic maps compare CLIP's patch tokens with the names (as MaskCLIP does),
once those of the pass at 224 px that classified, once those of a second pass at the full size.
"""

from __future__ import annotations

import importlib
from typing import Any

NAMES = 20
CLIP_SIZE, PATCH = 224, 16
SPREAD = 0.02  # of random weights, as CLIPModel has it
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of pixels in [0, 1]
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def load(setup: Any) -> Any:
    """Build both models."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(setup.threads)
    torch.manual_seed(setup.seed)
    library = importlib.import_module("transformers")
    sam, clip = _sam(library, setup.image_size), _clip(library)
    with torch.inference_mode():
        ids = torch.randint(1, 49000, (NAMES, 77))
        ids[:, -1] = clip.config.text_config.eos_token_id
        names = _unit(_tensor(clip.get_text_features(input_ids=ids)))
    pair = ModelPair(torch, sam, clip, names)

    def run(photo: str, watch: Any) -> None:
        pixels, size, inner = setup.prepare(photo)
        watch.lap("prepare")
        with torch.inference_mode():
            embeddings = sam.get_image_embeddings(torch.from_numpy(pixels))
            watch.lap("encoder")
            pair.segment(embeddings, size, inner)
            watch.lap("segment a point")
            tokens = pair.classify(photo)
            watch.lap("classify 20 names")
            pair.semantic(tokens, size)
            watch.lap("semantic coarse, 20 names")
            pair.dense(photo, setup.image_size, size)
            watch.lap("semantic coarse, 20 names, second pass at full size")

    return run


class ModelPair:
    """The tasks of both models."""

    def __init__(self, torch: Any, sam: Any, clip: Any, names: Any) -> None:
        self._torch, self._sam, self._clip, self._names = torch, sam, clip, names

    def segment(self, embeddings: Any, size: tuple[int, int], inner: tuple[int, int]) -> Any:
        """Segment the image's centre; masks in the photo's pixels."""
        point = self._torch.tensor([[[[inner[1] / 2, inner[0] / 2]]]])
        label = self._torch.ones((1, 1, 1), dtype=self._torch.int64)
        found = self._sam(image_embeddings=embeddings, input_points=point, input_labels=label)
        side = self._sam.config.vision_config.image_size
        masks = self._resize(found.pred_masks[0], (side, side))
        return self._resize(masks[..., : inner[0], : inner[1]], size) > 0

    def classify(self, photo: str) -> Any:
        """Compare the image at 224 px, its middle cut out, with the names; gives its tokens."""
        pixels = self._torch.from_numpy(_clip_pixels(photo, CLIP_SIZE, crop=True))
        found = self._clip.vision_model(pixel_values=pixels)
        image = _unit(self._clip.visual_projection(found.pooler_output))
        (image @ self._names.T * self._clip.logit_scale.exp()).softmax(-1)
        return found.last_hidden_state

    def semantic(self, tokens: Any, size: tuple[int, int]) -> Any:
        """Name each patch; a map in the photo's pixels."""
        normal = self._clip.vision_model.post_layernorm(tokens[:, 1:])
        patches = _unit(self._clip.visual_projection(normal))
        side = round(patches.shape[1] ** 0.5)
        scores = (patches @ self._names.T).transpose(1, 2)  # 1xTxN -> 1xNxT
        scores = scores.reshape(1, -1, side, side)  # 1xNxT -> 1xNxHxW
        return self._resize(scores, size).argmax(1)

    def dense(self, photo: str, side: int, size: tuple[int, int]) -> Any:
        """Make the same map of a pass at `side` px, position embeddings interpolated."""
        pixels = self._torch.from_numpy(_clip_pixels(photo, side, crop=False))
        found = self._clip.vision_model(pixel_values=pixels, interpolate_pos_encoding=True)
        return self.semantic(found.last_hidden_state, size)

    def _resize(self, maps: Any, size: tuple[int, int]) -> Any:
        functions = self._torch.nn.functional
        return functions.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def _sam(library: Any, size: int) -> Any:
    # the library's own spread of random weights, 1e-10, makes denormal numbers: 20 times slower
    vision = library.SamVisionConfig(image_size=size, initializer_range=SPREAD)
    config = library.SamConfig(
        vision_config=vision,
        prompt_encoder_config=library.SamPromptEncoderConfig(image_size=size),
    )
    return library.SamModel(config).eval()


def _clip(library: Any) -> Any:
    vision = library.CLIPVisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        patch_size=PATCH,
        image_size=CLIP_SIZE,
    )
    config = library.CLIPConfig(vision_config=vision, text_config=library.CLIPTextConfig())
    return library.CLIPModel(config).eval()


def _clip_pixels(photo: str, size: int, crop: bool) -> Any:
    """Read a photo at `size`: its middle, or the whole of it squeezed; 1x3xSxS float32."""
    np, images = importlib.import_module("numpy"), importlib.import_module("PIL.Image")
    with images.open(photo) as opened:
        image = opened.convert("RGB")
    if crop:
        image = importlib.import_module("PIL.ImageOps").fit(image, (size, size))
    small = np.asarray(image.resize((size, size), images.Resampling.BICUBIC), np.float32) / 255
    normal = (small - np.asarray(CLIP_MEAN, np.float32)) / np.asarray(CLIP_STD, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1)[None])  # HWC -> 1xCxHxW


def _tensor(found: Any) -> Any:
    """Take the projected features; newer versions give them inside an output."""
    return getattr(found, "pooler_output", found)


def _unit(rows: Any) -> Any:
    return rows / rows.norm(dim=-1, keepdim=True)
