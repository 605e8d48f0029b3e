"""The node on a real rclpy: messages go through a real middleware, from and to another node.

Run by `test_real_rclpy.py` with a Python that has rclpy, the messages and samclip's dependencies;
prints one JSON object.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from PIL import Image as PilImage
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from ros_messages import FIELDS
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray, LabelInfo

from samclip_ros.node import SENSOR, SamclipNode

NAMES = ["cup of coffee", "table", "cat"]
LATCHED = QoSProfile(
    depth=1,
    reliability=QoSReliabilityPolicy.RELIABLE,
    durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
)


class Robot:
    """The node, and a client that has the camera's part and Nav2's."""

    def __init__(self, photo: str) -> None:
        self.pixels = np.asarray(PilImage.open(photo).convert("RGB"))
        self.node = SamclipNode(
            parameter_overrides=[
                Parameter("names", value=NAMES),
                Parameter("points_per_side", value=4),
                Parameter("threads", value=1),
                Parameter("silent_after", value=3600.0),
            ]
        )
        self.client = rclpy.create_node("robot")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.executor.add_node(self.client)
        self.got: dict[str, list[Any]] = {}
        for topic, kind, qos in (
            ("mask", Image, SENSOR),
            ("confidence", Image, SENSOR),
            ("overlay", Image, QoSProfile(depth=1)),  # reliable, as RViz subscribes
            ("detections", Detection2DArray, QoSProfile(depth=5)),
        ):
            self.listen(f"segmentation/{topic}", kind, qos)
        self.listen("/diagnostics", DiagnosticArray, QoSProfile(depth=10))
        self.camera = self.client.create_publisher(Image, "image", 1)

    def listen(self, topic: str, kind: type, qos: QoSProfile) -> None:
        kept = self.got.setdefault(topic, [])
        self.client.create_subscription(kind, topic, kept.append, qos)

    def spin_until(self, condition: Any, seconds: float = 240.0) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, {key: len(value) for key, value in self.got.items()}
            self.executor.spin_once(timeout_sec=0.05)

    def call(self, kind: type, name: str, request: Any) -> Any:
        client = self.client.create_client(kind, name)
        self.spin_until(client.service_is_ready)
        future = client.call_async(request)
        self.spin_until(future.done)
        return future.result()

    def change_state(self, label: str) -> bool:
        request = ChangeState.Request()
        request.transition.label = label
        return bool(self.call(ChangeState, "/samclip/change_state", request).success)

    def set_parameter(self, name: str, value: Any) -> Any:
        request = SetParameters.Request()
        request.parameters = [Parameter(name, value=value).to_parameter_msg()]
        return self.call(SetParameters, "/samclip/set_parameters", request).results[0]

    def send_until(self, topic: str, count: int, second: int) -> Any:
        """Send images, as a camera does, until a topic has so many messages."""
        message = Image()
        message.header.frame_id = "front_optical_frame"
        message.header.stamp.sec = second
        message.height, message.width = self.pixels.shape[:2]
        message.encoding, message.step = "rgb8", 3 * self.pixels.shape[1]
        message.data = self.pixels.tobytes()

        def is_there() -> bool:
            if time.monotonic() > self._next:
                self.camera.publish(message)
                self._next = time.monotonic() + 1.0
            return len(self.got[topic]) >= count

        self._next = 0.0
        self.spin_until(is_there)
        return self.got[topic][-1]


def wrong_definitions() -> list[str]:
    """Messages of the stand-ins that differ from the generated ones."""
    wrong = []
    for name, definition in FIELDS.items():
        package, kind = name.split("/")
        generated = getattr(importlib.import_module(f"{package}.msg"), kind)
        own = dict(reversed(field.split()) for field in definition.split(", "))
        real = {
            field: _spelled(given)
            for field, given in generated.get_fields_and_field_types().items()
        }
        if own != real:
            wrong.append(f"{name}: {own} is {real}")
    return wrong


def _spelled(given: str) -> str:
    """A type as `.msg` files spell it."""
    if given.startswith("sequence<"):
        return f"{_spelled(given[9:-1].split(',', maxsplit=1)[0])}[]"  # without a bound
    words = {"double": "float64", "float": "float32", "boolean": "bool", "octet": "byte"}
    word, bracket, count = given.partition("[")
    return words.get(word, word) + bracket + count


def run(photo: str) -> dict[str, Any]:
    found: dict[str, Any] = {"wrong definitions": wrong_definitions()}
    robot = Robot(photo)
    found["configured"] = robot.change_state("configure")
    found["activated"] = robot.change_state("activate")
    mask = robot.send_until("segmentation/mask", 1, 5)
    found["mask"] = [mask.encoding, mask.height, mask.width, mask.step]
    found["header"] = [mask.header.stamp.sec, mask.header.frame_id]
    values = np.frombuffer(mask.data, np.uint8)
    found["cup"] = float((values == 0).mean())
    for topic in ("confidence", "overlay"):
        answer = robot.send_until(f"segmentation/{topic}", 1, 5)
        found[topic] = [answer.encoding, answer.height, answer.width, answer.header == mask.header]
    detections = robot.send_until("segmentation/detections", 1, 5)
    found["detections"] = [
        [each.id, each.results[0].hypothesis.class_id, each.bbox.size_x > 0]
        for each in detections.detections
    ]
    robot.listen("segmentation/label_info", LabelInfo, LATCHED)  # late, and gets it all the same
    robot.spin_until(lambda: robot.got["segmentation/label_info"])
    info = robot.got["segmentation/label_info"][-1]
    found["labels"] = {each.class_id: each.class_name for each in info.class_map}
    refused = robot.set_parameter("names", ["cat", "cat"])
    found["refused"] = [refused.successful, refused.reason]
    refused = robot.set_parameter("background", 2.0)
    found["out of range"] = refused.successful
    found["renamed"] = robot.set_parameter("names", ["rocket", "cup"]).successful
    robot.got["segmentation/mask"].clear()
    robot.send_until("segmentation/mask", 3, 6)
    robot.spin_until(
        lambda: (
            [each.class_name for each in robot.got["segmentation/label_info"][-1].class_map]
            == ["rocket", "cup"]
        )
    )
    robot.got["/diagnostics"].clear()
    robot.spin_until(lambda: robot.got["/diagnostics"])
    status = robot.got["/diagnostics"][-1].status[0]
    found["diagnostics"] = [list(status.level), status.name, status.hardware_id]
    found["values"] = {pair.key: pair.value for pair in status.values}
    for label in ("deactivate", "cleanup", "configure", "activate"):
        found[label] = robot.change_state(label)
    robot.got["segmentation/mask"].clear()
    robot.send_until("segmentation/mask", 1, 7)
    found["shutdown"] = robot.change_state("shutdown")
    robot.node.destroy_node()
    robot.client.destroy_node()
    return found


if __name__ == "__main__":
    rclpy.init()
    print(json.dumps(run(sys.argv[1])))
    rclpy.shutdown()
