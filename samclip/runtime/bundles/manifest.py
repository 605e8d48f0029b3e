"""The schema of `manifest.json`: everything a client must know of a bundle, so that none guesses.

The exporter writes it and the runtime reads it, through these classes alone.
"""

from __future__ import annotations

from itertools import takewhile
from typing import Annotated, Literal

import msgspec

from samclip.errors import ManifestError

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
DIGEST_NAME = "manifest.sha256"  # one line, as `sha256sum` writes it
SIGNATURE_NAME = "manifest.sig"  # optional: 64 bytes, see signature.py
MAX_MANIFEST_BYTES = 1_000_000

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Size = Annotated[int, msgspec.Meta(ge=0, le=2**40)]
ImageSize = Annotated[int, msgspec.Meta(ge=64, le=4096, multiple_of=16)]
Positive = Annotated[int, msgspec.Meta(gt=0, le=2**31)]
ContextLength = Annotated[int, msgspec.Meta(ge=2, le=2**14)]  # CLIP has 77, BERT 512
Triple = tuple[float, float, float]
AboveZero = Annotated[float, msgspec.Meta(gt=0)]
WeightsDtype = Literal["fp32", "fp16", "int8"]
ReducedPrecision = Literal["fp16", "bf16", "int8", "int8_fp16"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "int8_fp16"]
GateMeasure = Literal[
    "image_embeddings_cosine",  # SAM's embedding of the image, the mean over its positions
    "image_embed_cosine",  # the CLIP head's embedding of the image
    "patch_embeds_cosine",  # its embeddings of the tokens, the mean over those of the image
    "region_names_cosine",  # what both classifiers say of boxes, over the names
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

    name: str
    dtype: Literal["float32", "float16", "int64", "int32", "bool"]
    shape: tuple[int | str, ...]


class LibraryNeed(Record, frozen=True, kw_only=True):
    """The least version of a backend's library that reads a graph: "10.14"."""

    backend: str
    version: Annotated[str, msgspec.Meta(pattern=r"^[0-9]+([.][0-9]+)*$", max_length=64)]

    def is_met(self, version: str | None) -> bool:
        """Whether a library of `version`, None for an unknown one, reads the graph."""
        return version is not None and _numbers(version) >= _numbers(self.version)


class Variant(Record, frozen=True, kw_only=True):
    """One file that computes a graph, and the backends that it is meant for.

    `file` holds the ONNX graph, `weights` (safetensors, also valid as ONNX external data) its
    large initializers; variants of one graph share one weights file. `weights_dtype` tells how
    that file stores them, apart from the `precision` in which the graph computes: it expands them.
    "int8" quantises the products and leaves the rest in FP32, "int8_fp16" in FP16. Inputs and
    outputs are FP32 in every precision. `needs`: the backends whose older versions cannot read it.
    """

    file: str
    weights: str | None = None
    weights_dtype: WeightsDtype = "fp32"
    precision: Precision = "fp32"
    attention: Literal["bias", "fold", "chunk", "wide", "fused"] | None = None
    opset: Positive
    backends: tuple[str, ...]
    needs: tuple[LibraryNeed, ...] = ()

    def serves(self, backend: str, precision: str | None) -> bool:
        """Tell whether this is for `backend` in `precision`; None is any, "int8" either INT8."""
        computes = {None, self.precision} | ({"int8"} if self.precision == "int8_fp16" else set())
        return backend in self.backends and precision in computes

    def reader(self, backend: str) -> str:
        """Name a backend, with the least version of its library where that matters."""
        versions = [need.version for need in self.needs if need.backend == backend]
        return f"{backend} >= {versions[0]}" if versions else backend

    def unmet_need(self, backend: str, version: str | None) -> LibraryNeed | None:
        """Give what `backend` lacks to read this, with a library of `version`; None for nothing."""
        own = (need for need in self.needs if need.backend == backend)
        return next((need for need in own if not need.is_met(version)), None)


class Graph(Record, frozen=True, kw_only=True):
    """A graph's interface and its variants, the preferred one first."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    variants: Annotated[tuple[Variant, ...], msgspec.Meta(min_length=1)]

    def variant_for(
        self, backend: str, precision: str | None = None, version: str | None = None
    ) -> Variant | None:
        """Choose the first variant that is for `backend` in `precision`; None where none is.

        `version`: that of the backend's library; None, for an unknown one, takes what any reads.
        """
        fitting = (v for v in self.variants if v.serves(backend, precision))
        return next((v for v in fitting if v.unmet_need(backend, version) is None), None)

    def passed_over(
        self, backend: str, precision: str | None, version: str | None
    ) -> tuple[tuple[Variant, LibraryNeed], ...]:
        """List the variants before the one chosen that a newer library would read, and what for."""
        chosen = self.variant_for(backend, precision, version)
        fitting = (v for v in self.variants if v.serves(backend, precision))
        before = takewhile(lambda variant: variant is not chosen, fitting)
        unmet = ((variant, variant.unmet_need(backend, version)) for variant in before)
        return tuple((variant, need) for variant, need in unmet if need is not None)


class Graphs(Record, frozen=True, kw_only=True):
    """The graphs of a bundle; a task whose graph is absent is refused with a CapabilityError.

    Names come from `clip_head`, which embeds tokens, or from `roi_classifier` and `clip_roi`
    together, which take boxes and texts.
    """

    encoder: Graph
    mask_decoder: Graph
    clip_head: Graph | None = None
    text_encoder: Graph | None = None
    roi_classifier: Graph | None = None
    clip_roi: Graph | None = None


class Preprocessing(Record, frozen=True, kw_only=True):
    """From an image to the encoder's input.

    Resize so that the longest side is `image_size` (each side `floor(side * scale + 0.5)`),
    subtract `mean`, divide by `std` (both in [0, 255] units), pad with zeros to a square at the
    bottom and right.
    """

    image_size: ImageSize
    mean: Triple
    std: tuple[AboveZero, AboveZero, AboveZero]
    channels: Literal["RGB"] = "RGB"
    resize: Literal["longest_side"] = "longest_side"
    interpolation: Literal["pillow_bilinear"] = "pillow_bilinear"
    rounding: Literal["half_up"] = "half_up"
    padding: Literal["bottom_right"] = "bottom_right"


class ClipHead(Record, frozen=True, kw_only=True):
    """The CLIP head: `trained` False means that names are meaningless until it is trained."""

    trained: bool
    embed_dim: Positive
    grid: Positive  # tokens along a side of `patch_embeds`


class RegionHead(Record, frozen=True, kw_only=True):
    """The two classifiers of boxes, in place of a CLIP head.

    `trained` False means that names are meaningless until the classifier is trained.
    """

    trained: bool
    embed_dim: Positive


class Text(Record, frozen=True, kw_only=True):
    """The text space, and what of it travels with the bundle.

    `space` names the tower: its SHA-256 keys every cache of text embeddings. `labels` and
    `label_embeddings` hold ready-made embeddings: a JSON list of K names, and K x embed_dim
    little-endian float32, unit length, made with `templates`.
    """

    model: str
    space: Sha256
    embed_dim: Positive
    logit_scale: float  # already exponentiated: multiplies cosines
    templates: str | tuple[str, ...]  # a known set's name, or the templates themselves
    tokenizer: str | None = None
    context_length: ContextLength = 77
    labels: str | None = None
    label_embeddings: str | None = None


class Source(Record, frozen=True, kw_only=True):
    """A checkpoint that went into the bundle, or into a merged checkpoint that did.

    Of a `teacher` the bundle holds no weights: the merged model was trained on its answers.
    """

    role: Literal["merged", "sam", "recogniser", "clip_head", "text", "teacher"]
    file: str  # the file's name, with no folder but its model's
    sha256: Sha256
    license: str = "unknown"


class Provenance(Record, frozen=True, kw_only=True):
    """Where the bundle comes from."""

    sources: tuple[Source, ...]
    samclip: str
    torch: str
    onnx: str
    notes: str = ""


class ParityRow(Record, frozen=True, kw_only=True):
    """One output of one exported graph against the torch model, on one photo."""

    graph: str
    variant: str
    output: str
    image: str
    max_abs_error: float
    max_rel_error: float
    tolerance: float


class RoundingRow(Record, frozen=True, kw_only=True):
    """One output of a graph whose weights, or whose encoder's, are stored rounded.

    Against the graph that was exported, on one photo. `weights_dtype` is the coarser of the two;
    `measure` is the mean cosine of embeddings, the IoU of masks, or the largest difference.
    """

    graph: str
    variant: str
    output: str
    image: str
    weights_dtype: WeightsDtype
    measure: Literal["cosine", "mask_iou", "difference"]
    value: float
    limit: float

    @property
    def margin(self) -> float:
        """How far the value keeps from its limit; below 0 it is beyond."""
        inside = self.limit - self.value
        return inside if self.measure == "difference" else -inside


class GateRow(Record, frozen=True, kw_only=True):
    """One measure of what reduced precision does to a task, against FP32, on held-back photos.

    `value` is in [0, 1] or a cosine, the larger the better; cosines are those of the worst photo.
    A `limit` of None: shown, not judged. `samples`: photos, texts, masks or pixels, by the measure.
    `attention`: the lowering judged, where it is not the one that every version of a library reads.
    """

    measure: GateMeasure
    value: float
    limit: float | None = None
    samples: int
    attention: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the value keeps its limit; a value that is no number does not."""
        return self.limit is None or self.value >= self.limit


class KeptNode(Record, frozen=True, kw_only=True):
    """A node that computes in FP32: `tensor` reaches `peak`, too large for the type."""

    graph: str
    attention: str | None = None  # the variant's lowering
    node: str
    tensor: str
    peak: float
    reason: str


class LayerError(Record, frozen=True, kw_only=True):
    """The noise that INT8 adds in one layer, as a share of the power of its signal."""

    graph: str
    layer: str
    kind: Literal["linear", "conv", "depthwise"]
    error: float


class CalibrationRecord(Record, frozen=True, kw_only=True):
    """How the INT8 scales were found; `smooth` is the equalisation's alpha, None without."""

    photos: Positive
    method: Literal["minmax", "entropy", "percentile"]
    smooth: float | None = None


class Reduction(Record, frozen=True, kw_only=True):
    """One reduced precision of the bundle: what it was made with, and what it lost.

    `photos`: the held-back photos that the gates were measured on; 0 when they were not measured.
    `keep`: patterns that the exporter was told to keep in FP32; `kept`: nodes that
    stay in FP32 because of their range; `fallen_back`: layers, as "graph/node", that are not
    quantised because the gates would not hold; `sensitive`: the layers that suffer most from INT8;
    `skipped`: what could not be measured, and why.
    """

    precision: ReducedPrecision
    photos: Annotated[int, msgspec.Meta(ge=0)]
    gates: tuple[GateRow, ...] = ()
    keep: tuple[str, ...] = ()
    kept: tuple[KeptNode, ...] = ()
    calibration: CalibrationRecord | None = None
    fallen_back: tuple[str, ...] = ()
    sensitive: tuple[LayerError, ...] = ()
    skipped: tuple[str, ...] = ()


class Manifest(Record, frozen=True, kw_only=True):
    """All of `manifest.json`."""

    schema_version: Literal[1] = 1
    name: str
    model_type: str
    preprocessing: Preprocessing
    graphs: Graphs
    files: dict[str, FileEntry]
    provenance: Provenance
    clip_head: ClipHead | None = None
    text: Text | None = None
    parity: tuple[ParityRow, ...] = ()
    rounding: tuple[RoundingRow, ...] = ()
    reductions: tuple[Reduction, ...] = ()
    region_head: RegionHead | None = None

    @property
    def head(self) -> ClipHead | RegionHead | None:
        """What names: None for a bundle that cannot."""
        return self.clip_head or self.region_head


def _numbers(version: str) -> tuple[int, ...]:
    """Read the numbers that a version begins with: (10, 14, 1) of "10.14.1.post1"."""
    parts = takewhile(str.isdecimal, version.split("."))
    return tuple(int(part) for part in parts)


def decode_manifest(data: bytes) -> Manifest:
    """Parse the bytes of a manifest; raises ManifestError on anything but a valid one."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestError(
            f"{MANIFEST_NAME} has {len(data):,} bytes; at most {MAX_MANIFEST_BYTES:,} are "
            "accepted. Export the bundle again."
        )
    try:
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(
            f"{MANIFEST_NAME} is not a valid manifest of schema {SCHEMA_VERSION}: {error}. "
            "Export the bundle again with this version of samclip."
        ) from error


def encode_manifest(manifest: Manifest) -> bytes:
    """Serialise a manifest as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
