"""Images of every shape on a bundle with encoders for several, against the square alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fakes import IMAGE_SIZE, NAMES, FakeBackend, FakeBundle, fake_manifest, fake_model
from numpy.typing import NDArray

import samclip
from samclip.engines.base import Engine, EngineOptions, GraphSource
from samclip.errors import ImageError, InputError, ManifestError
from samclip.runtime.bundles.aspects import find_canvases, graphs_for
from samclip.runtime.bundles.manifest_file import check_manifest, decode_manifest, encode_manifest
from samclip.runtime.model import Model
from samclip.runtime.pixels.encoder_input import EncoderInput

CANVASES = ((192, 256), (256, 192), (144, 256), (256, 144))  # 4:3, 16:9, and upright
SQUARE = (IMAGE_SIZE, IMAGE_SIZE)

# (h, w) of photos, and the canvas that they are encoded on.
SHAPES = [
    ((300, 300), SQUARE),
    ((480, 640), (192, 256)),  # exactly 4:3
    ((481, 640), (192, 256)),  # a pixel more, which rounds away
    ((483, 640), (192, 256)),  # half a per cent too high: squeezed
    ((490, 640), SQUARE),
    ((479, 640), (192, 256)),
    ((640, 480), (256, 192)),
    ((427, 640), (192, 256)),  # 3:2
    ((720, 1280), (144, 256)),
    ((1280, 720), (256, 144)),
    ((1, 3000), (144, 256)),
    ((3000, 1), (256, 144)),
    ((3, 4), (192, 256)),
    ((1, 1), SQUARE),
]


def photo(size: tuple[int, int]) -> NDArray[np.uint8]:
    """Red on the left, green on the right, and blue below, where there is room."""
    height, width = size
    image = np.zeros((*size, 3), np.uint8)
    image[:, : (width + 1) // 2, 0] = 255
    image[:, (width + 1) // 2 :, 1] = 255
    image[height - height // 3 :] = (0, 0, 255)
    return image


def engines(model: Model) -> dict[str, Any]:
    backend = model._pool.backend
    assert isinstance(backend, FakeBackend)
    return backend.engines


@pytest.mark.parametrize(("size", "canvas"), SHAPES)
def test_answers_are_those_of_the_square(size: tuple[int, int], canvas: tuple[int, int]) -> None:
    height, width = size
    image = photo(size)
    box = [width * 0.1, height * 0.1, max(width * 0.8, 1), max(height * 0.7, 1)]
    point = (width * 0.3, height * 0.4)
    answers = []
    for canvases in ((), CANVASES):
        with fake_model(canvases=canvases) as model, model.encode(image) as scene:
            letterbox = scene.features.letterbox
            assert letterbox.canvas == (canvas if canvases else SQUARE)
            assert all(
                used <= side
                for used, side in zip(letterbox.input_size, letterbox.canvas, strict=True)
            )
            boxes = scene.segment(boxes=box)
            assert boxes.low_res_logits is not None
            assert boxes.low_res_logits.shape[1:] == tuple(side // 4 for side in letterbox.canvas)
            points = scene.segment(points=[point], multimask=True)
            again = scene.segment(mask=points.low_res_logits[:1], points=[point])
            named = scene.segment(points=[point], names=NAMES)
            answers.append(
                (
                    *(masks.packed.unpack(0) for masks in (boxes, points, again)),
                    scene.semantic(NAMES).labels,
                    named.class_ids,
                    scene.classify(NAMES).best,
                )
            )
    squares, shaped = answers
    for square, own in zip(
        squares[:3], shaped[:3], strict=True
    ):  # the edges of the image may differ by a pixel
        assert square.shape == own.shape == size
        assert (square != own).mean() <= 4 / min(height, width, 400)
    assert squares[3].shape == size
    assert (squares[3] != shaped[3]).mean() <= 0.02
    assert squares[4] == shaped[4]
    assert squares[5] == shaped[5]


def test_engines_of_a_shape_are_loaded_when_it_comes() -> None:
    with fake_model(canvases=CANVASES) as model:
        assert set(engines(model)) == {"encoder"}
        with model.encode(photo((480, 640))) as scene:
            assert set(engines(model)) == {"encoder", "encoder-192x256"}
            scene.segment(points=[(10, 10)])
            scene.classify(NAMES)
        assert set(engines(model)) == {
            "encoder",
            *(f"{name}-192x256" for name in ("encoder", "mask_decoder", "clip_head")),
        }


def test_everything_finds_the_same_masks_in_crops_of_other_shapes() -> None:
    image = photo((480, 640))
    found = []
    for canvases in ((), CANVASES):
        with fake_model(canvases=canvases) as model, model.encode(image) as scene:
            found.append(scene.everything(points_per_side=4, crop_n_layers=1))
    square, shaped = found
    assert len(square) == len(shaped) > 0
    assert np.abs(np.subtract(square.boxes, shaped.boxes)).max() <= 4


def test_a_predictor_maps_by_its_own_transform() -> None:
    image = photo((483, 640))  # squeezed by the encoder's input, not by the transform
    found = []
    for canvases in ((), CANVASES):
        with fake_model(canvases=canvases) as model:
            predictor = samclip.SamPredictor(model)
            predictor.set_image(image)
            assert predictor.input_size == (193, 256)
            size = predictor.original_size
            assert size is not None
            corners = predictor.transform.apply_boxes(np.array([[64, 48, 512, 400]]), size)
            masks, *_ = predictor.predict_torch(None, None, corners, multimask_output=False)
            found.append(masks[0, 0])
            resized = predictor.transform.apply_image(image)
            predictor.set_torch_image(resized.transpose(2, 0, 1)[None], size)  # its own resize
            assert predictor.input_size == (193, 256)
            assert model.bundle.canvases[0] == SQUARE
    assert (found[0] != found[1]).mean() < 0.01


def test_a_bundle_without_a_square_makes_images_smaller() -> None:
    canvases = (192, 256), (256, 192)
    manifest = fake_manifest(canvases=canvases)
    assert manifest.canvases == (SQUARE, *canvases)
    with fake_model(canvases=canvases) as model:
        assert model.bundle.canvases == manifest.canvases
    only = EncoderInput(manifest.preprocessing, canvases=canvases[:1])
    feeds, letterbox = only.feeds(photo((640, 480)))
    assert feeds["image"].shape == (1, 3, 192, 256)
    assert letterbox.input_size == (192, 144)
    assert feeds["image"][..., :144].any() and not feeds["image"][..., 144:].any()


def test_the_manifest_says_which_shapes_there_are() -> None:
    manifest = fake_manifest(canvases=CANVASES)
    assert decode_manifest(encode_manifest(manifest)) == manifest
    plain = encode_manifest(fake_manifest())
    assert b'"shapes"' not in plain and b'"canvas"' not in plain  # older versions read it
    assert manifest.name_for("encoder", SQUARE) == "encoder"
    assert manifest.name_for("encoder", (144, 256)) == "encoder-144x256"
    assert manifest.name_for("text_encoder", (144, 256)) == "text_encoder"
    assert manifest.canvas_of("clip_head-144x256") == (144, 256)
    assert manifest.graph("encoder-100x256") is None
    for wrong, reason in (
        (((100, 256),), "multiples"),
        (((192, 240),), "longer side"),
        (((192, 256), (192, 256)), "two encoders"),
    ):
        with pytest.raises(ManifestError, match=reason):
            check_manifest(fake_manifest(canvases=wrong, text=False))


def test_aspects_choose_canvases() -> None:
    manifest = fake_manifest(canvases=CANVASES)
    assert find_canvases(manifest, None) == manifest.canvases
    assert find_canvases(manifest, "16:9") == ((144, 256),)
    assert find_canvases(manifest, ["3:4", "1:1", "640:480"]) == ((256, 192), SQUARE, (192, 256))
    assert set(graphs_for(manifest, [(144, 256)])) == {
        f"{name}-144x256" for name in ("encoder", "mask_decoder", "clip_head")
    }
    for wrong in ("16/9", "2.39:1", 5, "0:3", [], "3:1"):
        with pytest.raises(InputError):
            find_canvases(manifest, wrong)  # type: ignore[arg-type]


def test_a_resized_image_that_no_encoder_holds_is_refused() -> None:
    with fake_model(canvases=CANVASES) as model:
        vars(model)["_encoder_input"] = EncoderInput(
            model.manifest.preprocessing, canvases=((144, 256),)
        )
        with pytest.raises(ImageError, match="no encoder"):
            model.encode_resized(np.zeros((256, 128, 3), np.float32), (200, 100))


def bounded(max_shapes: int | None, delay: float = 0.0) -> tuple[Model, FakeBackend]:
    """A model of five shapes that keeps so many ready; engines that are freed can load again."""
    backend = ReloadingBackend(delay=delay)
    bundle: Any = FakeBundle(fake_manifest(canvases=CANVASES))
    return Model(bundle, backend, EngineOptions(streams=2), max_shapes=max_shapes), backend


class ReloadingBackend(FakeBackend):
    """Loads a graph once more after its engine was closed."""

    def load(self, source: GraphSource, options: EngineOptions) -> Engine:
        found = self.engines.pop(source.name, None)
        assert found is None or found.closed, f"{source.name} loaded twice"
        self.loads = [*getattr(self, "loads", []), source.name]
        return super().load(source, options)


def ready(backend: FakeBackend) -> set[str]:
    return {name for name, engine in backend.engines.items() if not engine.closed}


def test_engines_of_shapes_are_bounded() -> None:
    model, backend = bounded(2)
    wide, tall, square = photo((480, 640)), photo((640, 480)), photo((300, 300))
    with model:
        scene = model.encode(square)
        boxes = scene.segment(boxes=[50, 50, 200, 200])
        scene.classify(NAMES)
        model.encode(wide).segment(boxes=[50, 50, 200, 200])
        assert ready(backend) == {
            *("encoder", "mask_decoder", "clip_head"),
            *("encoder-192x256", "mask_decoder-192x256"),
        }
        model.encode(square)  # used again: the wide one is the older now
        model.encode(tall)
        assert ready(backend) == {"encoder", "mask_decoder", "clip_head", "encoder-256x192"}
        model.encode(wide)
        assert ready(backend) == {"encoder-256x192", "encoder-192x256"}
        again = scene.segment(boxes=[50, 50, 200, 200])  # a scene outlives the engines it came from
        assert np.array_equal(again.masks, boxes.masks)
        assert ready(backend) == {"encoder-192x256", "mask_decoder"}
    assert ready(backend) == set()


def test_shapes_in_use_are_not_freed() -> None:
    model, backend = bounded(1, delay=0.02)
    images = [photo(size) for size in ((480, 640), (640, 480), (300, 300), (720, 1280)) * 3]
    with model:
        found = model.answer_all(images, lambda scene: scene.segment(boxes=[50, 50, 200, 200]))
        for image, masks in zip(images, found, strict=True):
            assert masks.packed.size == image.shape[:2]
        model.encode(images[0])
        assert ready(backend) == {"encoder-192x256"}
    with pytest.raises(InputError, match="max_shapes must be a whole number"):
        samclip.load(max_shapes=0)


def test_all_shapes_stay_without_a_bound() -> None:
    model, backend = bounded(None)
    with model:
        for size in ((480, 640), (640, 480), (720, 1280), (1280, 720)):
            model.encode(photo(size))
        assert len(ready(backend)) == 5
