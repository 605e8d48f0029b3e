"""Benchmarks of bundles run on a device: nothing but a teacher needs torch."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import samclip.benchmarks

CODE = """
import importlib, importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {{"torch", "onnx", "safetensors", "transformers"}}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)
sys.meta_path.insert(0, Block())
for name in {names!r}:
    importlib.import_module(name)
"""


def test_all_but_the_teachers_import_without_torch() -> None:
    names = [
        module.name
        for module in pkgutil.walk_packages(samclip.benchmarks.__path__, "samclip.benchmarks.")
        if module.name != "samclip.benchmarks.teachers"
    ]
    names.append("samclip.baselines")
    assert "samclip.benchmarks.cli.main" in names
    code = CODE.format(names=names)
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_teacher_without_torch_says_what_to_install() -> None:
    code = CODE.format(names=["samclip.benchmarks.cli.session"]) + (
        "from contextlib import ExitStack\n"
        "from samclip.benchmarks.cli.session import Session\n"
        "from samclip.benchmarks.cli.options import TeacherChoice\n"
        "from samclip.errors import CapabilityError\n"
        "try:\n"
        "    Session('x', ExitStack()).open_teacher(TeacherChoice('conse'))\n"
        "except CapabilityError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "samclip[export]" in done.stdout
    assert "torch" in done.stdout
