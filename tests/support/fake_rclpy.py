"""As much of rclpy as the node uses, without ROS: a lifecycle, parameters, topics, a log, a clock.

A `LifecycleNode` here keeps rclpy's rules: transitions follow the states, lifecycle publishers are
silent until the node is active, parameters have types and ranges that are checked before callbacks.
"""

from __future__ import annotations

import enum
import threading
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ros_messages import build


class TransitionCallbackReturn(enum.Enum):
    SUCCESS = 0
    FAILURE = 1
    ERROR = 2


TRANSITIONS = {  # from, to on success, to on failure
    "configure": ("unconfigured", "inactive", "unconfigured"),
    "activate": ("inactive", "active", "inactive"),
    "deactivate": ("active", "inactive", "active"),
    "cleanup": ("inactive", "unconfigured", "inactive"),
}


@dataclass(frozen=True)
class QoSProfile:
    depth: int
    history: str
    reliability: str
    durability: str


class _Words:
    """An enumeration whose members are their names."""

    def __getattr__(self, word: str) -> str:
        return word


@dataclass
class Parameter:
    name: str
    value: Any


@dataclass
class Publisher:
    kind: type
    topic: str
    qos: Any
    is_lifecycle: bool
    node: LifecycleNode
    messages: list[Any] = field(default_factory=list)
    listeners: int = 1
    destroyed: bool = False

    def publish(self, message: Any) -> None:
        assert not self.destroyed, f"{self.topic} was destroyed"
        assert type(message) is self.kind, f"{self.topic} is of {self.kind}; got {type(message)}"
        if self.node.enabled or not self.is_lifecycle:
            with self.node.arrived:
                self.messages.append(message)
                self.node.arrived.notify_all()

    def get_subscription_count(self) -> int:
        return self.listeners


@dataclass
class Subscription:
    kind: type
    topic: str
    callback: Callable[[Any], None]
    qos: QoSProfile


class Logger:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def _note(self, level: str, text: str, throttle_duration_sec: float = 0.0) -> None:
        assert type(text) is str
        if not (throttle_duration_sec and (level, text) in self.lines):
            self.lines.append((level, text))

    def info(self, text: str, **options: float) -> None:
        self._note("info", text, **options)

    def warning(self, text: str, **options: float) -> None:
        self._note("warning", text, **options)

    def error(self, text: str, **options: float) -> None:
        self._note("error", text, **options)


class Clock:
    def now(self) -> Any:
        nanoseconds = time.time_ns()
        to_msg = lambda: MODULES["builtin_interfaces.msg"].Time(  # noqa: E731
            sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9
        )
        return types.SimpleNamespace(nanoseconds=nanoseconds, to_msg=to_msg)


