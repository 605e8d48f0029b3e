"""The schema of `manifest.json`: everything that a client must know about a bundle.

The exporter writes it and the runtime reads it, both through these classes alone. The maker of
a bundle, who may mean harm, wrote its manifest: so every number, text and list has a range here,
and a value outside is a ManifestError. The whole file has at most a megabyte (`manifest_file`).
"""

from __future__ import annotations

from itertools import takewhile
from typing import Annotated, Literal

import msgspec

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
DIGEST_NAME = "manifest.sha256"  # one line, as `sha256sum` writes it
SIGNATURE_NAME = "manifest.sig"  # optional: 64 bytes, see signature.py

MAX_FILE_BYTES = 2**33  # ViT-H in FP32 has 2.5 GB
MAX_BUNDLE_BYTES = 2**35
MAX_SHAPES = 16
SHAPED_GRAPHS = (
    *("encoder", "mask_decoder", "image_keys", "point_decoder"),
    *("clip_head", "mask_upscaler", "token_aggregation"),
)
FP32_LARGEST = 3.4028234663852886e38

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Size = Annotated[int, msgspec.Meta(ge=0, le=MAX_FILE_BYTES)]  # bytes
ImageSize = Annotated[int, msgspec.Meta(ge=64, le=4096, multiple_of=16)]  # pixels
Positive = Annotated[int, msgspec.Meta(gt=0, le=2**31)]
Opset = Annotated[int, msgspec.Meta(ge=1, le=100)]  # ONNX has 26
EmbedDim = Annotated[int, msgspec.Meta(ge=1, le=2**14)]  # CLIP has 512 to 1280
Grid = Annotated[int, msgspec.Meta(ge=1, le=512)]  # tokens along a side
Canvas = tuple[ImageSize, ImageSize]  # (h, w) of an encoder's input in pixels
Dimension = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]  # of a tensor
ContextLength = Annotated[int, msgspec.Meta(ge=2, le=2**14)]  # CLIP has 77, BERT 512
LogitScale = Annotated[float, msgspec.Meta(ge=0.01, le=1000)]  # CLIP has at most 100
Mean = Annotated[float, msgspec.Meta(ge=-255, le=255)]  # in units of [0, 255]
Std = Annotated[float, msgspec.Meta(ge=0.1, le=1000)]  # in units of [0, 255]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
TowerSize = Annotated[int, msgspec.Meta(ge=16, le=2048)]  # pixels; CLIP has 224 to 448
Margin = Annotated[float, msgspec.Meta(ge=0, le=10)]  # a share of a box's side
Measured = Annotated[float, msgspec.Meta(ge=-FP32_LARGEST, le=FP32_LARGEST)]  # any FP32 but inf
Count = Annotated[int, msgspec.Meta(ge=0, le=10**12)]  # of photos, masks or pixels
Short = Annotated[str, msgspec.Meta(max_length=256)]  # a name
Long = Annotated[str, msgspec.Meta(max_length=4096)]  # a path, a template, a sentence
Notes = Annotated[str, msgspec.Meta(max_length=2**16)]
Templates = Annotated[tuple[Long, ...], msgspec.Meta(max_length=1000)]
Triple = tuple[Mean, Mean, Mean]
WeightsDtype = Literal["fp32", "fp16", "int8"]
LabelsDtype = Literal["fp32", "fp16"]
ReducedPrecision = Literal["fp16", "bf16", "int8", "int8_fp16"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "int8_fp16"]
NameBy = Literal["crop-image", "crop-feature"]
CropBackground = Literal["kept", "masked"]
GateMeasure = Literal[
    "image_embeddings_cosine",  # SAM's embedding of the image, the mean over its positions
    "image_embed_cosine",  # the CLIP head's embedding of the image
    "patch_embeds_cosine",  # the head's embeddings of the tokens, the mean over the image's
    "region_names_cosine",  # both classifiers' logits of boxes, over the names
    "text_cosine",  # the text encoder's embeddings
    "mask_iou_mean",
    "mask_iou_worst",
    "semantic_agreement",  # share of pixels with the same name
    "top1_agreement",  # share of photos and masks with the same name
]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all manifest records: frozen, unknown fields refused."""


class FileEntry(Record, frozen=True, kw_only=True):
    """A file of the bundle."""

    size: Size
    sha256: Sha256


class TensorSpec(Record, frozen=True, kw_only=True):
    """An input or output of a graph; a dimension given as a string is dynamic."""

    name: Short
    dtype: Literal["float32", "float16", "int64", "int32", "uint8", "bool"]
    shape: Annotated[tuple[Dimension | Short, ...], msgspec.Meta(max_length=8)]


class LibraryNeed(Record, frozen=True, kw_only=True):
    """The oldest version of a backend's library that reads a graph: "10.14"."""

    backend: Short
    version: Annotated[str, msgspec.Meta(pattern=r"^[0-9]+([.][0-9]+)*$", max_length=64)]

    def is_met(self, version: str | None) -> bool:
        """Whether a library of `version` reads the graph; None, an unknown version, does not."""
        return version is not None and _leading_numbers(version) >= _leading_numbers(self.version)


