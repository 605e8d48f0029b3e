"""Records of what `--json` of each command prints: the source of the schemas and their page.

Commands print plain values. These records describe them for readers and for programs;
`tests/tools/site/test_json_schemas.py` holds them to what the commands really print. Parts that
have a record in samclip, such as the manifest, are described by it.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from samclip.benchmarks.records import Report
from samclip.engines.plans.gate.verdict import GateRow, Verdict
from samclip.engines.plans.sidecar import Sidecar
from samclip.runtime.bundles.manifest import Manifest
from samclip.runtime.deploy.first_run import FirstRun
from samclip.runtime.deploy.history import Release


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all records: unknown fields are refused."""


def about(text: str, **limits: Any) -> Meta:
    """Describe a field."""
    return Meta(description=text, **limits)


Share = Annotated[float, about("in [0, 1]", ge=0, le=1)]
Size = Annotated[tuple[int, int], about("height and width in pixels")]
Trained = Annotated[
    bool | None, about("false: the names mean nothing; null: the bundle has no head")
]


class Rle(Record, frozen=True, kw_only=True):
    """A mask as COCO's run-length encoding, which `pycocotools.mask.decode` takes."""

    size: Size
    counts: Annotated[str, about("the run lengths, compressed as text")]


class ImageRecord(Record, frozen=True, kw_only=True):
    """The fields that the answers to an image begin and end with."""

    task: Annotated[str, about("the command")]
    image: Annotated[str, about("the path, as it was given")]
    bundle: Annotated[str, about("the bundle's name")]
    trained_head: Trained


class Passes(Record, frozen=True, kw_only=True):
    """How often the encoders ran, of a bundle with two towers."""

    sam: Annotated[int, about("SAM's encoder", ge=0)]
    clip: Annotated[int, about("CLIP's image tower, over the whole photo", ge=0)]
    crops: Annotated[int, about("the same, over crops around masks", ge=0)]


class Answer(ImageRecord, frozen=True, kw_only=True):
    """The fields that all answers have."""

    passes: Annotated[Passes | UnsetType, about("of a bundle with two towers")] = UNSET

    picture: Annotated[str | None, about("the picture that was written, with `--output`")]
    mask_files: Annotated[
        list[str] | UnsetType, about("the files that were written, with `--masks`")
    ] = UNSET
    data_set: Annotated[str | UnsetType, about("the folder of the data set, with `--save`")] = UNSET


class Classify(Answer, frozen=True, kw_only=True):
    """One line for each photo."""

    best: Annotated[str, about("the most probable name")]
    names: Annotated[list[str], about("all names, the most probable first")]
    probabilities: Annotated[list[Share], about("their probabilities, in the same order")]


class Mask(Record, frozen=True, kw_only=True):
    """A mask that answers a prompt."""

    score: Annotated[Share | None, about("predicted IoU, clipped to [0, 1]; null: not predicted")]
    box: Annotated[
        tuple[float, float, float, float],
        about("x0, y0, x1, y1 around it, x1 and y1 one past its last pixel"),
    ]
    area: Annotated[int, about("its pixels", ge=0)]
    prompt_index: Annotated[int, about("which prompt it answers, from 0", ge=0)]
    segmentation: Annotated[Rle, about("its pixels")]
    name: Annotated[str | UnsetType, about("the best name, with `--names`")] = UNSET
    probability: Annotated[Share | UnsetType, about("of that name, with `--names`")] = UNSET


class Segment(Answer, frozen=True, kw_only=True):
    """One line for each photo."""

    size: Annotated[Size, about("height and width of the photo")]
    masks: Annotated[list[Mask], about("in the order of the prompts")]


class AutoMask(Record, frozen=True, kw_only=True):
    """A mask with the fields of segment-anything's `SamAutomaticMaskGenerator`."""

    segmentation: Annotated[Rle, about("its pixels")]
    area: Annotated[int, about("its pixels", ge=0)]
    bbox: Annotated[tuple[int, int, int, int], about("x, y, width, height, as SAM counts them")]
    predicted_iou: Annotated[float | None, about("the model's own number, about [0, 1]")]
    point_coords: Annotated[list[tuple[float, float]], about("the point that found it, x and y")]
    stability_score: Annotated[float | None, about("IoU of the mask at two thresholds")]
    crop_box: Annotated[tuple[int, int, int, int], about("the crop it was found in, XYWH")]
    name: Annotated[str | UnsetType, about("the best name, with `--names`")] = UNSET
    probability: Annotated[Share | UnsetType, about("of that name, with `--names`")] = UNSET