class LifecycleNode:
    overrides: ClassVar[dict[str, Any]] = {}  # values of a parameters file

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = "unconfigured"
        self.enabled = False  # whether lifecycle publishers publish
        self.arrived = threading.Condition()
        self.parameters: dict[str, Any] = {}
        self.descriptors: dict[str, Any] = {}
        self.callbacks: list[Callable[[list[Parameter]], Any]] = []
        self.publishers: dict[str, Publisher] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.timers: list[Callable[[], None]] = []
        self.logger = Logger()

    # Parameters.

    def declare_parameter(self, name: str, value: Any, descriptor: Any) -> None:
        assert value != [], f"{name}: rclpy takes an empty list for bytes"
        self.parameters[name] = value
        self.descriptors[name] = descriptor
        if name in self.overrides:
            if problem := self._problem(name, self.overrides[name]):
                raise ValueError(problem)
            self.parameters[name] = self.overrides[name]

    def get_parameter(self, name: str) -> Parameter:
        return Parameter(name, self.parameters[name])

    def add_on_set_parameters_callback(self, callback: Callable[[list[Parameter]], Any]) -> None:
        self.callbacks.append(callback)

    def set_parameters(self, **values: Any) -> Any:
        """Set parameters as one, as the service of that name does."""
        result_of = MODULES["rcl_interfaces.msg"].SetParametersResult
        for name, value in values.items():
            if problem := self._problem(name, value):
                return result_of(successful=False, reason=problem)
        given = [Parameter(name, value) for name, value in values.items()]
        for callback in self.callbacks:
            result = callback(given)
            if not result.successful:
                return result
        self.parameters.update(values)
        return result_of(successful=True)

    def _problem(self, name: str, value: Any) -> str:
        if name not in self.parameters:
            return f"{name} is not declared"
        if type(value) is not type(self.parameters[name]):
            return f"{name} is of another type"
        descriptor = self.descriptors[name]
        for limits in (*descriptor.floating_point_range, *descriptor.integer_range):
            if not limits.from_value <= value <= limits.to_value:
                return f"{name} is out of range"
        return ""

    # Topics.

    def create_publisher(self, kind: type, topic: str, qos: Any) -> Publisher:
        return self._add_publisher(Publisher(kind, topic, qos, False, self))

    def create_lifecycle_publisher(self, kind: type, topic: str, qos: Any) -> Publisher:
        return self._add_publisher(Publisher(kind, topic, qos, True, self))

    def _add_publisher(self, publisher: Publisher) -> Publisher:
        assert publisher.topic not in self.publishers
        self.publishers[publisher.topic] = publisher
        return publisher

    def destroy_publisher(self, publisher: Publisher) -> None:
        assert not publisher.is_lifecycle
        publisher.destroyed = True
        del self.publishers[publisher.topic]

    def destroy_lifecycle_publisher(self, publisher: Publisher) -> None:
        assert publisher.is_lifecycle
        publisher.destroyed = True
        del self.publishers[publisher.topic]

    def create_subscription(
        self, kind: type, topic: str, callback: Callable[[Any], None], qos: QoSProfile
    ) -> Subscription:
        self.subscriptions[topic] = Subscription(kind, topic, callback, qos)
        return self.subscriptions[topic]

    def destroy_subscription(self, subscription: Subscription) -> None:
        del self.subscriptions[subscription.topic]

    def create_timer(self, period: float, callback: Callable[[], None]) -> Callable[[], None]:
        assert period > 0
        self.timers.append(callback)
        return callback

    def destroy_timer(self, timer: Callable[[], None]) -> None:
        self.timers.remove(timer)

    def deliver(self, topic: str, message: Any) -> None:
        """Call the subscription of a topic, as the executor does."""
        subscription = self.subscriptions[topic]
        assert type(message) is subscription.kind
        subscription.callback(message)

    def wait_for(self, topic: str, count: int, seconds: float = 60.0) -> list[Any]:
        """Return a topic's messages when there are so many."""
        publisher = self.publishers[topic]
        with self.arrived:
            arrived = self.arrived.wait_for(lambda: len(publisher.messages) >= count, seconds)
        assert arrived, f"{topic}: {len(publisher.messages)} of {count}; {self.logger.lines}"
        return list(publisher.messages)

    # Lifecycle.

    def trigger(self, transition: str) -> TransitionCallbackReturn:
        before, success, failure = TRANSITIONS[transition]
        assert self.state == before, f"{transition} in {self.state}"
        returned = getattr(self, f"on_{transition}")(self.state)
        self.state = success if returned is TransitionCallbackReturn.SUCCESS else failure
        return returned

    def trigger_configure(self) -> TransitionCallbackReturn:
        return self.trigger("configure")

    def trigger_activate(self) -> TransitionCallbackReturn:
        return self.trigger("activate")

    def trigger_shutdown(self) -> TransitionCallbackReturn:
        returned = self.on_shutdown(self.state)
        self.state = "finalized"
        return returned

    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        self.enabled = True
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
        self.enabled = False
        return TransitionCallbackReturn.SUCCESS

    on_cleanup = on_shutdown = on_error = on_deactivate

    # The rest.

    def get_logger(self) -> Logger:
        return self.logger

    def get_clock(self) -> Clock:
        return Clock()

    def get_fully_qualified_name(self) -> str:
        return f"/{self.name}"

    def destroy_node(self) -> None:
        self.state = "destroyed"


def _modules() -> dict[str, types.ModuleType]:
    made = build()
    words = _Words()
    contents: dict[str, dict[str, Any]] = {
        "rclpy": {},
        "rclpy.executors": {"ExternalShutdownException": type("External", (Exception,), {})},
        "rclpy.lifecycle": {
            "LifecycleNode": LifecycleNode,
            "TransitionCallbackReturn": TransitionCallbackReturn,
        },
        "rclpy.parameter": {"Parameter": Parameter},
        "rclpy.qos": {
            "QoSProfile": QoSProfile,
            "QoSDurabilityPolicy": words,
            "QoSHistoryPolicy": words,
            "QoSReliabilityPolicy": words,
        },
    }
    for name, members in contents.items():
        made[name] = types.ModuleType(name)
        vars(made[name]).update(members)
    return made


MODULES = _modules()
