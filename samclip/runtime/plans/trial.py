"""The questions of the gate to a bundle's plans: real photos, prompts and texts, and noise.

The graphs follow each other: FP32's encoder gives the inputs of the decoder and of the heads, so
that a plan is judged by itself, not by those before it. Shapes are the least, best and most that a
plan takes. Inputs that this module does not know, as in a bundle of another family, are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import EngineOptions, GraphSource, Tensor
from samclip.engines.onnxruntime.backend import CPU
from samclip.engines.plans.gate.cases import Feeds, Question, Trial, make_noise
from samclip.engines.plans.gate.measures import MASKS, SCORES, measure_masks
from samclip.engines.plans.gate.verdict import MadeInput, Measure
from samclip.engines.plans.sidecar import AxisRange
from samclip.errors import BackendUnavailableError, PlanBuildError
from samclip.runtime.assets import in_archive, packaged_photos
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import ClipTower, Graph, Manifest, TensorSpec, base_name
from samclip.runtime.graph_outputs import IMAGE_KEYS, IMAGE_SIDE, MASK_STRIDE, POINT_DECODER
from samclip.runtime.pixels.clip_input import squashed_input
from samclip.runtime.pixels.encoder_input import EncoderFeeds, EncoderInput, takes_images
from samclip.runtime.pixels.image import Letterbox, load_image
from samclip.runtime.text.tokenizer import Tokenizer

PHOTOS = 2
REFERENCE = "fp32"
PATCHES = "patch_embeds"  # the output of a CLIP head, BxDxhxw
ENDS = ("least", "best", "most")
SEEDS = dict(zip(ENDS, (11, 12, 13), strict=True))  # of inputs that are made
NAMES = (
    "person", "dog", "cat", "bird", "horse", "car", "bus", "bicycle", "boat", "rocket", "chair",
    "table", "cup", "plate", "spoon", "flower", "tree", "grass", "sky", "water", "road", "wall",
)  # fmt: skip
TEMPLATES = ("a photo of a {}.", "{}", "a close-up of the {} in the picture")
Array = NDArray[np.generic]


@dataclass(frozen=True)
class Trials:
    """The trials of a bundle's graphs, which share what FP32's encoder computed from the photos."""

    bundle: Bundle
    _encoded: dict[tuple[int, int], tuple[_Photo, ...]] = field(default_factory=dict)

    def make(self, graph: str, axes: Mapping[str, AxisRange]) -> Trial:
        """Make the trial of a plan of a graph, with these ranges of its axes.

        Raises PlanBuildError where the bundle has no FP32 graph for ONNX Runtime, and BundleError
        for files that cannot be read.
        """
        asker = _Asker(self, axes, self.bundle.manifest.canvas_of(graph))
        described = self.bundle.manifest.all_graphs[graph]
        noise = tuple(asker.made(spec, "best") for spec in described.inputs)
        return Trial(self.reference(graph), asker.questions(graph, described), noise)

    def reference(self, graph: str) -> GraphSource:
        """Read the FP32 form of a graph that ONNX Runtime's CPU runs; raises PlanBuildError."""
        try:
            return self.bundle.source(graph, CPU.name, REFERENCE)
        except BackendUnavailableError as error:
            raise PlanBuildError(
                f"the plan of {graph!r} cannot be judged: the bundle has no FP32 graph of it for "
                "ONNX Runtime's CPU. Export the bundle with one, or build without the gate: the "
                f"plan is then marked as not judged. ({error})"
            ) from error

    def pixels(self, canvas: tuple[int, int]) -> Iterator[tuple[_Photo, EncoderFeeds]]:
        """Yield each photo as the encoder of a canvas takes it."""
        manifest = self.bundle.manifest
        inputs = manifest.graphs.encoder.inputs
        form = EncoderInput.declared(inputs, manifest.preprocessing, (canvas,))
        for path in _photo_paths():
            feeds, letterbox = form.feeds(load_image(path))
            yield _Photo(path.name, letterbox, {}), feeds

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of the text encoder; None for a bundle without."""
        text = self.bundle.manifest.text
        if text is None or text.tokenizer is None:
            return None
        data = self.bundle.read(text.tokenizer)
        return Tokenizer.from_bytes(data, text.context_length, text.canonical)

    @cached_property
    def name_embeddings(self) -> NDArray[np.float32] | None:
        """The embeddings of NAMES by FP32's text encoder, KxD; None for a bundle without one."""
        if self.tokenizer is None or "text_encoder" not in self.bundle.manifest.all_graphs:
            return None
        with closing(CPU.load(self.reference("text_encoder"), EngineOptions())) as engine:
            tokens = self.tokenizer([TEMPLATES[0].format(name) for name in NAMES])
            (embedded,) = engine.run({"tokens": tokens}).values()
        found = embedded.numpy().astype(np.float32)
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)

    def photos(self, canvas: tuple[int, int]) -> tuple[_Photo, ...]:
        """Return the photos as FP32's encoder of a canvas sees them."""
        if canvas not in self._encoded:
            self._encoded[canvas] = self._encode(canvas)
        return self._encoded[canvas]

    def _encode(self, canvas: tuple[int, int]) -> tuple[_Photo, ...]:
        found = []
        name = self.bundle.manifest.name_for("encoder", canvas)
        with closing(CPU.load(self.reference(name), EngineOptions())) as encoder:
            for photo, feeds in self.pixels(canvas):
                encoded = _on_host(encoder.run(feeds))
                found.append(_Photo(photo.name, photo.letterbox, encoded))
        keys = self.bundle.manifest.name_for(IMAGE_KEYS, canvas)
        if keys not in self.bundle.manifest.all_graphs:
            return tuple(found)
        with closing(CPU.load(self.reference(keys), EngineOptions())) as engine:
            return tuple(
                replace(photo, encoded={**photo.encoded, **_on_host(engine.run(_side_of(photo)))})
                for photo in found
            )


