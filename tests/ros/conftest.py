"""Stand-ins of ROS for the package in `ros/`, for as long as the tests of this folder run."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from fake_rclpy import MODULES
from tree import ROOT

PACKAGE = ROOT / "ros"


@pytest.fixture(autouse=True, scope="module")
def _without_ros() -> Iterator[None]:
    """`samclip_ros` is importable, with stand-ins of rclpy and of the messages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PACKAGE))
        for name, module in MODULES.items():
            patch.setitem(sys.modules, name, module)
        before = set(sys.modules)
        yield
        for name in set(sys.modules) - before:
            if name.startswith("samclip_ros"):
                del sys.modules[name]
