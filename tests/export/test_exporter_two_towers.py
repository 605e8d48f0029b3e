"""SAM next to image towers of every kind: through the bundle, against the releases' own code.

ResNets of open_clip, Hugging Face's CLIP and SigLIP, in FP32 and in reduced precision, and a
ViT-B/16 of open_clip.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from reference_open_clip import (
    perturb,
    reference_image_tower,
    reference_resnet,
    reference_tokenizer,
    save_clip,
    small_text_tower,
)

import samclip
from samclip.export.exporter import export_bundle
from samclip.export.options import ExportOptions, PrecisionOptions, TwoTowers
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import ReducedPrecision
from samclip.runtime.pixels.image import load_image, photo_paths
from samclip.runtime.text.tokenizer import Tokenizer
from tests.support.made_siglip import save_siglip

pytestmark = pytest.mark.slow
NAMES = ("cup", "spoon", "table", "cat", "rocket")
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
# Of cosines: float32 sums in another order; a wrong activation, crop or mean differs by 1e-2.
TOLERANCE = 2e-5
# Of an embedding in INT8 with that in FP32, as the gates of exports ask for.
INT8_COSINE = 0.99
PRECISIONS: tuple[ReducedPrecision, ...] = ("fp16", "int8")
Embed = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Reference:
    """A released architecture with random weights, in a folder as it is published.

    `images`: Nx3xSxS to NxD; `texts`: of NAMES, KxD; `squash`: whole photos lose their shape.
    """

    folder: Path
    size: int
    images: Embed
    texts: torch.Tensor
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    squash: bool = False

    @torch.inference_mode()
    def embed(self, pictures: Sequence[Image.Image]) -> NDArray[np.float64]:
        """Embed pictures of the tower's size: unit rows."""
        arrays = [
            (np.asarray(picture) / 255.0 - np.asarray(self.mean)) / np.asarray(self.std)
            for picture in pictures
        ]
        images = torch.from_numpy(np.stack(arrays).transpose(0, 3, 1, 2).astype(np.float32))
        return unit(self.images(images).double().numpy())

    def whole(self, image: NDArray[np.uint8]) -> Image.Image:
        """Prepare a photo that is wider than high, as the release does."""
        height, width = image.shape[:2]
        assert width > height
        picture = Image.fromarray(image)
        if self.squash:
            return picture.resize((self.size, self.size), Image.Resampling.BICUBIC)
        wide = int(self.size * width / height)
        left = round((wide - self.size) / 2)
        resized = picture.resize((wide, self.size), Image.Resampling.BICUBIC)
        return resized.crop((left, 0, left + self.size, self.size))


def unit(rows: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def open_clips(folder: Path, visual: Any, size: int, dim: int, quick_gelu: bool) -> Reference:
    config = {"model_cfg": {"quick_gelu": quick_gelu, "vision_cfg": {"image_size": size}}}
    save_clip(folder, visual, dim, config)
    with torch.inference_mode():
        texts = small_text_tower(dim, quick_gelu)(torch.from_numpy(reference_tokenizer()(NAMES)))
    return Reference(folder, size, visual, texts)


def resnet(folder: Path) -> Reference:
    torch.manual_seed(0)
    sizes = {"layers": (2, 1, 1, 1), "output_dim": 48, "heads": 8, "image_size": 96, "width": 16}
    return open_clips(folder, reference_resnet(**sizes), 96, 48, quick_gelu=True)


def full_size(folder: Path) -> Reference:
    """ViT-B/16, at the size that is published."""
    torch.manual_seed(0)
    sizes = {"image_size": 224, "patch_size": 16, "width": 768, "layers": 12, "mlp_ratio": 4.0}
    tower = reference_image_tower(quick_gelu=True, **sizes, heads=12, output_dim=512)
    return open_clips(folder, tower, 224, 512, quick_gelu=True)


def hugging_face(folder: Path) -> Reference:
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2}
    sizes |= {"intermediate_size": 256, "projection_dim": 40}
    vision = {**sizes, "image_size": 64, "patch_size": 16}
    text = {**sizes, "bos_token_id": 49406, "eos_token_id": 49407}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=40)
    model = CLIPModel(config).eval()
    perturb(model)
    model.save_pretrained(folder)
    with torch.inference_mode():
        tokens = torch.from_numpy(reference_tokenizer()(NAMES))
        pooled = model.text_model(tokens).pooler_output
        texts = model.text_projection(pooled)
    return Reference(
        folder,
        64,
        lambda images: model.visual_projection(model.vision_model(images).pooler_output),
        texts,
    )


def siglip(folder: Path) -> Reference:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "projection_size": 32}
    model = save_siglip(folder, sizes=sizes)
    # Matrices as small as transformers draws them make all texts nearly one, and names a toss-up.
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    tokenizer = Tokenizer.from_bytes((folder / "tokenizer.json").read_bytes(), 64, canonical=True)
    with torch.inference_mode():
        texts = model.text_model(torch.from_numpy(tokenizer(list(NAMES)))).pooler_output
    return Reference(
        folder,
        32,
        lambda images: model.vision_model(images).pooler_output,
        texts,
        mean=HALF,
        std=HALF,
        squash=True,
    )


@dataclass(frozen=True)
class Made:
    """A reference, and the bundle of MobileSAM and it."""

    reference: Reference
    bundle: Path


