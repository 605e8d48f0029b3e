"""Words of other tools that people type in place of a command, and the command that they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typer.core import TyperGroup

_TASKS = (
    "`samclip segment` cuts out what points and boxes show, `everything` finds all objects, "
    "`classify` and `semantic` name an image and its pixels"
)
_BENCHMARKS = (
    "accuracy",
    "agreement",
    "amortised",
    "board",
    "choose",
    "compare",
    "latency",
    "memory",
    "profile",
    "report",
    "roofline",
)
_SPEED = "`samclip-bench latency` measures time"
_ACCURACY = "`samclip-bench accuracy` measures on labelled photos"

# Of `samclip`.
WORDS: Mapping[str, str] = {
    "export": "bundles are exported by `samclip-export`",
    "convert": "bundles are exported by `samclip-export`",
    "quantize": "bundles are exported by `samclip-export`, also with --int8 and --fp16",
    "train": "models are trained by `samclip-merge`",
    "merge": "models are trained by `samclip-merge`",
    "finetune": "models are trained by `samclip-merge`",
    "bench": _SPEED,
    "benchmark": _SPEED,
    "speed": _SPEED,
    "val": _ACCURACY,
    "validate": _ACCURACY,
    "eval": _ACCURACY,
    "evaluate": _ACCURACY,
    "test": _ACCURACY,
    **dict.fromkeys(
        ("video", "track", "stream", "camera", "live"),
        "`samclip watch` answers cameras, videos and addresses",
    ),
    "predict": _TASKS,
    "detect": _TASKS,
    "run": _TASKS,
    "auto": _TASKS,
    "build": "plans are built by `samclip engine build`",
    "engines": "plans are listed by `samclip engine list`",
    "trtexec": "plans are built by `samclip engine build`",
    **dict.fromkeys(
        ("ray", "bulk", "annotate", "label", "embed", "extract"),
        "`samclip batch` answers many images into parquet files",
    ),
    "server": "`samclip serve` answers over HTTP",
    "api": "`samclip serve` answers over HTTP",
    "web": "`samclip serve` answers over HTTP, with a page for the browser",
    "list": "bundles are listed by `samclip doctor`, plans by `samclip engine list`",
    "bundles": "bundles are listed by `samclip doctor`",
    "checks": "`samclip doctor` checks this machine",
    "check": "`samclip doctor` checks this machine, `samclip engine check` its plans",
    "version": "the version is shown by `samclip --version`",
    "help": "the commands are shown by `samclip --help`",
    **{word: f"this is `samclip-bench {word}`" for word in _BENCHMARKS},
}
# Of `samclip-bench`.
BENCH_WORDS: Mapping[str, str] = {
    "speed": _SPEED,
    "time": _SPEED,
    "benchmark": _SPEED,
    "fps": _SPEED,
    "val": _ACCURACY,
    "eval": _ACCURACY,
    "miou": _ACCURACY,
    "ram": "`samclip-bench memory` measures memory",
    "flops": "`samclip-bench roofline` counts the work of graphs",
    "flamegraph": "`samclip-bench profile` draws where the time of graphs goes",
    "trace": "`samclip-bench profile` draws where the time of graphs goes",
    **{
        word: f"this is `samclip {word}`"
        for word in ("classify", "segment", "semantic", "everything", "doctor", "info", "engine")
    },
}


def hinting_group(words: Mapping[str, str]) -> type[TyperGroup]:
    """Return the class of an app whose error for one of the `words` says what may be meant.

    The words are lower case. For any other unknown word the closest commands are named. A command
    may have two words: `deploy triton` goes before `deploy`.
    """

    class HintingGroup(TyperGroup):
        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            hint = words.get(args[0].lower()) if args else None
            if hint is not None and args[0] not in self.commands:
                ctx.fail(f"No such command {args[0]!r}: {hint}.")
            if (both := " ".join(args[:2])) in self.commands:
                return both, self.commands[both], args[2:]
            return super().resolve_command(ctx, args)

    return HintingGroup
