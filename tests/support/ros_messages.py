"""Messages of ROS 2 without ROS: modules with classes as strict as the generated ones.

`FIELDS` holds the public definitions of the messages that the node uses, type by type, as their
`.msg` files have them in Humble, Jazzy and Kilted. A class refuses fields that it does not have and
values of other types and ranges, as generated classes do with their checks on.
"""

from __future__ import annotations

import struct
import types
from array import array
from typing import Any

FIELDS: dict[str, str] = {
    "builtin_interfaces/Time": "int32 sec, uint32 nanosec",
    "std_msgs/Header": "builtin_interfaces/Time stamp, string frame_id",
    "sensor_msgs/Image": (
        "std_msgs/Header header, uint32 height, uint32 width, string encoding, uint8 is_bigendian, "
        "uint32 step, uint8[] data"
    ),
    "sensor_msgs/CompressedImage": "std_msgs/Header header, string format, uint8[] data",
    "diagnostic_msgs/KeyValue": "string key, string value",
    "diagnostic_msgs/DiagnosticStatus": (
        "byte level, string name, string message, string hardware_id, "
        "diagnostic_msgs/KeyValue[] values"
    ),
    "diagnostic_msgs/DiagnosticArray": (
        "std_msgs/Header header, diagnostic_msgs/DiagnosticStatus[] status"
    ),
    "geometry_msgs/Point": "float64 x, float64 y, float64 z",
    "geometry_msgs/Quaternion": "float64 x, float64 y, float64 z, float64 w",
    "geometry_msgs/Pose": "geometry_msgs/Point position, geometry_msgs/Quaternion orientation",
    "geometry_msgs/PoseWithCovariance": "geometry_msgs/Pose pose, float64[36] covariance",
    "vision_msgs/Point2D": "float64 x, float64 y",
    "vision_msgs/Pose2D": "vision_msgs/Point2D position, float64 theta",
    "vision_msgs/BoundingBox2D": "vision_msgs/Pose2D center, float64 size_x, float64 size_y",
    "vision_msgs/ObjectHypothesis": "string class_id, float64 score",
    "vision_msgs/ObjectHypothesisWithPose": (
        "vision_msgs/ObjectHypothesis hypothesis, geometry_msgs/PoseWithCovariance pose"
    ),
    "vision_msgs/Detection2D": (
        "std_msgs/Header header, vision_msgs/ObjectHypothesisWithPose[] results, "
        "vision_msgs/BoundingBox2D bbox, string id"
    ),
    "vision_msgs/Detection2DArray": (
        "std_msgs/Header header, vision_msgs/Detection2D[] detections"
    ),
    "vision_msgs/VisionClass": "uint16 class_id, string class_name",
    "vision_msgs/LabelInfo": (
        "std_msgs/Header header, vision_msgs/VisionClass[] class_map, float32 threshold"
    ),
    "rcl_interfaces/FloatingPointRange": "float64 from_value, float64 to_value, float64 step",
    "rcl_interfaces/IntegerRange": "int64 from_value, int64 to_value, uint64 step",
    "rcl_interfaces/ParameterDescriptor": (
        "string name, uint8 type, string description, string additional_constraints, "
        "bool read_only, bool dynamic_typing, rcl_interfaces/FloatingPointRange[] "
        "floating_point_range, rcl_interfaces/IntegerRange[] integer_range"
    ),
    "rcl_interfaces/SetParametersResult": "bool successful, string reason",
}
CONSTANTS = {"diagnostic_msgs/DiagnosticStatus": {"OK": 0, "WARN": 1, "ERROR": 2, "STALE": 3}}
PLAIN: dict[str, type] = {"string": str, "bool": bool, "float32": float, "float64": float}
# Bits and sign of whole numbers.
WHOLE = {f"{sign}int{bits}": (bits, sign) for bits in (8, 16, 32, 64) for sign in ("u", "")}
CLASSES: dict[str, type] = {}


class Message:
    """A message; `TYPES` holds its fields and their types."""

    TYPES: dict[str, str]
    __slots__ = ("_values",)

    def __init__(self, **given: Any) -> None:
        object.__setattr__(self, "_values", {})
        for name, kind in self.TYPES.items():
            self._values[name] = default_of(kind)
        for name, value in given.items():
            setattr(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in self.TYPES:
            raise AttributeError(f"{type(self).__name__} has no field {name}")
        return self._values[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.TYPES:
            raise AttributeError(f"{type(self).__name__} has no field {name}")
        check(value, self.TYPES[name], f"{type(self).__name__}.{name}")
        self._values[name] = value

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._values == other._values

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._values})"


def default_of(kind: str) -> Any:
    if kind == "uint8[]":
        return array("B")
    if kind.endswith("[]"):
        return []
    if kind == "float64[36]":
        return [0.0] * 36
    if kind == "byte":
        return b"\x00"
    if kind in WHOLE:
        return 0
    return PLAIN[kind]() if kind in PLAIN else CLASSES[kind]()


def check(value: Any, kind: str, where: str) -> None:
    """Raise AssertionError, as generated classes do, for a value that a field cannot hold."""
    if kind == "uint8[]":
        is_bytes = isinstance(value, array) and value.typecode == "B"
        assert is_bytes, f"{where}: sequences that are not array('B') are checked byte by byte"
    elif kind.endswith("[]"):
        assert isinstance(value, list), f"{where} must be a list; got {type(value)}"
        for item in value:
            check(item, kind[:-2], where)
    elif kind == "byte":
        assert isinstance(value, bytes) and len(value) == 1, f"{where} must be one byte"
    elif kind in WHOLE:
        bits, sign = WHOLE[kind]
        assert type(value) is int, f"{where} must be int; got {type(value)}"
        least, most = (0, 2**bits) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1))
        assert least <= value < most, f"{where} holds {least} to {most - 1}; got {value}"
    elif kind in PLAIN:
        assert type(value) is PLAIN[kind], f"{where} must be {kind}; got {type(value)}"
        if kind == "float32":
            struct.pack("<f", value)
    else:
        assert isinstance(value, CLASSES[kind]), f"{where} must be {kind}; got {type(value)}"


def build() -> dict[str, types.ModuleType]:
    """Return the modules, `sensor_msgs.msg` and so on, by name."""
    modules: dict[str, types.ModuleType] = {}
    for full_name, definition in FIELDS.items():
        package, name = full_name.split("/")
        kinds = dict(reversed(field.split()) for field in definition.split(", "))
        constants = {word: bytes([value]) for word, value in CONSTANTS.get(full_name, {}).items()}
        made = type(name, (Message,), {"TYPES": kinds, "__slots__": (), **constants})
        CLASSES[full_name] = made
        module = modules.setdefault(f"{package}.msg", types.ModuleType(f"{package}.msg"))
        modules.setdefault(package, types.ModuleType(package))
        setattr(module, name, made)
    return modules