def make(
    kind: Callable[[Path], Reference],
    sam: Path,
    folder: Path,
    precisions: PrecisionOptions,
    photos: Path | None = None,
) -> Made:
    reference = kind(folder / "clip")
    options = ExportOptions(
        checkpoint=sam,
        clip_checkpoint=reference.folder,
        two_towers=TwoTowers(),
        image_size=256,
        output=folder / "bundle",
        templates="none",
        attention=("chunk",),
        precision=precisions,
        photos=photos,
    )
    return Made(reference, export_bundle(options).path)


def folder_of(photo: Path, folder: Path) -> Path:
    folder.mkdir()
    shutil.copy(photo, folder)
    return folder


@pytest.fixture(scope="module", params=[resnet, siglip, hugging_face])
def made(
    request: pytest.FixtureRequest,
    mobile_sam_checkpoint: Path,
    graphs_traced_once: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp(request.param.__name__)
    precisions = PrecisionOptions(
        PRECISIONS,
        keep_fp32=("encoder:Conv",),  # what suffers most of SAM's, and is tested by itself
        calib=folder_of(photo_paths()[0], folder / "photos"),
    )
    held_back = folder_of(photo_paths()[1], folder / "held-back")
    yield make(request.param, mobile_sam_checkpoint, folder, precisions, held_back)
    shutil.rmtree(folder)


def squares(image: NDArray[np.uint8], count: int) -> NDArray[np.bool_]:
    """Masks that have room for a square crop around them."""
    rng = np.random.default_rng(count)
    masks = np.zeros((count, *image.shape[:2]), np.bool_)
    for mask in masks:
        y, x = rng.integers(80, image.shape[0] - 160), rng.integers(80, image.shape[1] - 160)
        mask[y : y + rng.integers(16, 80), x : x + rng.integers(16, 80)] = True
    return masks


def cut_out(image: NDArray[np.uint8], mask: NDArray[np.bool_], size: int) -> Image.Image:
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    side = int(np.ceil(max(y1 - y0, x1 - x0) * 1.2))
    top, left = round((y0 + y1 - side) / 2), round((x0 + x1 - side) / 2)
    window = image[top : top + side, left : left + side]
    assert window.shape[:2] == (side, side)
    return Image.fromarray(window).resize((size, size), Image.Resampling.BICUBIC)


def check_against_reference(made: Made) -> None:
    """Names of a photo and of masks, from files on disk to probabilities."""
    reference = made.reference
    image = load_image(photo_paths()[2])
    texts = unit(reference.texts.double().numpy())
    with samclip.load(made.bundle, "onnxruntime", precision="fp32") as model:
        assert model.manifest.text is not None
        scale = model.manifest.text.logit_scale
        asked = model.vocabulary(NAMES)
        np.testing.assert_allclose(asked.embeddings, texts, atol=TOLERANCE)
        scene = model.encode(image)
        expected = reference.embed([reference.whole(image)]) @ texts.T
        answer = scene.classify(asked)
        np.testing.assert_allclose(answer.logits / scale, expected[0], atol=TOLERANCE)
        masks = squares(image, 5)
        named = scene.name(masks, asked)
        crops = [cut_out(image, mask, reference.size) for mask in masks]
        powers = np.exp(scale * (reference.embed(crops) @ texts.T))
        shares = powers / powers.sum(axis=1, keepdims=True)
        assert named.name_probabilities is not None
        np.testing.assert_allclose(named.name_probabilities, shares.max(axis=1), atol=4e-3)
        pooled = scene.name(masks, asked, name_by="crop-feature")
        assert pooled.names is not None
        labels = scene.semantic(asked)
        assert labels.labels.shape == image.shape[:2]


def test_names_are_those_of_the_release(made: Made) -> None:
    check_against_reference(made)


def test_reduced_precisions_pass_their_gates_and_answer(made: Made) -> None:
    """What the gates let through gives nearly FP32's embeddings, on a photo that no gate saw."""
    manifest = Bundle.open(made.bundle).manifest
    tower = manifest.graphs.clip_encoder
    assert tower is not None
    assert {variant.precision for variant in tower.variants} == {"fp32", *PRECISIONS}
    assert {record.precision for record in manifest.reductions} == set(PRECISIONS)
    for record in manifest.reductions:
        judged = {row.measure for row in record.gates}
        assert {"image_embed_cosine", "patch_embeds_cosine"} <= judged, record.skipped
        assert all(row.passed for row in record.gates)
    image = load_image(photo_paths()[3])
    masks = squares(image, 3)
    answers = {}
    for precision in ("fp32", "int8"):  # no CPU takes FP16 graphs, which the gates emulated
        with samclip.load(made.bundle, "onnxruntime", precision=precision) as model:
            scene = model.encode(image)
            named = scene.name(masks, NAMES)
            answers[precision] = unit(scene.image_embed[None]), named.name_probabilities
            assert np.isfinite(answers[precision][1]).all()
    assert float((answers["int8"][0] * answers["fp32"][0]).sum()) >= INT8_COSINE
    assert not np.array_equal(answers["int8"][0], answers["fp32"][0])


def test_the_published_size(
    mobile_sam_checkpoint: Path, graphs_traced_once: None, tmp_path: Path
) -> None:
    check_against_reference(make(full_size, mobile_sam_checkpoint, tmp_path, PrecisionOptions()))
    described = json.loads((tmp_path / "bundle" / "manifest.json").read_text("utf-8"))
    assert (described["clip_tower"]["grid"], described["clip_tower"]["embed_dim"]) == (14, 512)
