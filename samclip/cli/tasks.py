"""The task commands: `samclip classify`, `segment`, `semantic` and `everything`.

Each function takes the options that only its task has and returns the `Task`; `task_command` adds
the options that all of them share.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from samclip.cli import options
from samclip.cli.arguments import choose_floor, gather_prompts, read_vocabulary, require_names
from samclip.cli.output_paths import make_folder
from samclip.cli.run_task import MaskFiles, Task, task_command
from samclip.cli.save_places import read_save
from samclip.cli.tables import (
    list_shares,
    show_classification,
    show_masks,
    show_semantic,
    sum_up_map,
    sum_up_masks,
)

if TYPE_CHECKING:
    from samclip.runtime.results.classification import SemanticMap
    from samclip.runtime.results.masks import AutoMasks

CLASSIFY_EXAMPLES = """
**Examples:**

- `samclip classify street.jpg --names "a street,a kitchen,a beach"`

- `samclip classify photos/ --labels labels.txt --top 3`

- `samclip classify street.jpg --labels labels.txt --json`

- Names with examples: `samclip classify street.jpg --vocabulary plant.safetensors --names "wall"`
"""

Top = Annotated[int, typer.Option("--top", "-k", min=1, metavar="K", help="Show the K best names.")]


@task_command
def classify(
    names: options.Names = None,
    labels: options.Labels = None,
    vocabulary: options.VocabularyFile = None,
    templates: options.Templates = None,
    top: Top = 5,
) -> Task[Any]:
    """Find which of the names fits each image best, with probabilities.

    Prints a table, or with --json every name and its probability. A picture is drawn only when
    --output says where.
    """
    given = require_names(read_vocabulary(names, labels, vocabulary), "classify")
    return Task(
        name="classify",
        ask=lambda scene, _: scene.classify(given, templates=templates),
        record=lambda answer: answer.to_dict(),
        show=lambda answer, _: show_classification(answer, top),
        sum_up=lambda answer: list_shares(answer.top(len(answer.names)), top),
        drawing={"k": top},
        draws=False,
    )


SEGMENT_EXAMPLES = """
**Examples:**

- One object from one point: `samclip segment street.jpg --point 420,310`

- Two objects from two boxes:
  `samclip segment street.jpg --box 10,20,200,240 --box 300,80,420,200`

- One object from a box, less what a point shows:
  `samclip segment street.jpg --box 10,20,200,240 --point 60,200 --label 0`

- Two objects from two points:
  `samclip segment street.jpg --point 420,310 --point 80,90 --separate`

- Masks with names: `samclip segment street.jpg --point 420,310 --names "car,bus,person"`

- For another program: `samclip segment street.jpg --point 420,310 --json > masks.json`

- Each mask as a file: `samclip segment street.jpg --box 10,20,200,240 --masks masks/`
"""


@task_command
def segment(
    points: options.Points = None,
    point_labels: options.PointLabels = None,
    boxes: options.Boxes = None,
    separate: options.Separate = False,
    multimask: options.Multimask = False,
    names: options.Names = None,
    labels: options.Labels = None,
    vocabulary: options.VocabularyFile = None,
    templates: options.Templates = None,
    name_by: options.NameBy = None,
    captions: options.CaptionKind = "names",
    top: options.TopMasks = None,
    masks: options.MaskFiles = None,
    save: options.Save = None,
    save_to: options.SaveTo = None,
) -> Task[Any]:
    """Cut out what points and boxes show, in pixels of the image; with --names, name it too.

    Each --box is one object. All --point together are one object, and with one --box they refine
    it; --separate makes every point a separate object. The same prompts apply to every image.

    Draws STEM.segment.png into the current folder (for several images, into samclip-segment/)
    unless --output, --masks, --save or --json is given. With --json, masks come as COCO run-length
    encoding.
    """
    given = read_vocabulary(names, labels, vocabulary)
    prompts = gather_prompts(points, point_labels, boxes, separate)
    return Task(
        name="segment",
        ask=lambda scene, _: scene.segment(
            points=prompts.points,
            labels=prompts.labels,
            boxes=prompts.boxes,
            multimask=multimask,
            names=given,
            templates=templates,
            name_by=name_by,
        ),
        record=lambda answer: answer.to_dict(),
        show=lambda answer, wide: show_masks(answer, top, wide),
        sum_up=sum_up_masks,
        drawing={"captions": captions, "top": top},
        files=save_masks(masks),
        data_set=read_save(save, save_to),
    )


def save_masks(folder: str | None) -> MaskFiles[Any] | None:
    """Return how the masks of an answer are written into the folder of --masks, if there is one."""
    if folder is None:
        return None
    return MaskFiles(folder, lambda answer, place, stem: answer.save_masks(place, stem))


SEMANTIC_EXAMPLES = """
**Examples:**