class Variant(Record, frozen=True, kw_only=True):
    """One file that computes a graph, and the backends that it is meant for.

    `file` holds the ONNX graph, `weights` (safetensors, also valid as ONNX external data) its
    large initializers; variants of one graph share one weights file. `weights_dtype` is the type
    in which that file stores them; the graph expands them to the `precision` it computes in.
    "int8" quantises the matrix products and leaves the rest in FP32, "int8_fp16" leaves it in
    FP16. Inputs and outputs are FP32 in every precision. `needs`: the backends whose older
    versions cannot read the graph.
    """

    file: Long
    weights: Long | None = None
    weights_dtype: WeightsDtype = "fp32"
    precision: Precision = "fp32"
    attention: Literal["bias", "fold", "chunk", "wide", "fused"] | None = None
    opset: Opset
    backends: Annotated[tuple[Short, ...], msgspec.Meta(max_length=32)]
    needs: Annotated[tuple[LibraryNeed, ...], msgspec.Meta(max_length=32)] = ()

    def serves(self, backend: str, precision: str | None) -> bool:
        """Whether this is for `backend` in `precision`: None means any, "int8" either INT8."""
        computes = {None, self.precision} | ({"int8"} if self.precision == "int8_fp16" else set())
        return backend in self.backends and precision in computes

    def reader(self, backend: str) -> str:
        """Return a backend's name, with the oldest library version where that matters."""
        versions = [need.version for need in self.needs if need.backend == backend]
        return f"{backend} >= {versions[0]}" if versions else backend

    def unmet_need(self, backend: str, version: str | None) -> LibraryNeed | None:
        """Return the need that a library of `version` does not meet on `backend`, or None."""
        own = (need for need in self.needs if need.backend == backend)
        return next((need for need in own if not need.is_met(version)), None)


class Graph(Record, frozen=True, kw_only=True):
    """A graph's interface and its variants, the preferred one first."""

    inputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(max_length=32)]
    outputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(max_length=32)]
    variants: Annotated[tuple[Variant, ...], msgspec.Meta(min_length=1, max_length=64)]

    @property
    def first_full(self) -> Variant:
        """The first variant in FP32, or without one the first: it stands for all in digests."""
        return next((each for each in self.variants if each.precision == "fp32"), self.variants[0])

    def variant_for(
        self, backend: str, precision: str | None = None, version: str | None = None
    ) -> Variant | None:
        """Choose the first variant that is for `backend` in `precision`; None if there is none.

        `version`: that of the backend's library; None, unknown, leaves the variants that every
        version reads.
        """
        fitting = (v for v in self.variants if v.serves(backend, precision))
        return next((v for v in fitting if v.unmet_need(backend, version) is None), None)

    def passed_over(
        self, backend: str, precision: str | None, version: str | None
    ) -> tuple[tuple[Variant, LibraryNeed], ...]:
        """List the variants before the chosen one whose needs the library does not meet."""
        chosen = self.variant_for(backend, precision, version)
        fitting = (v for v in self.variants if v.serves(backend, precision))
        before = takewhile(lambda variant: variant is not chosen, fitting)
        unmet = ((variant, variant.unmet_need(backend, version)) for variant in before)
        return tuple((variant, need) for variant, need in unmet if need is not None)