class Everything(Answer, frozen=True, kw_only=True):
    """One line for each photo."""

    size: Annotated[Size, about("height and width of the photo")]
    masks: Annotated[list[AutoMask], about("the best first")]


class NamedArea(Record, frozen=True, kw_only=True):
    """The pixels of one name."""

    name: Annotated[str, about("the name")]
    index: Annotated[int, about("its place among the names that were given, from 0", ge=0)]
    area: Annotated[int, about("its pixels", ge=0)]
    fraction: Annotated[Share, about("its part of the photo")]
    mean_score: Annotated[Share | None, about("mean probability of its pixels")]
    segmentation: Annotated[Rle | UnsetType, about("its pixels; not in `demo`")] = UNSET


class Semantic(Answer, frozen=True, kw_only=True):
    """One line for each photo."""

    size: Annotated[Size, about("height and width of the photo")]
    classes: Annotated[list[NamedArea], about("the names that were found, the largest first")]
    unlabelled_area: Annotated[int, about("pixels below `--background`", ge=0)]
    refined: Annotated[bool, about("whether SAM's decoder drew the borders")]


class Followed(Record, frozen=True, kw_only=True):
    """A mask of a frame."""

    track: Annotated[int, about("a number that stays with its object; -1: the tracker gave none")]
    score: Annotated[Share | None, about("predicted IoU, clipped to [0, 1]; null: not predicted")]
    box: Annotated[
        tuple[float, float, float, float],
        about("x0, y0, x1, y1 around it, x1 and y1 one past its last pixel"),
    ]
    area: Annotated[int, about("its pixels", ge=0)]
    segmentation: Annotated[Rle, about("its pixels")]
    name: Annotated[str | UnsetType, about("the best name, with `--names`")] = UNSET
    probability: Annotated[Share | UnsetType, about("of that name, with `--names`")] = UNSET


class Watched(Record, frozen=True, kw_only=True):
    """One line for each frame that was answered."""

    task: Annotated[str, about("the command")]
    source: Annotated[str, about("the source, as it was given, without passwords")]
    bundle: Annotated[str, about("the bundle's name")]
    frame: Annotated[int, about("its number, from 0, frames that were dropped included", ge=0)]
    time: Annotated[float, about("seconds from the beginning of the stream")]
    stamp: Annotated[float, about("when it was decoded, seconds since 1970")]
    age_ms: Annotated[float, about("from then to this answer", ge=0)]
    dropped: Annotated[int, about("frames so far that came too fast", ge=0)]
    damaged: Annotated[int, about("frames so far that could not be decoded", ge=0)]
    skipped: Annotated[int, about("frames so far that were left out on purpose", ge=0)]
    reused: Annotated[bool, about("whether the masks are those of the frame before")]
    input_size: Annotated[Size, about("height and width of the encoder's input")]
    timings: Annotated[dict[str, float], about("ms by stage")]
    size: Annotated[Size, about("height and width of the frame")]
    masks: Annotated[list[Followed], about("what was found")]
    trained_head: Trained


class Taught(Record, frozen=True, kw_only=True):
    """The vocabulary file after an example was added to it."""

    task: Annotated[str, about("the command")]
    name: Annotated[str, about("the name that was taught")]
    examples: Annotated[int, about("how many examples it has now", ge=1)]
    weight: Annotated[Share, about("what they weigh against the name's text")]
    names: Annotated[dict[str, int], about("all names of the file, and the examples of each")]
    vocabulary: Annotated[str, about("the file")]
    bundle: Annotated[str, about("the bundle's name")]
    trained_head: Trained


class DemoClassify(Record, frozen=True, kw_only=True):
    """What `classify` prints, without the fields of the image."""

    best: str
    names: list[str]
    probabilities: list[Share]
    trained_head: bool


class DemoSegment(Record, frozen=True, kw_only=True):
    """What `segment` prints, without the fields of the image."""

    size: Size
    masks: list[Mask]
    trained_head: bool


