"""`samclip segment`: the masks of what points and boxes show."""

from __future__ import annotations

from samclip.runtime.cli import options
from samclip.runtime.cli.answers import Task, answer_images
from samclip.runtime.cli.failures import reported
from samclip.runtime.cli.models import Request
from samclip.runtime.cli.prompting import gather_prompts
from samclip.runtime.cli.tables import show_masks
from samclip.runtime.cli.vocabulary import read_names

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
"""


def segment(
    images: options.Images,
    points: options.Points = None,
    point_labels: options.PointLabels = None,
    boxes: options.Boxes = None,
    separate: options.Separate = False,
    multimask: options.Multimask = False,
    names: options.Names = None,
    labels: options.Labels = None,
    templates: options.Templates = None,
    output: options.Output = None,
    as_json: options.AsJson = False,
    bundle: options.Bundle = None,
    backend: options.Backend = "auto",
    precision: options.Precision = None,
    threads: options.Threads = None,
    streams: options.Streams = None,
    debug: options.Debug = False,
) -> None:
    """Cut out what points and boxes show, in pixels of the image; with --names, name it too.

    Each --box is one object. All --point together are one object, and with one --box they refine
    it; --separate makes every point an object of its own. The same prompts apply to every image.

    Draws STEM.segment.png into the current folder (for several images, into samclip-segment/)
    unless --output or --json is given. With --json, masks come as COCO run-length encoding.
    """
    with reported(debug):
        vocabulary = read_names(names, labels)
        prompts = gather_prompts(points, point_labels, boxes, separate)
        task = Task(
            name="segment",
            ask=lambda scene: scene.segment(
                points=prompts.points,
                labels=prompts.labels,
                boxes=prompts.boxes,
                multimask=multimask,
                names=vocabulary,
                templates=templates,
            ),
            record=lambda answer: answer.to_dict(),
            show=show_masks,
        )
        answer_images(
            Request(images, bundle, backend, precision, threads, streams, output, as_json), task
        )
