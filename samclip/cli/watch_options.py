"""The options of `samclip watch` that no other command has."""

from __future__ import annotations

from typing import Annotated

import typer

_STREAM = "Stream"

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        show_default=False,
        help="A video file, a camera's number, an address (RTSP, HTTP), a pipeline of GStreamer, a "
        "folder of images, or - for JPEG images on stdin.",
    ),
]
Video = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        show_default=False,
        help="Write a video of the answers: .mp4, .mkv, .mov or .avi.",
    ),
]
Show = Annotated[
    bool, typer.Option("--show", help="Show the answers in a window; q or Escape ends it.")
]
Every = Annotated[
    int,
    typer.Option(
        "--every", min=1, metavar="N", rich_help_panel=_STREAM, help="Answer every N-th frame."
    ),
]
MaxFps = Annotated[
    float | None,
    typer.Option(
        "--max-fps",
        min=0.001,
        metavar="N",
        rich_help_panel=_STREAM,
        show_default="no limit",
        help="Answer at most N frames a second of the stream.",
    ),
]
Latest = Annotated[
    bool | None,
    typer.Option(
        "--latest/--every-frame",
        rich_help_panel=_STREAM,
        show_default="--latest for live sources",
        help="Drop frames that come too fast, or answer each one.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        min=1,
        metavar="N",
        rich_help_panel=_STREAM,
        show_default="no limit",
        help="End after N answers.",
    ),
]
SkipStill = Annotated[
    float | None,
    typer.Option(
        "--skip-still",
        min=0,
        metavar="LEVELS",
        rich_help_panel=_STREAM,
        show_default="off",
        help="Reuse the masks where nothing differs by so many grey levels (0 to 255); try 4.",
    ),
]
BudgetMs = Annotated[
    float | None,
    typer.Option(
        "--budget-ms",
        min=1,
        metavar="MS",
        rich_help_panel=_STREAM,
        show_default="off",
        help="Where a frame takes longer than this: use a smaller input of the encoder, and try "
        "fewer points.",
    ),
]
Smaller = Annotated[
    list[str] | None,
    typer.Option(
        "--smaller",
        metavar="NAME_OR_PATH",
        rich_help_panel=_STREAM,
        show_default="none",
        help="A bundle of the same kind with a smaller input, for --budget-ms; may be repeated.",
    ),
]
PointsPerSide = Annotated[
    int | None,
    typer.Option(
        "--points-per-side",
        min=1,
        metavar="N",
        rich_help_panel=_STREAM,
        show_default="16",
        help="Without --box and --point: try a grid of N by N points in each frame.",
    ),
]
Adaptive = Annotated[
    bool,
    typer.Option(
        "--adaptive",
        rich_help_panel=_STREAM,
        help="Try a quarter of that grid first, then only points that few masks cover.",
    ),
]
Wait = Annotated[
    float,
    typer.Option(
        "--wait",
        min=0.1,
        metavar="SECONDS",
        rich_help_panel=_STREAM,
        help="The time that opening the source, and each of its frames, may take.",
    ),
]
Reconnect = Annotated[
    float,
    typer.Option(
        "--reconnect",
        min=0,
        metavar="SECONDS",
        rich_help_panel=_STREAM,
        help="Try so long to open a live source again that was lost.",
    ),
]