class DemoSemantic(Record, frozen=True, kw_only=True):
    """What `semantic` prints, without the fields of the image."""

    size: Size
    classes: list[NamedArea]
    unlabelled_area: int
    refined: bool
    trained_head: bool


class Demo(Answer, frozen=True, kw_only=True):
    """The answers to one photo."""

    classify: DemoClassify
    segment: DemoSegment
    semantic: DemoSemantic


class Fault(Record, frozen=True, kw_only=True):
    """An error, as the page of errors lists them."""

    type: Annotated[str, about("the class, as `ImageError`")]
    message: Annotated[str, about("what came, what was expected, what to do")]


class Failed(ImageRecord, frozen=True, kw_only=True):
    """Takes the place of an answer when one photo of several cannot be answered."""

    error: Fault


class PassedOver(Record, frozen=True, kw_only=True):
    """A backend that `auto` does not take."""

    name: str
    reason: str
    remedy: Annotated[str, about("what to do; empty: nothing")]


class Auto(Record, frozen=True, kw_only=True):
    """The backend that `auto` takes here."""

    backend: Annotated[str | None, about("null: none works")]
    precision: Annotated[str | None, about("that `samclip-bench choose` chose; null: by the rule")]
    engine_precision: Annotated[
        str | None, about("what FP32 of the graphs is computed in; null: none works")
    ]
    measured: Annotated[float | None, about("ms an image, measured here; null: by the rule")]
    passed_over: list[PassedOver]
    error: Annotated[str | None, about("why none works")]


class Info(Record, frozen=True, kw_only=True):
    """A bundle: where it is, and its manifest."""

    path: str
    bytes: Annotated[int, about("all files of the manifest together")]
    verified: Annotated[bool, about("whether `--verify` compared every file's SHA-256")]
    signed: Annotated[bool, about("whether there is a signature")]
    signer: Annotated[str | None, about("fingerprint of the key of `--public-key`")]
    auto: Auto
    manifest: Annotated[Manifest, about("`manifest.json`")]


class Signed(Record, frozen=True, kw_only=True):
    """A signature that was written."""

    path: Annotated[str, about("the bundle")]
    file: Annotated[str, about("the signature's file in it")]
    signer: Annotated[str, about("fingerprint of the key")]


class Deployed(Record, frozen=True, kw_only=True):
    """What a deployment or a rollback did."""

    folder: str
    changed: Annotated[bool, about("false: this release served already")]
    current: Annotated[str, about("the release that serves now")]
    previous: Annotated[str | None, about("the one that `--rollback` goes back to")]
    release: Release
    plans: Annotated[list[str], about("TensorRT plans that it uses")]
    first_run: Annotated[FirstRun | None, about("the answer before the switch")]
    removed: Annotated[list[str], about("releases that were removed")]
    in_use: Annotated[list[str], about("releases that were kept because a program has them open")]


class KnownRelease(Record, frozen=True, kw_only=True):
    """A release in a folder."""

    name: str
    role: Annotated[str, about("`current`, `previous` or empty")]
    bytes: int | None
    fault: Annotated[str | None, about("why it cannot be used")]
    in_use: bool | None
    record: Release | None


class DeployStatus(Record, frozen=True, kw_only=True):
    """The releases of a folder."""

    folder: str
    current: str | None
    previous: str | None
    busy: Annotated[bool, about("whether a process is deploying to it now")]
    releases: list[KnownRelease]


class TritonRepository(Record, frozen=True, kw_only=True):
    """A model repository that was written for Triton."""

    folder: str
    front: Annotated[str, about("the model that clients ask with images, prompts and names")]
    models: Annotated[list[str], about("all models, the front first")]
    bundle: str
    backend: Annotated[str, about("Triton's back end for the graphs")]
    device: Annotated[str, about("`cpu` or `gpu`")]
    bytes: int


class Plan(Record, frozen=True, kw_only=True):
    """A TensorRT plan in the cache."""

    path: str
    bytes: int
    state: Annotated[str, about("whether it can be used here, or why not")]
    sidecar: Annotated[Sidecar | None, about("what it was built from; null: cannot be read")]


class Plans(Record, frozen=True, kw_only=True):
    """The plans in the cache."""

    plans: list[Plan]


class RemovedPlans(Record, frozen=True, kw_only=True):
    """The plans that were removed."""

    removed: list[Plan]


