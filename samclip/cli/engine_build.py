"""`samclip engine build`: TensorRT plans of a bundle, for this GPU or for RTX GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from samclip.cli import options
from samclip.cli.exits import report_errors
from samclip.cli.tables import format_bytes
from samclip.cli.terminal import err, say, write_json
from samclip.engines.backend_names import TENSORRT, LibraryName

if TYPE_CHECKING:
    from samclip.engines.plans.request import BuiltPlan
    from samclip.engines.plans.sidecar import Sidecar
    from samclip.runtime.bundles.bundle import Bundle
    from samclip.runtime.plans.building import PlanSettings

EXAMPLES = """
**Examples:**

- `samclip engine build my-bundle/`

- `samclip engine build my-bundle/ --precision fp16 --points 1,2,8 --workspace 2048`

- `samclip engine build my-bundle/ --if-stale`

- `samclip engine build my-bundle/ --backend tensorrt-rtx --target sm86 --target sm89`
"""
MIB = 2**20
GATE_STATES = {
    "passed": "agrees with FP32",
    "failed": "WRONG: it is never loaded",
    "unjudged": "judged at its first load",
    "skipped": "NOT JUDGED (--no-gate)",
}

_WHAT = "What is built"
_SHAPES = "Shapes"
_HOW = "How it is built"
_WHERE = "Plan"

Backend = Annotated[
    LibraryName,
    typer.Option(
        "--backend",
        rich_help_panel=_WHAT,
        help="tensorrt builds for the GPU of this machine, tensorrt-rtx for RTX GPUs, anywhere.",
    ),
]
Aspects = Annotated[
    list[str] | None,
    typer.Option(
        "--aspect",
        metavar="W:H",
        rich_help_panel=_WHAT,
        show_default="all of the bundle",
        help="Shape of input, such as 16:9, of a bundle that has several; may be repeated. The "
        "program then loads it with the same aspects.",
    ),
]
GraphNames = Annotated[
    list[str] | None,
    typer.Option(
        "--graph",
        metavar="NAME",
        rich_help_panel=_WHAT,
        show_default="all of the bundle",
        help="encoder, mask_decoder, mask_upscaler, text_encoder, clip_head, the region "
        "classifiers roi_classifier and clip_roi, or clip_encoder of two towers; may be repeated.",
    ),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="smNN",
        rich_help_panel=_WHAT,
        show_default="the GPU of this machine",
        help="A GPU architecture to build for, with tensorrt-rtx; may be repeated.",
    ),
]
Device = Annotated[
    int,
    typer.Option(
        "--device",
        parser=options.parse_gpu,
        metavar="N|cuda:N",
        rich_help_panel=_WHAT,
        help="Which GPU builds.",
    ),
]
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
        help="Regions per run of the region classifiers.",
    ),
]
Vocabulary = Annotated[
    str | None,
    typer.Option(
        "--vocabulary",
        metavar="MIN,OPT,MAX",
        rich_help_panel=_SHAPES,
        show_default="1,80,32768",
        help="Names, with their synonyms, that the region classifiers choose from in one run.",
    ),
]
Height = Annotated[
    str | None,
    typer.Option(
        "--height",
        metavar="MIN,OPT,MAX",
        rich_help_panel=_SHAPES,
        show_default="1,1080,4096",
        help="Pixels of photos whose masks are made on the device: the plan of mask_upscaler holds "
        "memory for the most.",
    ),
]
Width = Annotated[
    str | None,
    typer.Option(
        "--width",
        metavar="MIN,OPT,MAX",
        rich_help_panel=_SHAPES,
        show_default="1,1920,4096",
        help="The same across.",
    ),
]
Workspace = Annotated[
    int | None,
    typer.Option(
        "--workspace",
        min=1,
        metavar="MIB",
        rich_help_panel=_HOW,
        show_default="all of the GPU's memory",
        help="Scratch memory in MiB that a kernel may take.",
    ),
]
Level = Annotated[
    int | None,
    typer.Option(
        "--level",
        min=0,
        max=5,
        rich_help_panel=_HOW,
        show_default="3",
        help="Builder optimisation level: higher builds longer, for a faster plan.",
    ),
]
StripWeights = Annotated[
    bool,
    typer.Option(
        "--strip-weights",
        rich_help_panel=_HOW,
        help="Leave the weights out of the plan; loading it takes them from the bundle.",
    ),
]
Preflight = Annotated[
    bool,
    typer.Option(
        "--preflight/--no-preflight",
        rich_help_panel=_HOW,
        help="Refuse a build that cannot fit into memory.",
    ),
]
Gate = Annotated[
    bool,
    typer.Option(
        "--gate/--no-gate",
        rich_help_panel=_HOW,
        help="Compare each plan with FP32 before it is kept, and build another form of a wrong "
        "one. Without, the plan is marked as not judged.",
    ),
]
Beside = Annotated[
    bool,
    typer.Option(
        "--beside",
        rich_help_panel=_WHERE,
        help="Put plans into BUNDLE.engines next to the bundle, not into the user's cache.",
    ),
]
Force = Annotated[
    bool,
    typer.Option("--force", rich_help_panel=_WHERE, help="Build even if an equal plan exists."),
]
IfStale = Annotated[
    bool,
    typer.Option(
        "--if-stale",
        rich_help_panel=_WHERE,
        help="Do nothing for graphs with a plan that the runtime would take: for the start of a "
        "service.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", rich_help_panel=_WHERE, help="Print the plans as JSON.")
]


def build_engines(
    bundle: options.BundleArgument = None,
    backend: Backend = TENSORRT,
    graph: GraphNames = None,
    aspect: Aspects = None,
    precision: options.Precision = None,
    target: Targets = None,
    device: Device = 0,
    prompts: Prompts = None,
    points: Points = None,
    texts: Texts = None,
    regions: Regions = None,
    vocabulary: Vocabulary = None,
    height: Height = None,
    width: Width = None,
    workspace: Workspace = None,
    level: Level = None,
    strip_weights: StripWeights = False,
    preflight: Preflight = True,
    gate: Gate = True,
    beside: Beside = False,
    force: Force = False,
    if_stale: IfStale = False,
    as_json: AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Build TensorRT plans of a bundle's graphs, and keep them for the runtime.

    A plan fits one version of the library and the GPUs that it was built for; the runtime checks
    this before it loads one. Graphs that already have such a plan are left alone. Each plan is
    compared with FP32 on real photos; a wrong one is not kept.
    """
    with report_errors(debug):
        from samclip.engines.plans.sidecar import BuildOptions, parse_axis
        from samclip.errors import InputError
        from samclip.runtime.bundles.bundle import Bundle
        from samclip.runtime.bundles.home import find_bundle
        from samclip.runtime.plans.building import PlanSettings

        if force and if_stale:
            raise InputError("--force builds all plans and --if-stale only some: give one of them.")
        axes = {
            "prompts": prompts,
            "points": points,
            "texts": texts,
            "regions": regions,
            "vocabulary": vocabulary,
            "height": height,
            "width": width,
        }
        settings = PlanSettings(
            backend=backend,
            graphs=tuple(graph or ()),
            aspects=tuple(aspect or ()),
            precision=precision,
            targets=tuple(target or ()),
            axes={name: parse_axis(text) for name, text in axes.items() if text is not None},
            options=BuildOptions(
                workspace=None if workspace is None else workspace * MIB,
                level=level,
                strip_weights=strip_weights,
            ),
            beside=beside,
            device=device,
            force=force,
            if_stale=if_stale,
            preflight=preflight,
            gate=gate,
        )
        built = build_and_show(Bundle.open(find_bundle(bundle)), settings)
        if as_json:
            write_json({"plans": [record(plan) for plan in built]}, indent=2)


