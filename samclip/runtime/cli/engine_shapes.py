"""The options of `samclip engine build` that bound the sizes of dynamic axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from samclip.engines.plans.sidecar import AxisRange

_SHAPES = "Shapes"

Prompts = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        "--batch",
        metavar="MIN,OPT,MAX",
        rich_help_panel=_SHAPES,
        show_default="1,16,16",
        help="Prompts per run of the mask decoder; one number for a fixed size.",
    ),
]
Points = Annotated[
    str | None,
    typer.Option(
        "--points",
        metavar="MIN,OPT,MAX",
        rich_help_panel=_SHAPES,
        show_default="0,2,64",
        help="Points per prompt, one more than are clicked; a box counts as two, a mask as none.",
    ),
]
Texts = Annotated[
    str | None,
    typer.Option(
        "--texts",
        metavar="MIN,OPT,MAX",
        rich_help_panel=_SHAPES,
        show_default="1,16,64",
        help="Texts per run of the text encoder.",
    ),
]
Regions = Annotated[
    str | None,
    typer.Option(
        "--regions",
        metavar="MIN,OPT,MAX",
        rich_help_panel=_SHAPES,
        show_default="1,4,16",
        help="Regions per run of the classifiers of regions.",
    ),
]
Vocabulary = Annotated[
    str | None,
    typer.Option(
        "--vocabulary",
        metavar="MIN,OPT,MAX",
        rich_help_panel=_SHAPES,
        show_default="1,80,32768",
        help="Names, with their synonyms, that the classifiers of regions choose from in a run.",
    ),
]


def parse_axes(**given: str | None) -> dict[str, AxisRange]:
    """Read the ranges that were given, by the names of their axes; raises InputError."""
    from samclip.engines.plans.axes import parse_axis

    return {name: parse_axis(text) for name, text in given.items() if text is not None}