@dataclass(frozen=True)
class _Photo:
    """What FP32's encoder computed from a photo, and how the photo lies in its input."""

    name: str
    letterbox: Letterbox
    encoded: Mapping[str, Array]


@dataclass(frozen=True)
class _Answered:
    """A graph's answer to an encoder's outputs `taken`; none where its answers are not known."""

    taken: tuple[str, ...]
    outputs: Feeds


@dataclass(frozen=True)
class _Asker:
    """Makes the questions for plans with these ranges of their axes."""

    trials: Trials
    axes: Mapping[str, AxisRange]
    canvas: tuple[int, int]

    @property
    def _manifest(self) -> Manifest:
        return self.trials.bundle.manifest

    def questions(self, name: str, graph: Graph) -> Iterator[Question]:
        """Yield the questions of a graph, each made when it is due."""
        inputs = {spec.name for spec in graph.inputs}
        if base_name(name) == "encoder" and takes_images(inputs):
            for photo, feeds in self.trials.pixels(self.canvas):
                yield Question(photo.name, feeds, partial(self.compare, photo))
            return
        if name == "text_encoder" and inputs == {"tokens"} and self.trials.tokenizer is not None:
            for end in self._ends(graph):
                yield Question(
                    f"texts, {end}", {"tokens": self._tokens(self.trials.tokenizer, end)}
                )
            return
        tower = self._manifest.clip_tower
        if name == "clip_encoder" and inputs == {"images"} and tower and _photo_paths():
            for end in self._ends(graph):
                yield Question(f"crops, {end}", {"images": self._crops(tower, end)})
            return
        taken = inputs & {spec.name for spec in self._manifest.graphs.encoder.outputs}
        if base_name(name) == POINT_DECODER:
            taken = inputs & {*IMAGE_SIDE}
        if not taken:
            yield from (Question(end, self._all_made(graph, end)) for end in self._ends(graph))
            return
        ends = self._ends(graph)
        for photo in self.trials.photos(self.canvas):
            for end in ends:
                feeds = self._all_made(graph, end)
                feeds |= {key: photo.encoded[key] for key in taken & photo.encoded.keys()}
                feeds |= self._given(photo, feeds, end)
                yield Question(f"{photo.name}, {end}" if ends[1:] else photo.name, feeds)

    def compare(
        self, photo: _Photo, expected: Feeds, found: Feeds
    ) -> Mapping[str, Mapping[Measure, float]]:
        """Measure what FP32's decoder and head make of an encoder's outputs, against FP32's.

        Masks of the same prompts, by the output that the decoder reads, and the share of tokens
        with the same name, by the output that the head reads.
        """
        both = (expected, found)
        measured: dict[str, Mapping[Measure, float]] = {}
        decoded = [self._go_on("mask_decoder", photo, encoded) for encoded in both]
        for output in decoded[0].taken:
            right, other = (answered.outputs for answered in decoded)
            measured[output] = measure_masks(right[MASKS], other[MASKS], right[SCORES])
        names = self.trials.name_embeddings
        if names is None:
            return measured
        headed = [self._go_on("clip_head", photo, encoded) for encoded in both]
        for output in headed[0].taken:
            labels = [_best_names(answered.outputs[PATCHES], names) for answered in headed]
            share = float(np.mean(labels[0] == labels[1]))
            measured[output] = {**measured.get(output, {}), "same_label": share}
        return measured

    def _go_on(self, base: str, photo: _Photo, encoded: Feeds) -> _Answered:
        """Return what FP32's graph `base` makes of an encoder's outputs; nothing where none is."""
        name = self._manifest.name_for(base, self.canvas)
        graph = self._manifest.all_graphs.get(name)
        if graph is None:
            return _Answered((), {})
        feeds = self._all_made(graph, "best")
        taken = tuple(sorted(feeds.keys() & encoded.keys()))
        feeds |= {key: encoded[key] for key in taken}
        feeds |= self._given(photo, feeds, "best")
        with closing(CPU.load(self.trials.reference(name), EngineOptions())) as engine:
            results = engine.run(feeds)
        outputs = {key: tensor.numpy() for key, tensor in results.items()}
        is_known = {MASKS, SCORES} <= outputs.keys() or PATCHES in outputs
        return _Answered(taken if is_known else (), outputs)

    def made(self, spec: TensorSpec, end: str) -> MadeInput:
        """Describe an input that is made from a seed, within what the graph reads sense into."""
        shape = tuple(self._size(dim, end) for dim in spec.shape)
        low, high, whole = self._bounds(spec.name)
        return MadeInput(
            name=spec.name, dtype=spec.dtype, shape=shape, low=low, high=high, whole=whole
        )

    def _bounds(self, name: str) -> tuple[float, float, bool]:
        side = float(min(self.canvas))
        known: dict[str, tuple[float, float, bool]] = {
            "point_coords": (0, side, False),
            "point_labels": (0, 1, True),
            "has_mask_input": (0, 1, True),
            "mask_input": (-8, 8, False),
            "token_mask": (1, 1, True),
            "tokens": (1, 1000, True),
            "image": (-2, 2, False),
            "image_u8": (0, 255, True),
            "image_size": (side, side, True),
            "images": (-2, 2, False),
        }
        return known.get(name, (-1, 1, False))

    def _size(self, dim: int | str, end: str) -> int:
        if isinstance(dim, int):
            return dim
        return int(getattr(self.axes[dim], end)) if dim in self.axes else 1

    def _ends(self, graph: Graph) -> tuple[str, ...]:
        """Return the ends at which the shapes of a graph's inputs differ."""
        shapes: dict[object, str] = {}
        for end in ENDS:
            key = tuple(self.made(spec, end).shape for spec in graph.inputs)
            shapes.setdefault(key, end)
        return tuple(shapes.values())

    def _all_made(self, graph: Graph, end: str) -> dict[str, Array]:
        made = make_noise([self.made(spec, end) for spec in graph.inputs], SEEDS[end])
        if {"rows", "columns"} <= made.keys():  # of a photo of this size
            size = len(made["rows"]), len(made["columns"])
            letterbox = Letterbox.choose(size, max(self.canvas), (self.canvas,))
            side = max(made["low_res_mask"].shape)
            made["rows"], made["columns"] = letterbox.upscale_taps(side)
        if "boxes" in made:  # XYXY
            made["boxes"] = _as_boxes(made["boxes"], self._manifest.preprocessing.image_size)
        return made

    def _given(self, photo: _Photo, made: Mapping[str, Array], end: str) -> dict[str, Array]:
        """Return the prompts of a photo, or the tokens that are of it, where a graph takes them."""
        if "token_mask" in made:
            return {"token_mask": photo.letterbox.token_mask(max(made["token_mask"].shape))}
        if "point_coords" in made:
            return _prompts(photo.letterbox, made, end)
        return {}

    def _crops(self, tower: ClipTower, end: str) -> NDArray[np.float32]:
        """Return Nx3xSxS, so many as a plan takes: the photos and quarters of them, in turn."""
        parts: list[NDArray[np.float32]] = []
        for path in _photo_paths():
            photo = load_image(path)
            middle, centre = photo.shape[0] // 2, photo.shape[1] // 2
            windows = (photo, photo[:middle, :centre], photo[middle:, centre:], photo[:middle])
            parts += [squashed_input(np.ascontiguousarray(part), tower) for part in windows]
        count = self._size("crops", end)
        return np.stack([parts[place % len(parts)] for place in range(count)])

    def _tokens(self, tokenizer: Tokenizer, end: str) -> NDArray[np.int64]:
        """Return NxL tokens of names in templates, so many as a plan takes."""
        count = self._size("texts", end)
        phrases = [t.format(name) for t in TEMPLATES for name in NAMES]
        return tokenizer([phrases[place % len(phrases)] for place in range(count)])


