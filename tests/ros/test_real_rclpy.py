"""The node on a real rclpy and a real middleware, where there is a Python that has them.

`SAMCLIP_ROS_PYTHON` names that Python; it also needs samclip's dependencies. With ROS installed,
source its `setup.bash` first: `SAMCLIP_ROS_PYTHON=python3 pytest tests/ros/test_real_rclpy.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from tree import ROOT

NAMES = ["cup of coffee", "table", "cat"]


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("SAMCLIP_ROS_PYTHON"),
    reason="SAMCLIP_ROS_PYTHON does not name a Python that has rclpy",
)
def test_another_node_gets_everything_by_topics_and_services(photo_path: Path) -> None:
    folders = [ROOT, ROOT / "ros", ROOT / "tests" / "support"]
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*map(str, folders), *filter(None, given)]),
        "ROS_DOMAIN_ID": os.environ.get("ROS_DOMAIN_ID", "78"),
        "ROS_PYTHON_CHECK_FIELDS": "1",  # messages are as strict as the stand-ins
    }
    command = [os.environ["SAMCLIP_ROS_PYTHON"], str(ROOT / "tests" / "ros" / "real_node.py")]
    result = subprocess.run(
        [*command, str(photo_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["wrong definitions"] == []
    for transition in ("configured", "activated", "deactivate", "cleanup", "configure", "activate"):
        assert found[transition] is True, transition
    assert found["shutdown"] is True
    assert found["mask"] == ["mono8", 400, 600, 600]
    assert found["header"] == [5, "front_optical_frame"]
    assert found["cup"] > 0.05
    assert found["confidence"] == ["mono8", 400, 600, True]
    assert found["overlay"] == ["rgb8", 400, 600, True]
    assert found["labels"] == {str(value): name for value, name in enumerate(NAMES)}
    tracks = [track for track, _, _ in found["detections"]]
    assert tracks == [str(number + 1) for number in range(len(tracks))] and tracks
    assert all(class_id in "012" and wide for _, class_id, wide in found["detections"])
    assert found["refused"] == [False, "the parameter names has 'cat' twice. Give each name once."]
    assert found["out of range"] is False
    assert found["renamed"] is True
    assert found["diagnostics"] == [[0], "samclip: stream", "samclip-tiny"]
    values = found["values"]
    assert int(values["answered"]) >= 4 and values["refused"] == values["failures"] == "0"
