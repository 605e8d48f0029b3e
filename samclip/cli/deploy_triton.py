"""`samclip deploy triton`: a bundle as a model repository for NVIDIA's Triton server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from samclip.cli import options
from samclip.cli.bundle import PublicKey
from samclip.cli.exits import report_errors
from samclip.cli.given_paths import parse_path
from samclip.cli.tables import format_bytes
from samclip.cli.terminal import err, out, say, write_json

if TYPE_CHECKING:
    from samclip.triton.records import RepositoryRecord

EXAMPLES = """
**Examples:**

- `samclip deploy triton my-bundle/ --to repository/`

- `samclip deploy triton my-bundle/ --to repository/ --device gpu --fronts 4`

- `samclip deploy triton my-bundle/ --to repository/ --backend tensorrt --precision fp16`

- `samclip deploy triton my-bundle/ --to repository/ --backend python --engine openvino`

- With names that `samclip teach` has learned: `samclip deploy triton samclip-tiny --to repository/
  --vocabulary plant.safetensors`
"""
_GRAPHS = "How graphs run"
_FRONT = "The front model"

BundleArgument = Annotated[
    str,
    typer.Argument(metavar="BUNDLE", show_default=False, help="A folder, or a bundle's name."),
]
To = Annotated[
    Path,
    typer.Option(
        "--to",
        parser=parse_path,
        metavar="DIR",
        show_default=False,
        help="The model repository: a new or empty folder, for `tritonserver --model-repository`.",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace a repository that samclip wrote. Nothing else is replaced."
    ),
]
Backend = Annotated[
    Literal["onnxruntime", "openvino", "tensorrt", "python"],
    typer.Option(
        "--backend",
        rich_help_panel=_GRAPHS,
        help="Triton's back end for the graphs. tensorrt takes plans that `samclip engine build` "
        "made; python runs them by samclip, in a Triton without other back ends.",
    ),
]
Device = Annotated[
    Literal["cpu", "gpu"] | None,
    typer.Option(
        "--device",
        rich_help_panel=_GRAPHS,
        show_default="gpu for tensorrt, else cpu",
        help="Where graphs run, and the encoder's outputs stay.",
    ),
]
Gpu = Annotated[
    int,
    typer.Option(
        "--gpu", min=0, max=63, metavar="N", rich_help_panel=_GRAPHS, help="The number of the GPU."
    ),
]
EngineName = Annotated[
    Literal["onnxruntime", "openvino"],
    typer.Option(
        "--engine", rich_help_panel=_GRAPHS, help="For --backend python: what runs the graphs."
    ),
]
Capability = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="CAPABILITY",
        rich_help_panel=_GRAPHS,
        show_default="the one there are plans for",
        help="For --backend tensorrt: the compute capability of Triton's GPU, as in 8.9.",
    ),
]
Instances = Annotated[
    int,
    typer.Option(
        "--instances",
        min=1,
        max=1024,
        metavar="N",
        rich_help_panel=_GRAPHS,
        help="How often each graph may run at once.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=1024,
        metavar="N",
        rich_help_panel=_GRAPHS,
        show_default="the back end's choice",
        help="CPU threads for one run of a graph.",
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        rich_help_panel=_FRONT,
        show_default="the bundle's",
        help="The front model's name; those of the graphs begin with it.",
    ),
]
Fronts = Annotated[
    int,
    typer.Option(
        "--fronts",
        min=1,
        max=1024,
        metavar="N",
        rich_help_panel=_FRONT,
        help="Processes of the front model: each answers one request at a time.",
    ),
]
Scenes = Annotated[
    int,
    typer.Option(
        "--scenes",
        min=1,
        max=1024,
        metavar="N",
        rich_help_panel=_FRONT,
        help="Scenes that each process keeps at once.",
    ),
]
SceneSeconds = Annotated[
    float,
    typer.Option(
        "--scene-seconds",
        min=1,
        max=86_400,
        metavar="SECONDS",
        rich_help_panel=_FRONT,
        help="A scene without requests for so long goes.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def deploy_triton(
    bundle: BundleArgument,
    to: To,
    overwrite: Overwrite = False,
    backend: Backend = "onnxruntime",
    device: Device = None,
    gpu: Gpu = 0,
    engine: EngineName = "onnxruntime",
    precision: options.Precision = None,
    target: Capability = None,
    instances: Instances = 1,
    threads: Threads = None,
    name: Name = None,
    vocabulary: options.SavedNames = None,
    fronts: Fronts = 1,
    scenes: Scenes = 16,
    scene_seconds: SceneSeconds = 300.0,
    public_key: PublicKey = None,
    as_json: AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Write a model repository for NVIDIA's Triton server.

    Each graph of the bundle becomes a model. One more model, the front, has the bundle's name: a
    client sends it an image once, then points, boxes and names, and gets masks. samclip must be
    installed where Triton's Python is. The repository appears whole or not at all.
    """
    with report_errors(debug):
        from samclip.cli.progress import ConsoleProgress
        from samclip.triton.graph_models import GraphSettings
        from samclip.triton.repository import RepositorySettings, write_repository

        settings = RepositorySettings(
            graphs=GraphSettings(
                backend=backend,
                device=device or ("gpu" if backend == "tensorrt" else "cpu"),
                gpu=gpu,
                engine=engine,
                precision=precision,
                instances=instances,
                threads=threads,
                capability=target,
            ),
            name=name,
            fronts=fronts,
            scenes=scenes,
            idle_seconds=scene_seconds,
            vocabulary=vocabulary,
            overwrite=overwrite,
            public_key=public_key,
        )
        written = write_repository(bundle, to, settings, ConsoleProgress(err))
        if as_json:
            write_json(record(to, written), indent=2)
        else:
            for line in describe(to, written):
                say(out, line)


def record(folder: Path, written: RepositoryRecord) -> dict[str, Any]:
    """Return a repository as plain values."""
    return {
        "folder": str(folder),
        "front": written.name,
        "models": list(written.models),
        "bundle": written.bundle,
        "backend": written.backend,
        "device": written.device,
        "bytes": sum(entry.size for entry in written.files.values()),
    }


def describe(folder: Path, written: RepositoryRecord) -> list[str]:
    """Return lines about a repository for people."""
    size = format_bytes(sum(entry.size for entry in written.files.values()))
    return [
        f"{folder} serves {written.bundle} by {written.backend} on the {written.device}: {size}",
        f"front model: {written.name}",
        f"graphs: {', '.join(written.models[1:])}",
    ]