def build_and_show(bundle: Bundle, settings: PlanSettings) -> list[BuiltPlan]:
    """Build a bundle's plans, with progress and one line for each plan on stderr.

    Raises as `build_plans` does; plans that were built before a failure stay.
    """
    from samclip.cli.progress import ConsoleProgress
    from samclip.runtime.plans.building import build_plans

    built = []
    for plan in build_plans(bundle, settings, ConsoleProgress(err)):
        built.append(plan)
        say(err, describe(plan))
    return built


def describe(plan: BuiltPlan) -> str:
    """Return one line about a plan: what was built, or that it existed."""
    sidecar = plan.stored.sidecar
    name = "" if sidecar is None else f"{sidecar.graph.name} ({sidecar.graph.precision}): "
    took = "" if sidecar is None else f"built in {sidecar.seconds:.1f} s"
    state = "was there already" if plan.reused else took
    gate = "" if sidecar is None else f", {describe_gate(sidecar)}"
    return f"{name}{state}{gate}, {format_bytes(plan.stored.size)}: {plan.stored.path}"


def describe_gate(sidecar: Sidecar) -> str:
    """Return what the gate found, and what the plan stands in for, in a few words."""
    state = GATE_STATES[sidecar.gate.state]
    return state if sidecar.asked is None else f"{state}, as {sidecar.asked.how}"


def record(plan: BuiltPlan) -> dict[str, Any]:
    """Return a plan as plain values: path, size in bytes, whether it was reused, its sidecar."""
    import msgspec

    return {
        "path": str(plan.stored.path),
        "bytes": plan.stored.size,
        "reused": plan.reused,
        "sidecar": msgspec.to_builtins(plan.stored.sidecar),
    }