class BuiltPlan(Record, frozen=True, kw_only=True):
    """A plan that fits, built now or before."""

    path: str
    bytes: int
    reused: Annotated[bool, about("whether it was there already")]
    sidecar: Sidecar


class BuiltPlans(Record, frozen=True, kw_only=True):
    """The plans of a bundle."""

    plans: list[BuiltPlan]


class CheckedPlan(Record, frozen=True, kw_only=True):
    """A plan, and whether it computes what its graph computes in FP32."""

    path: str
    gate: Verdict | None


class CheckedPlans(Record, frozen=True, kw_only=True):
    """The plans that were compared."""

    plans: list[CheckedPlan]


class Bisected(Record, frozen=True, kw_only=True):
    """The outputs of the blocks of a graph, compared with FP32 in order."""

    blocks: list[GateRow]
    departed: Annotated[GateRow | None, about("the first that departs")]


class DoctorDevice(Record, frozen=True, kw_only=True):
    """The machine."""

    cpu: str
    logical_cores: int
    usable_cores: int
    memory: Annotated[int | None, about("bytes")]
    system: str
    machine: str
    jetson: str | None
    gpus: Annotated[list[dict[str, Any]], about("name, memory in bytes, driver, of each")]


class Backend(Record, frozen=True, kw_only=True):
    """A backend."""

    name: str
    available: bool
    detail: str
    remedy: str


class Package(Record, frozen=True, kw_only=True):
    """A package that samclip or one of its extras needs."""

    name: str
    extra: Annotated[str | None, about("null: always needed")]
    version: Annotated[str | None, about("null: not installed")]
    remedy: str


class Cache(Record, frozen=True, kw_only=True):
    """The folder of caches."""

    path: str | None
    writable: bool
    free: Annotated[int | None, about("bytes on its disk")]
    remedy: str


class DefaultBundle(Record, frozen=True, kw_only=True):
    """The bundle that is used when none is named."""

    name: str
    path: str | None
    auto: Auto | None
    remedy: str


class KnownBundle(Record, frozen=True, kw_only=True):
    """A bundle of the bundle folders."""

    name: str
    path: str
    packaged: Annotated[bool, about("whether it came with samclip")]
    error: Annotated[str | None, about("why it cannot be used; then the next three are absent")]
    model_type: str | UnsetType = UNSET
    image_size: int | UnsetType = UNSET
    trained_head: bool | UnsetType | None = UNSET


class Finding(Record, frozen=True, kw_only=True):
    """Something to know or to do."""

    level: str
    about: str
    detail: str
    remedy: str


class Doctor(Record, frozen=True, kw_only=True):
    """The report of a machine."""

    samclip: Annotated[str, about("the version")]
    python: str
    device: DoctorDevice
    jetson: Annotated[dict[str, Any] | None, about("model, JetPack, TensorRT, power, memory")]
    backends: list[Backend]
    packages: list[Package]
    cache: Cache
    bundle_home: str | None
    default_bundle: DefaultBundle
    bundles: list[KnownBundle]
    findings: list[Finding]


# File name of the schema, the command, and its record.
RECORDS: dict[str, tuple[str, type[msgspec.Struct]]] = {
    "classify": ("`samclip classify`", Classify),
    "segment": ("`samclip segment`", Segment),
    "everything": ("`samclip everything`", Everything),
    "semantic": ("`samclip semantic`", Semantic),
    "demo": ("`samclip demo`", Demo),
    "watch": ("`samclip watch`, and `samclip demo --video`", Watched),
    "teach": ("`samclip teach`", Taught),
    "failed": ("a photo that failed, of any of these", Failed),
    "info": ("`samclip info`", Info),
    "sign": ("`samclip sign`", Signed),
    "deploy": ("`samclip deploy`", Deployed),
    "deploy-status": ("`samclip deploy --status`", DeployStatus),
    "deploy-triton": ("`samclip deploy triton`", TritonRepository),
    "engine-build": ("`samclip engine build`", BuiltPlans),
    "engine-list": ("`samclip engine list`", Plans),
    "engine-remove": ("`samclip engine remove`", RemovedPlans),
    "engine-check": ("`samclip engine check`", CheckedPlans),
    "engine-bisect": ("`samclip engine bisect`", Bisected),
    "doctor": ("`samclip doctor`", Doctor),
    "bench": ("`samclip-bench`, with `--json FILE`", Report),
}