- `samclip semantic street.jpg --names "road,car,sky,building"`

- `samclip semantic street.jpg --labels labels.txt --refine --output labelled.png`

- `samclip semantic photos/ --labels labels.txt --json > labels.jsonl`

- `samclip semantic photos/ --labels labels.txt --masks maps/`
"""

Refine = Annotated[
    bool,
    typer.Option("--refine", help="Let SAM's mask decoder draw the borders; takes longer."),
]
FLOOR = 0.5  # probability that a pixel's name needs: more than all other names together
Background = Annotated[
    float,
    typer.Option(
        "--background",
        min=0,
        max=1,
        metavar="0..1",
        help="Leave pixels without a name where its probability is below this; 0 names all.",
    ),
]

Denoise = Annotated[
    float,
    typer.Option(
        "--denoise",
        min=0,
        max=1,
        metavar="0..1",
        help="Leave out names whose probability is below this everywhere in the image, and average "
        "tokens that are alike to SAM; 0 does neither.",
    ),
]


@task_command
def semantic(
    names: options.Names = None,
    labels: options.Labels = None,
    vocabulary: options.VocabularyFile = None,
    templates: options.Templates = None,
    refine: Refine = False,
    background: Background = FLOOR,
    denoise: Denoise = 0.0,
    captions: options.CaptionKind = "names",
    masks: options.LabelFiles = None,
    save: options.Save = None,
    save_to: options.SaveTo = None,
) -> Task[Any]:
    """Label every pixel with the name that fits it best.

    Draws STEM.semantic.png into the current folder (for several images, into samclip-semantic/)
    unless --output, --masks, --save or --json is given. With --json, the pixels of each name that
    was found come as COCO run-length encoding. Pixels whose best name is less probable than all
    others together get no name, see --background.
    """
    given = require_names(read_vocabulary(names, labels, vocabulary), "semantic")
    floor = choose_floor(background, given)
    return Task(
        name="semantic",
        ask=lambda scene, _: scene.semantic(
            given,
            templates=templates,
            refine=refine,
            background=floor,
            denoise=denoise or None,
        ),
        record=record_map,
        show=lambda answer, _: show_semantic(answer),
        sum_up=sum_up_map,
        drawing={"captions": captions},
        files=None if masks is None else MaskFiles(masks, save_labels, numbered=False),
        data_set=read_save(save, save_to),
    )


def save_labels(answer: SemanticMap, folder: Path, stem: str) -> list[Path]:
    """Write the map as `STEM.png`; the folder is there."""
    make_folder(folder)
    return [answer.save_labels(folder / f"{stem}.png")]


def record_map(answer: SemanticMap) -> dict[str, Any]:
    """Return the map as plain values: for each name found, its share and its pixels as COCO RLE."""
    from samclip.runtime.pixels.mask_ops import encode_rle  # brings in pycocotools

    record = answer.to_dict()
    for found in record["classes"]:
        found["segmentation"] = encode_rle(answer.labels == found["index"])
    return record


EVERYTHING_EXAMPLES = """
**Examples:**

- `samclip everything street.jpg`

- `samclip everything street.jpg --points-per-side 16 --names "car,person,tree"`

- In about half the time: `samclip everything street.jpg --adaptive`

- `samclip everything photos/ --output pictures/ --masks masks/ --min-mask-region-area 200`

