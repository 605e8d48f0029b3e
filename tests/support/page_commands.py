"""Commands on pages: which lines they are, and what runs each kind of them, or why nothing does.

A pattern is matched with the beginning of a command, as `commands` lists it. The first that
fits counts. A value is a test, or a reason that begins with "not run: ".
"""

from __future__ import annotations

import re

from pages import ROOT, code

PEERS = "python -m tools.peers"
APPS = {
    "samclip": "samclip.cli.main",
    "samclip-bench": "samclip.benchmarks.cli.main",
    "samclip-export": "samclip.export.cli",
    "samclip-merge": "samclip.merge.cli",
    PEERS: "tools.peers.__main__",
}
GPU = "not run: needs an NVIDIA GPU and TensorRT; "
DATA = "not run: needs a data set that is not in the repository; "
HOURS = "not run: hours; "
PATTERNS: dict[str, str] = {
    r"scripts/demo$": "tests/cli/test_demo.py",
    # without arguments, or with alternatives: mentioned in a sentence
    r"samclip-(bench|merge|export)( [a-z]+)?$": "tests/cli/test_help.py",
    r"samclip( engine)? ?[a-z]*( \||$)": "tests/cli/test_help.py",
    r"samclip engine build [^|]*tensorrt-rtx": "tests/engines/plans/test_build_rtx.py",
    r"samclip engine build": GPU + "tests/cli/test_engine.py",
    r"samclip engine bisect": GPU + "tests/cli/test_engine_check.py",
    r"samclip engine (list|remove|check)": "tests/cli/test_engine.py",
    r"samclip deploy triton": "tests/cli/test_deploy_triton.py",
    r"samclip deploy": "tests/cli/test_deploy.py",
    r"samclip (sign|info)": "tests/cli/test_bundle.py",
    r"samclip teach": "tests/cli/test_teach.py",
    r"samclip \w+ [^|]*--vocabulary": "tests/cli/test_teach.py",
    r"samclip watch": "tests/cli/test_watch.py",
    r"samclip demo --video": "tests/cli/test_watch.py",
    r"samclip doctor": "tests/cli/test_doctor.py",
    r"samclip batch": "tests/cli/test_batch.py",
    r"samclip serve": "tests/server/test_bounds.py",
    r"samclip (--version|demo)": "tests/cli/test_demo.py",
    r"samclip \w+ [^|]*--backend tensorrt": GPU + "tests/cli/test_commands.py",
    r"samclip (classify|segment|semantic|everything)": "tests/test_page_commands.py",
    r"samclip-export --help": "tests/cli/test_help.py",
    r"samclip-export [^|]*--for x-anylabeling": "tests/export/test_x_anylabeling.py",
    r"samclip-export --checkpoint mobile_sam": "tests/export",
    r"samclip-export": "not run: weights that are not in the repository; tests/export",
    r"samclip-merge": HOURS + "tests/merge",
    r"samclip-bench accuracy": DATA + "tests/benchmarks/accuracy",
    r"samclip-bench video": DATA + "tests/benchmarks/accuracy/test_followed.py",
    r"samclip-bench agreement": DATA + "tests/benchmarks/accuracy",
    r"samclip-bench (latency|memory|amortised|roofline|profile|compare|report)": "tests/benchmarks",
    r"samclip-bench (board|choose|shapes)": "tests/benchmarks",
    r"python -m tools\.site": "tests/tools/site",
    r"python -m tools\.dense_names": "tests/tools/test_dense_names.py",
    r"python -m tools\.label_maps": "tests/tools/test_label_maps.py",
    r"python -m tools\.untaught_words": "tests/tools/test_untaught_words.py",
    r"python -m tools\.batch_pace": "tests/tools/test_batch_pace.py",
    r"python -m tools\.serve_picture": "not run: needs a browser; tests/server/test_page.py",
    r"python -m tools\.regraph": "tests/tools/test_regraph.py",
    r"python -m tools\.compare_versions": "not run: a timing of another checkout",
    r"python -m tools\.peers": "not run: installs other projects; tests/tools/peers",
    r"python examples/": "tests/examples/test_scripts.py",
    r"python tests/gpu/": GPU + "tests/gpu",
    r"scripts/measure-radio": "not run: gigabytes; tests/export/test_exporter_radio.py",
    r"pytest tests/triton_repository": "tests/triton_repository/test_server.py",
    r"pytest tests/docker": "tests/docker/test_images.py",
    r"pytest": "tests/attacks",
    r"scripts/compare-lowerings": HOURS + "tests/export",
    r"scripts/compare-inputs": "not run: a timing; tests/runtime/pixels/test_encoder_input.py",
    r"scripts/ship-samclip-tiny": "not run: it needs the merged checkpoint; tests/export",
    r"scripts/quiet-figures": "not run: minutes on a quiet machine; tests/test_figures.py",
    r"scripts/start-up": "not run: minutes of timing; tests/tools/test_start_up.py",
    r"scripts/check-figures": "tests/test_figures.py",
    r"scripts/write-merging-reference": "tests/merge/config/test_reference.py",
    r"scripts/(emulate|check)-aarch64": "not run: needs qemu or wheels; tests/test_aarch64.py",
    r"scripts/check": "not run: it runs this test",
    r"scripts/record-tensorrt-api": "not run: needs TensorRT; tests/engines/tensorrt",
    r"scripts/audit-dependencies": "tests/test_audit_dependencies.py",
}


def commands(text: str) -> list[str]:
    """List the commands of this project in a text, without variables set before them."""
    found = (re.sub(r"^(?:\$ |[A-Z_]+=\S+ )+", "", line) for line in code(text))
    return [line for line in found if is_command(line)]


def is_command(line: str) -> bool:
    """Whether a line runs something of this project."""
    first, *rest = line.split() or [""]
    if first == "python":
        return line.startswith("python -m tools.") or bool(rest and (ROOT / rest[0]).is_file())
    is_script = first.startswith("scripts/") and (ROOT / first).is_file()
    return first in APPS or first == "pytest" or is_script


def find(line: str) -> str | None:
    """Return the pattern that a command line fits."""
    return next((pattern for pattern in PATTERNS if re.match(pattern, line)), None)


def named_paths(value: str) -> list[str]:
    """Return the tests that a value names."""
    return [path.rstrip(".") for path in re.findall(r"tests/[\w./]+", value)]
