"""Imports: no torch at run time, and no heavy package before it is needed."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import samclip.batch
import samclip.engines
import samclip.runtime
import samclip.video

TORCH_SIDE = ("torch", "torchvision", "onnx", "onnxscript", "onnx_ir", "transformers", "onnxslim")
DEV_SIDE = ("pytest", "matplotlib", "scipy", "skimage", "supervision", "open_clip", "timm")
LATE = ("onnxruntime", "cv2", "tokenizers", "ftfy", "pycocotools", "PIL", "numpy", "supervision")
LATE += ("msgspec", "av", "pyarrow", "ray", "pandas")

BLOCK = f"""
import importlib.abc, sys
BLOCKED = {TORCH_SIDE + DEV_SIDE!r}
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED or name.startswith("samclip.export"):
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)
sys.meta_path.insert(0, Block())
"""


def run_python(code: str) -> str:
    """Run `code` in a fresh interpreter; returns what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def modules_after(code: str) -> set[str]:
    """Top-level modules that are loaded after `code` ran in a fresh interpreter."""
    tail = (
        "\nimport json, sys; print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    )
    return set(json.loads(run_python(code + tail).splitlines()[-1]))


def walk(package: object) -> list[str]:
    paths, name = package.__path__, package.__name__  # type: ignore[attr-defined]
    return [name, *(m.name for m in pkgutil.walk_packages(paths, f"{name}."))]


def test_import_samclip_is_quick() -> None:
    """These take half as long as all of `import samclip`."""
    assert not modules_after("import samclip") & {"dataclasses", "difflib", "inspect"}


def test_import_samclip_brings_no_torch_side_package() -> None:
    assert not modules_after("import samclip") & {*TORCH_SIDE, *DEV_SIDE, "PIL", "onnxruntime"}


def test_loading_brings_no_notebook() -> None:
    """Pillow's viewers import IPython where it is installed: as much as all that loading needs."""
    loaded = run_python("import sys, samclip.runtime.model; print(*sys.modules)").split()
    assert not {*loaded} & {"IPython", "PIL.ImageShow"}


def test_the_command_starts_without_heavy_packages() -> None:
    loaded = modules_after("import samclip.cli.main")
    assert not loaded & {*TORCH_SIDE, *DEV_SIDE, *LATE}


@pytest.mark.parametrize("arguments", [["--help"], ["segment", "--help"], ["--version"]])
def test_help_needs_no_heavy_package(arguments: list[str]) -> None:
    code = (
        "from typer.testing import CliRunner\n"
        "from samclip.cli.main import app\n"
        f"assert CliRunner().invoke(app, {arguments!r}).exit_code == 0\n"
    )
    assert not modules_after(code) & {*TORCH_SIDE, *DEV_SIDE, *LATE}


@pytest.mark.parametrize(
    "package", [samclip.runtime, samclip.engines, samclip.video, samclip.batch]
)
def test_every_module_imports_while_torch_and_onnx_are_blocked(package: object) -> None:
    code = (
        f"{BLOCK}\nimport importlib\nfor name in {walk(package)!r}: importlib.import_module(name)"
    )
    loaded = modules_after(code)
    assert "samclip" in loaded
    assert not loaded & set(TORCH_SIDE)


def test_doctor_runs_while_torch_and_onnx_are_blocked() -> None:
    code = (
        f"{BLOCK}\n"
        "from samclip.cli.main import app\n"
        "app(['doctor', '--json'], standalone_mode=False)\n"
    )
    report = json.loads(run_python(code))
    assert report["samclip"] == samclip.__version__


def test_tasks_answer_while_torch_and_onnx_are_blocked(
    lite2_bundle: Path, photo_path: Path, tmp_path: Path
) -> None:
    tasks = {
        "classify": ["--names", "a cup,a dog"],
        "segment": ["--point", "300,200"],
        "semantic": ["--names", "a cup,a table"],
        "everything": ["--points-per-side", "2"],
        "demo": ["--names", "a cup,a table", "--box", "172,17,410,308"],
    }
    shared = [str(photo_path), "--bundle", str(lite2_bundle), "--json"]
    shared += ["--output", str(tmp_path)]  # a picture too: drawing must be as lean
    commands = [[task, *shared, *options] for task, options in tasks.items()]
    run = f"for command in {commands!r}: app(command, standalone_mode=False)"
    code = f"{BLOCK}\nfrom samclip.cli.main import app\n{run}"
    answers = [json.loads(line) for line in run_python(code).splitlines()]
    assert [answer["task"] for answer in answers] == list(tasks)