- A data set to train on: `samclip everything photos/ --names "car,person" --save yolo`
"""

_FILTERS = "Which masks are kept"

PointsPerSide = Annotated[
    int,
    typer.Option(
        "--points-per-side",
        min=1,
        metavar="N",
        rich_help_panel=_FILTERS,
        help="Points are tried on a grid of this many by this many; fewer are faster.",
    ),
]
Adaptive = Annotated[
    bool,
    typer.Option(
        "--adaptive",
        rich_help_panel=_FILTERS,
        help="Try a quarter of the grid first, then only points that few masks cover: about half "
        "the time, and fewer small masks.",
    ),
]
IouThreshold = Annotated[
    float,
    typer.Option(
        "--pred-iou-thresh",
        min=0,
        max=1,
        metavar="0..1",
        rich_help_panel=_FILTERS,
        help="Least quality, as the model predicts it.",
    ),
]
StabilityThreshold = Annotated[
    float,
    typer.Option(
        "--stability-score-thresh",
        min=0,
        max=1,
        metavar="0..1",
        rich_help_panel=_FILTERS,
        help="Least stability of a mask when its cutoff is moved.",
    ),
]
CropLayers = Annotated[
    int,
    typer.Option(
        "--crop-n-layers",
        min=0,
        max=4,
        metavar="0..4",
        rich_help_panel=_FILTERS,
        help="Look again at 4, then 16 ... crops, to find small objects; one encoder pass each.",
    ),
]
MinArea = Annotated[
    int,
    typer.Option(
        "--min-mask-region-area",
        min=0,
        metavar="PIXELS",
        rich_help_panel=_FILTERS,
        help="Remove islands and fill holes of fewer pixels.",
    ),
]


@task_command
def everything(
    points_per_side: PointsPerSide = 32,
    adaptive: Adaptive = False,
    pred_iou_thresh: IouThreshold = 0.88,
    stability_score_thresh: StabilityThreshold = 0.95,
    crop_n_layers: CropLayers = 0,
    min_mask_region_area: MinArea = 0,
    names: options.Names = None,
    labels: options.Labels = None,
    vocabulary: options.VocabularyFile = None,
    templates: options.Templates = None,
    name_by: options.NameBy = None,
    captions: options.CaptionKind = "names",
    top: options.TopMasks = None,
    masks: options.MaskFiles = None,
    save: options.Save = None,
    save_to: options.SaveTo = None,
) -> Task[Any]:
    """Find the masks of all objects, with the options of SAM's automatic mask generator.

    Draws STEM.everything.png into the current folder (for several images, into
    samclip-everything/) unless --output, --masks, --save or --json is given. With --json, each mask
    has the keys of SamAutomaticMaskGenerator, and its name if names were given.
    """
    given = read_vocabulary(names, labels, vocabulary)
    return Task(
        name="everything",
        ask=lambda scene, progress: scene.everything(
            names=given,
            templates=templates,
            name_by=name_by,
            points_per_side=points_per_side,
            adaptive=adaptive,
            pred_iou_thresh=pred_iou_thresh,
            stability_score_thresh=stability_score_thresh,
            crop_n_layers=crop_n_layers,
            min_mask_region_area=min_mask_region_area,
            progress=progress,
        ),
        record=record_masks,
        show=lambda answer, wide: show_masks(answer, top, wide),
        sum_up=sum_up_masks,
        drawing={"captions": captions, "top": top},
        has_steps=True,
        files=save_masks(masks),
        data_set=read_save(save, save_to),
    )


def record_masks(answer: AutoMasks) -> dict[str, Any]:
    """Return the masks with the keys of SamAutomaticMaskGenerator, and with names if there are."""
    records = answer.records(rle=True)
    if answer.names is not None and answer.name_probabilities is not None:
        pairs = zip(answer.names, answer.name_probabilities, strict=True)
        for record, (name, probability) in zip(records, pairs, strict=True):
            record |= {"name": name, "probability": float(probability)}
    return {"size": list(answer.packed.size), "masks": records}
