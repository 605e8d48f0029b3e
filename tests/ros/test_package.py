"""The package around the node: versions, files, parameters and launch files agree."""

from __future__ import annotations

import ast
import runpy
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from tree import ROOT

import samclip

PACKAGE = ROOT / "ros"


def parameters_of(file: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(file.read_text("utf-8"))["/**"]["ros__parameters"])


def test_versions_and_names_agree() -> None:
    manifest = ElementTree.parse(PACKAGE / "package.xml").getroot()
    assert manifest.findtext("name") == "samclip_ros"
    assert manifest.findtext("version") == samclip.__version__
    assert (PACKAGE / "resource" / "samclip_ros").is_file()
    needed = {each.text for each in manifest.iter("exec_depend")}
    imported = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    of_ros = {name for name in imported if name in needed or name.endswith("_msgs")}
    assert of_ros <= needed
    assert {"rclpy", "vision_msgs", "diagnostic_msgs", "rcl_interfaces"} <= of_ros


def test_only_the_node_imports_rclpy_and_samclip_does_not() -> None:
    sources = [*(PACKAGE / "samclip_ros").glob("*.py"), *(ROOT / "samclip").rglob("*.py")]
    importing = {file.name for file in sources if "import rclpy" in file.read_text("utf-8")}
    assert importing == {"node.py"}


def test_the_setup_installs_every_file(monkeypatch: pytest.MonkeyPatch) -> None:
    import setuptools

    given: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: given.update(options))
    monkeypatch.chdir(PACKAGE)
    runpy.run_path("setup.py")
    assert given["version"] == samclip.__version__
    installed = {file for _, files in given["data_files"] for file in files}
    tracked = {
        path.relative_to(PACKAGE).as_posix()
        for folder in ("launch", "config", "resource")
        for path in (PACKAGE / folder).iterdir()
        if path.is_file()
    }
    assert installed == tracked | {"package.xml", "README.md"}
    (script,) = given["entry_points"]["console_scripts"]
    assert script == "samclip_node = samclip_ros.node:main"


def test_parameter_files_hold_what_the_node_declares() -> None:
    from samclip_ros.settings import PARAMETERS, read

    defaults = {each.name: each.default for each in PARAMETERS}
    whole = parameters_of(PACKAGE / "config" / "node.yaml")
    assert set(whole) == set(defaults)
    text = (PACKAGE / "config" / "node.yaml").read_text("utf-8")
    live = {line.split(":")[0].strip() for line in text.splitlines() if "# live" in line}
    assert live == {each.name for each in PARAMETERS if each.live}
    for name, value in whole.items():
        kind = list if name == "names" else type(defaults[name])
        assert type(value) is kind, name
        if name not in {"names", "autostart"}:
            assert value == defaults[name], name
    for file in ("node.yaml", "nav2_samclip.yaml"):
        settings = read(defaults | parameters_of(PACKAGE / "config" / file))
        assert settings.names


def test_nav2s_layer_knows_every_name_and_topic_of_the_node() -> None:
    given = yaml.safe_load((PACKAGE / "config" / "nav2_costmap.yaml").read_text("utf-8"))
    costmap = given["costmap"]["costmap"]["ros__parameters"]
    camera = costmap["semantic_layer"]["camera"]
    known = [name for kind in camera["class_types"] for name in camera[kind]["classes"]]
    names = parameters_of(PACKAGE / "config" / "nav2_samclip.yaml")["names"]
    assert sorted(known) == sorted(names)
    source = (PACKAGE / "samclip_ros" / "node.py").read_text("utf-8")
    for topic in ("segmentation_topic", "confidence_topic", "labels_topic"):
        assert f'"{camera[topic].lstrip("/")}"' in source
    assert set(costmap["plugins"]) <= set(costmap)


@dataclass
class Made:
    """What a launch file made: its class and arguments."""

    kind: str
    given: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins of launch that note what is made."""

    def kind(name: str) -> Any:
        return lambda *given, **options: Made(name, given, options)

    modules = {
        "ament_index_python": (),
        "ament_index_python.packages": (),
        "launch": ("LaunchDescription",),
        "launch.actions": ("DeclareLaunchArgument", "IncludeLaunchDescription"),
        "launch.substitutions": ("LaunchConfiguration",),
        "launch.launch_description_sources": ("PythonLaunchDescriptionSource",),
        "launch_ros": (),
        "launch_ros.actions": ("Node", "LifecycleNode"),
    }
    for name, members in modules.items():
        module = types.ModuleType(name)
        vars(module).update({member: kind(member) for member in members})
        monkeypatch.setitem(sys.modules, name, module)
    share = sys.modules["ament_index_python.packages"]
    share.get_package_share_directory = lambda name: str(PACKAGE)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("launched")
def test_launch_files_declare_what_they_use_and_name_files_that_exist() -> None:
    files = sorted((PACKAGE / "launch").glob("*.launch.py"))
    assert len(files) == 2
    for file in files:
        made = runpy.run_path(str(file))["generate_launch_description"]()
        (entries,) = made.given
        declared = {each.given[0]: each for each in entries if each.kind == "DeclareLaunchArgument"}
        used = set(_configurations(entries))
        assert used == set(declared), file.name
        for name, each in declared.items():
            assert each.options["description"].endswith(".")
            if name.endswith(("_file", "_params")):
                assert Path(each.options["default_value"]).is_file()
        for each in entries:
            if each.kind == "IncludeLaunchDescription":
                (source,) = each.given
                assert Path(source.given[0]).is_file()
                arguments = dict(each.options["launch_arguments"])
                assert Path(arguments["params_file"]).is_file()
        nodes = [each.options for each in entries if each.kind in {"Node", "LifecycleNode"}]
        assert all(each["package"] and each["executable"] for each in nodes)


def _configurations(value: Any) -> list[str]:
    """Names of the launch arguments that are used anywhere in a value."""
    if isinstance(value, Made):
        if value.kind == "LaunchConfiguration":
            return [value.given[0]]
        return _configurations(value.given) + _configurations(value.options)
    if isinstance(value, dict):
        return [name for each in value.values() for name in _configurations(each)]
    if isinstance(value, list | tuple):
        return [name for each in value for name in _configurations(each)]
    if type(value).__name__ == "dict_items":
        return [name for _, each in value for name in _configurations(each)]
    return []