class Graphs(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The graphs of a bundle; a task whose graph is absent raises CapabilityError.

    Names come from `clip_head`, which embeds tokens, or from `roi_classifier` and `clip_roi`
    together, which take boxes and texts, or from `clip_encoder`, which takes images as the
    encoder does. `token_aggregation`, where a bundle has it, comes before the `clip_head` for the
    names of tokens. `mask_upscaler` makes masks of the photo's size on the device that has their
    logits; tasks that answer on the host do without. `image_keys`, once for an image, and
    `point_decoder` behind it do for prompts without masks what the `mask_decoder` does for all, in
    less time on a CPU; a bundle has both or none. Absent graphs are left out of the file: older
    versions of samclip refuse what they do not know.
    """

    encoder: Graph
    mask_decoder: Graph
    clip_head: Graph | None = None
    text_encoder: Graph | None = None
    roi_classifier: Graph | None = None
    clip_roi: Graph | None = None
    clip_encoder: Graph | None = None
    mask_upscaler: Graph | None = None
    token_aggregation: Graph | None = None
    image_keys: Graph | None = None
    point_decoder: Graph | None = None


class ShapedGraphs(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The graphs for an encoder's input of another shape than the bundle's first one.

    `canvas`: (h, w) of that input in pixels; the longer side is `Preprocessing.image_size`. Each
    graph has the weights file of the graph of its name in `Graphs`.
    """

    canvas: Canvas
    encoder: Graph
    mask_decoder: Graph
    clip_head: Graph | None = None
    mask_upscaler: Graph | None = None
    token_aggregation: Graph | None = None
    image_keys: Graph | None = None
    point_decoder: Graph | None = None


class Preprocessing(Record, frozen=True, kw_only=True):
    """The steps from an image to the encoder's input.

    Resize so that the longest side is `image_size` (each side `floor(side * scale + 0.5)`),
    subtract `mean`, divide by `std` (both in [0, 255] units), pad with zeros to a square at the
    bottom and right; or to `canvas`, (h, w) in pixels, where the first encoder takes no square. A
    bundle with several canvases takes for each image the least of those that hold it, see
    `samclip.runtime.pixels.canvas`.
    """

    image_size: ImageSize
    mean: Triple
    std: tuple[Std, Std, Std]
    channels: Literal["RGB"] = "RGB"
    resize: Literal["longest_side"] = "longest_side"
    interpolation: Literal["pillow_bilinear"] = "pillow_bilinear"
    rounding: Literal["half_up"] = "half_up"
    padding: Literal["bottom_right"] = "bottom_right"
    canvas: Canvas | msgspec.UnsetType = msgspec.UNSET  # left out of the file for a square

    @property
    def first_canvas(self) -> tuple[int, int]:
        """The (h, w) of the first encoder's input in pixels."""
        square = (self.image_size, self.image_size)
        return square if isinstance(self.canvas, msgspec.UnsetType) else self.canvas


class Confidence(Record, frozen=True, kw_only=True):
    """How sure a head is of the names of regions, as it was measured on labelled photos.

    A region that covers t tokens and whose highest cosine with a name is c has the logit scale of
    the text space, times (c / `cosine`) ** -`cosine_power`, times t ** `size_power`. c counts from
    0.01 on, and t from 1/8 to 256. So a head that gives high cosines where it is wrong, too, is
    not as sure of them, and less sure of small regions.
    """

    cosine: Annotated[float, msgspec.Meta(ge=0.01, le=1)]
    cosine_power: Share
    size_power: Share


class ClipHead(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The CLIP head: `trained` False means that names are meaningless until it is trained.

    `confidence`: how sure it is of regions; `image_confidence`: a factor on the logit scale for
    names of whole images.
    """

    trained: bool
    embed_dim: EmbedDim
    grid: Grid  # tokens along a side of `patch_embeds`
    confidence: Confidence | None = None
    image_confidence: Annotated[float, msgspec.Meta(ge=0.001, le=1000)] = 1.0


class RegionHead(Record, frozen=True, kw_only=True):
    """The two classifiers of boxes, in place of a CLIP head.

    `trained` False means that names are meaningless until the classifier is trained.
    """

    trained: bool
    embed_dim: EmbedDim


class ClipTower(Record, frozen=True, kw_only=True):
    """A separate CLIP in the bundle, in place of a head on SAM's features.

    `image_size`, `mean` and `std` (both in [0, 255] units) are those of its input. `resize` is for
    whole photos: "shortest_side" resizes the shorter side to `image_size` and crops the middle,
    "squash" resizes both. `grid`: tokens along a side of `patch_embeds`. The others say how masks
    are named unless the caller says otherwise: `name_by` a crop of the photo around each mask, or
    the tower's tokens in it; a crop has `crop_margin` of the box's longer side added at both ends,
    and what is outside of the mask is kept, or masked with the mean colour.
    """

    image_size: TowerSize
    mean: Triple
    std: tuple[Std, Std, Std]
    resize: Literal["shortest_side", "squash"]
    interpolation: Literal["pillow_bicubic", "pillow_bilinear"]
    embed_dim: EmbedDim
    grid: Grid
    trained: bool = True
    name_by: NameBy = "crop-image"
    crop_margin: Margin = 0.1
    crop_background: CropBackground = "kept"


NamingHead = ClipHead | RegionHead | ClipTower


class BakedLabels(Record, frozen=True, kw_only=True, omit_defaults=True):
    """Ready-made embeddings of names in other templates than the bundle's, as files of `Text`."""

    templates: Long | Templates
    labels: Long
    label_embeddings: Long
    labels_dtype: LabelsDtype = "fp32"


class Text(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The text space, and the parts of it that travel with the bundle.

    `space` is a SHA-256 that identifies the text tower and keys every cache of its embeddings.
    `labels` and `label_embeddings` are files of ready-made embeddings: a JSON list of K names, and
    K x embed_dim little-endian numbers, unit length, made with `templates`; they are float32, or
    float16 where `labels_dtype` says so. `baked`: those made with other templates. `canonical`:
    texts are canonicalised for the tower, as SigLIP's are. What has its default is left out of the
    file: older versions of samclip refuse what they do not know.
    """

    model: Long
    space: Sha256
    embed_dim: EmbedDim
    logit_scale: LogitScale  # already exponentiated: it multiplies cosines
    templates: Long | Templates  # a known set's name, or the templates themselves
    tokenizer: Long | None = None
    context_length: ContextLength = 77
    labels: Long | None = None
    label_embeddings: Long | None = None
    labels_dtype: LabelsDtype = "fp32"
    canonical: bool = False
    baked: Annotated[tuple[BakedLabels, ...], msgspec.Meta(max_length=16)] = ()


class Source(Record, frozen=True, kw_only=True):
    """A checkpoint that went into the bundle, or into the merged checkpoint behind it.

    The bundle holds no weights of a `teacher`: the merged model was trained on its answers.
    """

    role: Literal["merged", "sam", "recogniser", "clip_head", "text", "teacher"]
    file: Long  # the file's name, with at most its model's folder
    sha256: Sha256
    license: Short = "unknown"


class Provenance(Record, frozen=True, kw_only=True):
    """Where the bundle comes from."""

    sources: Annotated[tuple[Source, ...], msgspec.Meta(max_length=64)]
    samclip: Short
    torch: Short
    onnx: Short
    notes: Notes = ""


class ParityRow(Record, frozen=True, kw_only=True):
    """The error of one output of an exported graph against the torch model, on one photo."""

    graph: Short
    variant: Short
    output: Short
    image: Long
    max_abs_error: Measured
    max_rel_error: Measured
    tolerance: Measured


class RoundingRow(Record, frozen=True, kw_only=True):
    """The effect of rounded weights on one output of a graph, on one photo.

    The output is compared with that of the graph as exported. Rounded are the graph's own weights
    or its encoder's; `weights_dtype` is the coarser type of the two. `measure` is the mean cosine
    of embeddings, the IoU of masks, or the largest difference.
    """

    graph: Short
    variant: Short
    output: Short
    image: Long
    weights_dtype: WeightsDtype
    measure: Literal["cosine", "mask_iou", "difference"]
    value: Measured
    limit: Measured

    @property
    def margin(self) -> float:
        """The distance of the value from its limit; negative when it is beyond."""
        inside = self.limit - self.value
        return inside if self.measure == "difference" else -inside


class GateRow(Record, frozen=True, kw_only=True):
    """One measure of a task in reduced precision against FP32, on held-back photos.

    `value` is in [0, 1] or a cosine, the larger the better; cosines are those of the worst photo.
    With a `limit` of None it is shown but not judged. `samples` counts photos, texts, masks or
    pixels, depending on the measure. `attention`: the lowering measured, where it is not the one
    that every version of a library reads.
    """

    measure: GateMeasure
    value: Measured
    limit: Measured | None = None
    samples: Count
    attention: Short | None = None

    @property
    def passed(self) -> bool:
        """Whether the value keeps its limit; NaN does not."""
        return self.limit is None or self.value >= self.limit


class KeptNode(Record, frozen=True, kw_only=True):
    """A node that stays in FP32, because `tensor` reaches `peak`, too large for the type."""

    graph: Short
    attention: Short | None = None  # the variant's lowering
    node: Long
    tensor: Long
    peak: Measured
    reason: Long


class LayerError(Record, frozen=True, kw_only=True):
    """The noise that INT8 adds in one layer, as a share of the power of its signal."""

    graph: Short
    layer: Long
    kind: Literal["linear", "conv", "depthwise"]
    error: Measured


class CalibrationRecord(Record, frozen=True, kw_only=True):
    """The calibration of the INT8 scales; `smooth` is SmoothQuant's alpha, None without."""

    photos: Count
    method: Literal["minmax", "entropy", "percentile"]
    smooth: Share | None = None


class Reduction(Record, frozen=True, kw_only=True):
    """One reduced precision of the bundle: how it was made, and how it differs from FP32.

    `photos`: the held-back photos that the gates were measured on; 0 when they were not measured.
    `keep`: patterns of nodes that the exporter was asked to keep in FP32; `kept`: nodes that
    stay in FP32 because of their range; `fallen_back`: layers, as "graph/node", that are not
    quantised because the gates would not hold; `sensitive`: the layers that suffer most from INT8;
    `skipped`: what could not be measured, and why.
    """

    precision: ReducedPrecision
    photos: Count
    gates: tuple[GateRow, ...] = ()
    keep: tuple[Long, ...] = ()
    kept: tuple[KeptNode, ...] = ()
    calibration: CalibrationRecord | None = None
    fallen_back: tuple[Long, ...] = ()
    sensitive: tuple[LayerError, ...] = ()
    skipped: tuple[Long, ...] = ()


class Manifest(Record, frozen=True, kw_only=True):
    """All of `manifest.json`."""

    schema_version: Literal[1] = 1
    name: Short
    model_type: Short
    preprocessing: Preprocessing
    graphs: Graphs
    files: Annotated[dict[Long, FileEntry], msgspec.Meta(max_length=1000)]
    provenance: Provenance
    clip_head: ClipHead | None = None
    text: Text | None = None
    parity: tuple[ParityRow, ...] = ()
    rounding: tuple[RoundingRow, ...] = ()
    reductions: tuple[Reduction, ...] = ()
    region_head: RegionHead | None = None
    clip_tower: ClipTower | None = None
    # Left out of the file where there are none: older versions of samclip refuse the field.
    shapes: (
        Annotated[tuple[ShapedGraphs, ...], msgspec.Meta(max_length=MAX_SHAPES)] | msgspec.UnsetType
    ) = msgspec.UNSET

    @property
    def shaped(self) -> tuple[ShapedGraphs, ...]:
        """The graphs for further shapes of the encoder's input."""
        return () if isinstance(self.shapes, msgspec.UnsetType) else self.shapes

    @property
    def canvases(self) -> tuple[tuple[int, int], ...]:
        """The (h, w) of the encoders' inputs in pixels, that of `graphs` first."""
        return (self.preprocessing.first_canvas, *(each.canvas for each in self.shaped))

    def graph(self, name: str) -> Graph | None:
        """Return a graph by its name, such as "encoder" or "encoder-768x1024"; None if it lacks."""
        return self.all_graphs.get(name)

    @property
    def all_graphs(self) -> dict[str, Graph]:
        """All graphs by name: those of `graphs`, then those for each further shape."""
        found = {name: getattr(self.graphs, name) for name in Graphs.__struct_fields__}
        for each in self.shaped:
            named = {name: getattr(each, name) for name in SHAPED_GRAPHS}
            found |= {shaped_name(name, each.canvas): graph for name, graph in named.items()}
        return {name: graph for name, graph in found.items() if graph is not None}

    def name_for(self, graph: str, canvas: tuple[int, int]) -> str:
        """Return the name of a field of `Graphs` as it is called for a canvas."""
        is_first = canvas == self.preprocessing.first_canvas or graph not in SHAPED_GRAPHS
        return graph if is_first else shaped_name(graph, canvas)

    def canvas_of(self, name: str) -> tuple[int, int]:
        """Return the canvas of a graph by the graph's name."""
        found = (
            canvas for canvas in self.canvases if self.name_for(base_name(name), canvas) == name
        )
        return next(found, self.preprocessing.first_canvas)

    @property
    def head(self) -> NamingHead | None:
        """The part that names things; None for a bundle that cannot name."""
        return self.clip_head or self.region_head or self.clip_tower

    @property
    def image_confidence(self) -> float:
        """The factor on the logit scale for names of whole images."""
        return 1.0 if self.clip_head is None else self.clip_head.image_confidence

    @property
    def has_map(self) -> bool:
        """Whether there are embeddings of tokens, of which a map of names can be made."""
        return self.clip_head is not None or self.clip_tower is not None


def shaped_name(graph: str, canvas: tuple[int, int]) -> str:
    """Return the name of a graph for a canvas (h, w): "encoder-768x1024"."""
    return f"{graph}-{canvas[0]}x{canvas[1]}"


def base_name(name: str) -> str:
    """Return the field of `Graphs` that a graph is, whatever its canvas."""
    return name.partition("-")[0]


def _leading_numbers(version: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with: (10, 14, 1) for "10.14.1.post1"."""
    parts = takewhile(str.isdecimal, version.split("."))
    return tuple(int(part) for part in parts)
