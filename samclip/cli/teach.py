"""`samclip teach`: examples of a name, collected in a vocabulary file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from samclip.cli import options
from samclip.cli.exits import heed_stops, report_errors
from samclip.cli.given_paths import parse_path
from samclip.cli.options import Box, parse_box
from samclip.cli.output_paths import check_file, check_place
from samclip.cli.run_task import Request, open_model
from samclip.cli.terminal import in_one_line, out, say, warn_untrained_head, write_json
from samclip.errors import InputError, VocabularyError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from samclip.runtime.model import Model
    from samclip.runtime.text.vocabulary import Vocabulary

SUFFIX = ".safetensors"
DEFAULT = f"vocabulary{SUFFIX}"
INSIDE = 128  # grey level from which a pixel of --mask is part of the object

EXAMPLES = """
**Examples:**

- The object in a box: `samclip teach valve plant.jpg --box 300,80,420,200 --to plant.safetensors`

- A further example of the same name, by a mask that `samclip segment --masks` or a person drew:
  `samclip teach valve other.jpg --mask valve.png --to plant.safetensors`

- A whole photo: `samclip teach "pump room" room.jpg --to plant.safetensors`

- Then: `samclip segment new.jpg --box 40,60,200,220 --vocabulary plant.safetensors --names "pipe"`
"""

_EXAMPLE = "The example"

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", show_default=False, help="The name that is taught.")
]
PhotoArgument = Annotated[
    str, typer.Argument(metavar="PHOTO", show_default=False, help="A photo that shows it.")
]
ExampleBoxes = Annotated[
    list[Box] | None,
    typer.Option(
        "--box",
        parser=parse_box,
        metavar="X1,Y1,X2,Y2",
        rich_help_panel=_EXAMPLE,
        show_default="the whole photo",
        help="A box around the object, in pixels of the photo; what the decoder finds in it is the "
        "example. Each repeated box is a further example.",
    ),
]
MaskImage = Annotated[
    Path | None,
    typer.Option(
        "--mask",
        parser=parse_path,
        metavar="FILE",
        rich_help_panel=_EXAMPLE,
        show_default=False,
        help="The object as an image of the photo's size: white where it is, black elsewhere.",
    ),
]
To = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="FILE",
        help="The vocabulary file: made if it is not there, else the example is added.",
    ),
]


def teach(
    name: NameArgument,
    photo: PhotoArgument,
    boxes: ExampleBoxes = None,
    mask: MaskImage = None,
    to: To = DEFAULT,
    templates: options.Templates = None,
    as_json: options.AsJson = False,
    bundle: options.Bundle = None,
    backend: options.Backend = "auto",
    device: options.Device = None,
    precision: options.Precision = None,
    engine_precision: options.EnginePrecision = None,
    threads: options.Threads = None,
    verbose: options.Verbose = 0,
    debug: options.Debug = False,
) -> None:
    """Show what a name looks like: add an example of it to a vocabulary file.

    What the box or the mask shows is embedded, and its mean with the earlier examples of the name
    is mixed with the name's text. Nothing is trained, and the photo is not kept. Commands that take
    names take the file with --vocabulary, for the bundle that made it. One to four examples of
    different objects help most; all of them should look as the camera will see the thing.
    """
    with report_errors(debug, verbose):
        place = check_to(to)
        if boxes and mask is not None:
            raise InputError(
                "--box and --mask were both given; each is an example. Give them in two commands."
            )
        before = read_before(place)
        shown = None if mask is None else read_mask(mask)
        request = Request(
            images=[photo],
            bundle=bundle,
            backend=backend,
            device=device,
            precision=precision,
            engine_precision=engine_precision,
            threads=threads,
        )
        with heed_stops(), open_model(request) as model:
            regions: list[Any] = [shown] if boxes is None else list(boxes)
            made = add_example(model, before, name, photo, regions, templates)
            made.save(place)
            describe(model, made, name, place, as_json)


def check_to(to: str) -> Path:
    """Return the file of --to; raises InputError, WriteError before a model is loaded."""
    place = check_place(to, "--to")
    if place.suffix != SUFFIX:
        raise InputError(f"--to {to}: a vocabulary is a file that ends in {SUFFIX}. Choose one.")
    return check_file(place, to, "--to")


def read_before(place: Path) -> Vocabulary | None:
    """Read the vocabulary that is there; None for no file; raises VocabularyError for another."""
    import samclip

    return samclip.load_vocabulary(place) if place.exists() else None


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Read a mask as HxW bool, True where the image is lighter than mid-grey; raises ImageError."""
    from samclip.runtime.pixels.image import load_image

    inside: NDArray[np.bool_] = load_image(path).max(axis=2) >= INSIDE  # HxWx3 -> HxW
    return inside


def add_example(
    model: Model,
    before: Vocabulary | None,
    name: str,
    photo: str,
    regions: list[Any],
    templates: str | None,
) -> Vocabulary:
    """Return the vocabulary with the regions of a photo as further examples of `name`."""
    given: list[str | Vocabulary] = [name] if before is None else [before, name]
    if before is not None and templates is not None and name in before.names:
        raise VocabularyError(
            f"{name!r:.60} is in the vocabulary already, with its templates. Leave out --templates."
        )
    own = () if before is None else before.templates
    names: Any = model.vocabulary(given, own if own and templates is None else templates)
    with model.encode(photo) as scene:
        return model.vocabulary(names, examples={name: [(scene, region) for region in regions]})


def describe(model: Model, made: Vocabulary, name: str, place: Path, as_json: bool) -> None:
    """Print how many examples the name has now, and the names of the file."""
    if made.examples is None:
        raise ValueError("a vocabulary that was taught has examples")
    counts = dict(zip(made.names, made.examples.counts.tolist(), strict=True))
    weights = dict(zip(made.names, made.examples.weights.tolist(), strict=True))
    head = model.manifest.head
    if as_json:
        write_json(
            {
                "task": "teach",
                "name": name,
                "examples": counts[name],
                "weight": weights[name],
                "names": counts,
                "vocabulary": str(place),
                "bundle": model.manifest.name,
                "trained_head": None if head is None else head.trained,
            }
        )
        return
    if head is not None and not head.trained:
        warn_untrained_head()
    number = f"{counts[name]:,} example{'' if counts[name] == 1 else 's'}"
    say(out, f"{in_one_line(name)}: {number}, which weigh {weights[name]:.0%} against its text")
    names = f"{len(counts):,} name{'' if len(counts) == 1 else 's'}"
    say(out, f"vocabulary: {in_one_line(str(place))}, {names}")