def _best_names(patches: Array, names: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the number of the nearest name of each token; `patches` BxDxhxw, `names` KxD."""
    tokens = np.asarray(patches, np.float32).reshape(*patches.shape[:2], -1)  # BxDxhw
    return np.asarray(np.argmax(names @ tokens, axis=1))  # of BxKxhw


def _on_host(results: Mapping[str, Tensor]) -> dict[str, Array]:
    return {name: tensor.numpy() for name, tensor in results.items()}


def _side_of(photo: _Photo) -> Feeds:
    """Return what the decoder's image side is computed from."""
    return {"image_embeddings": photo.encoded["image_embeddings"]}


def _photo_paths() -> list[Path]:
    return [] if in_archive() else sorted(packaged_photos().glob("*.jpg"))[:PHOTOS]


def _prompts(letterbox: Letterbox, made: Mapping[str, Array], end: str) -> dict[str, Array]:
    """Return real prompts of the shapes of those that were made: P prompts of N points.

    None are a mask alone, two are a box or a click and its padding in turn, more are clicks on one
    place and around it, and their padding.
    """
    prompts, points = made["point_labels"].shape
    height, width = letterbox.input_size
    places = MadeInput(name="places", dtype="float32", shape=(prompts, 4))
    random = make_noise([places], SEEDS[end])["places"].astype(np.float64)
    centres = (0.5 + 0.35 * random[:, :2]) * np.asarray([width, height])  # Px2, (x, y)
    halves = (0.15 + 0.1 * random[:, 2:]) * np.asarray([width, height])
    coords, labels = np.zeros((prompts, points, 2)), np.zeros((prompts, points))
    for row in range(prompts):
        if points == 2 and row % 2 == 0:
            coords[row] = [centres[row] - halves[row], centres[row] + halves[row]]
            labels[row] = [2, 3]
        elif points:
            turns = 2.4 * np.arange(points)[:, None]  # a spiral
            circle = np.concatenate([np.cos(turns), np.sin(turns)], axis=1)
            coords[row] = centres[row] + halves[row] * circle * np.linspace(0, 1, points)[:, None]
            labels[row] = np.where(np.linspace(0, 1, points) < 0.6, 1, 0)
            coords[row, -1], labels[row, -1] = 0, -1
    given: dict[str, Array] = {
        "point_coords": coords.astype(np.float32),
        "point_labels": labels.astype(np.float32),
    }
    if "mask_input" in made:
        has_mask = np.full(prompts, points == 0, np.float32)
        masks = _drawn_masks(made["mask_input"].shape, centres, halves) if points == 0 else 0
        given["mask_input"] = np.zeros(made["mask_input"].shape, np.float32) + masks
        given["has_mask_input"] = has_mask
    return given


def _drawn_masks(
    shape: tuple[int, ...], centres: NDArray[np.float64], halves: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Draw an ellipse for each prompt, Px1xhxw logits: 8 inside, falling to -8."""
    rows, columns = np.indices(shape[2:]) * MASK_STRIDE
    masks = np.empty(shape, np.float32)
    for mask, (x, y), (across, down) in zip(masks, centres, halves, strict=True):
        distance = np.hypot((columns - x) / across, (rows - y) / down)
        mask[0] = np.clip(8 * (1 - distance) * 2, -8, 8)
    return masks


def _as_boxes(made: Array, side: int) -> NDArray[np.float32]:
    """Turn numbers in [-1, 1], Nx4, into boxes XYXY within an image of `side` pixels."""
    pairs = (np.asarray(made, np.float32).reshape(-1, 2, 2) + 1) / 2
    low, high = pairs.min(axis=1), pairs.max(axis=1)
    high = np.maximum(high, low + 1 / 16)
    boxes = np.concatenate([low, high], axis=1) * side
    return np.asarray(boxes.reshape(made.shape), np.float32)
