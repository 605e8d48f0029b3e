"""The lifecycle node: subscription, publishers, parameters and diagnostics around the loop.

The only module that imports rclpy. Configuring loads the model; activating subscribes and begins to
answer; deactivating ends both and keeps the model; cleaning up releases it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray, LabelInfo

import samclip
from samclip.errors import collect_warnings
from samclip_ros.answers import (
    confidence_message,
    detections_message,
    image_message,
    label_info_message,
    mask_message,
)
from samclip_ros.health import Health
from samclip_ros.images import CameraImageError
from samclip_ros.log_lines import RosLog
from samclip_ros.loop import Answer, Listener, Loop
from samclip_ros.settings import LIVE, PARAMETERS, Declared, Settings, read

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
QUIET = 10.0  # seconds between two log lines of the same kind
DIAGNOSTICS_PERIOD = 1.0  # seconds

# Sensor data with room for one message: only the newest counts.
SENSOR = QoSProfile(
    history=QoSHistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=QoSReliabilityPolicy.BEST_EFFORT,
    durability=QoSDurabilityPolicy.VOLATILE,
)
# Reliable, so that both kinds of subscribers get it: RViz's and those of sensor data.
ANSWER = QoSProfile(
    history=QoSHistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=QoSReliabilityPolicy.RELIABLE,
    durability=QoSDurabilityPolicy.VOLATILE,
)
LATCHED = QoSProfile(
    history=QoSHistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=QoSReliabilityPolicy.RELIABLE,
    durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
)


class SamclipNode(LifecycleNode):
    """`samclip`: topics and parameters are on the page "ROS 2 and Nav2" of the documentation."""

    def __init__(self, **options: Any) -> None:
        super().__init__("samclip", **options)
        for each in PARAMETERS:
            default = list(each.default) if isinstance(each.default, tuple) else each.default
            # An empty list has no type of its own: blank names are left out.
            self.declare_parameter(each.name, [""] if default == [] else default, describe(each))
        self.add_on_set_parameters_callback(self._set_parameters)
        self._model: samclip.Model | None = None
        self._vocabulary: samclip.Vocabulary | None = None
        self._settings: Settings | None = None
        self._loop: Loop | None = None
        self._subscription: Any = None
        self._timer: Any = None
        self._health = Health(5.0)
        self._shown: tuple[Any, ...] | None = None  # what label_info said last
        self._log = RosLog(self.get_logger())

    # Lifecycle.

    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """Load the model, embed the names, make publishers."""
        try:
            settings = read({each.name: self.get_parameter(each.name).value for each in PARAMETERS})
            logging.getLogger("samclip").addHandler(self._log)
            model = self._model = samclip.load(
                settings.bundle or None,
                settings.backend,
                precision=settings.precision or None,
                threads=settings.threads or None,
                device=settings.device or None,
            )
            self._vocabulary = self._embed(settings)
        except samclip.SamclipError as error:
            self.get_logger().error(f"cannot be configured: {error}")
            self.release()
            return FAILURE
        self._settings = settings
        self._health = Health(settings.silent_after)
        self._shown = None
        self._mask = self.create_lifecycle_publisher(Image, "segmentation/mask", ANSWER)
        self._confidence = self.create_lifecycle_publisher(Image, "segmentation/confidence", ANSWER)
        self._overlay = self.create_lifecycle_publisher(Image, "segmentation/overlay", ANSWER)
        self._label_info = self.create_lifecycle_publisher(
            LabelInfo, "segmentation/label_info", LATCHED
        )
        self._detections = self.create_lifecycle_publisher(
            Detection2DArray, "segmentation/detections", ANSWER
        )
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._timer = self.create_timer(DIAGNOSTICS_PERIOD, self.publish_diagnostics)
        self.get_logger().info(
            f"bundle {model.manifest.name} on {model.backend}, {len(settings.names)} names"
        )
        return super().on_configure(state)

    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        """Subscribe to the camera and begin to answer."""
        done = super().on_activate(state)  # publishers first: answers may come at once
        model, vocabulary, settings = self._model, self._vocabulary, self._settings
        if done != SUCCESS or model is None or vocabulary is None or settings is None:
            return FAILURE
        self._health.activated(time.monotonic())
        self._shown = None
        header = Header(stamp=self.get_clock().now().to_msg())  # of no image yet
        self._announce(settings, header)
        self._loop = Loop(
            model,
            vocabulary,
            settings,
            Listener(self._publish, self._refuse, self._fail),
        )
        compressed = settings.image_transport == "compressed"
        self._subscription = self.create_subscription(
            CompressedImage if compressed else Image,
            "image/compressed" if compressed else "image",
            self._receive,
            SENSOR,
        )
        return SUCCESS

    def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
        """Unsubscribe and stop; the model stays."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: Any) -> TransitionCallbackReturn:
        """Release the model and the publishers."""
        self.release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: Any) -> TransitionCallbackReturn:
        """Release everything."""
        self.release()
        return super().on_shutdown(state)

    def on_error(self, state: Any) -> TransitionCallbackReturn:
        """Release everything, after which the node can be configured again."""
        self.release()
        return super().on_error(state)

    def _stop(self) -> None:
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        if self._loop is not None:
            self._loop.close()
            self._loop = None
        self._health.deactivated()

    def release(self) -> None:
        """Stop, and release model and publishers; doing so again does nothing."""
        self._stop()
        if self._timer is not None:
            self.destroy_timer(self._timer)
            self._timer = None
            self.destroy_publisher(self._diagnostics)
            for publisher in (
                self._mask,
                self._confidence,
                self._overlay,
                self._label_info,
                self._detections,
            ):
                self.destroy_lifecycle_publisher(publisher)
        if self._model is not None:
            self._model.close()
            self._model = None
        self._vocabulary = self._settings = None
        logging.getLogger("samclip").removeHandler(self._log)

    # Parameters.

    def _set_parameters(self, given: Iterable[Parameter]) -> SetParametersResult:
        """Check parameters; those that change live are used from the next frame on."""
        changed = {each.name: each.value for each in given if each.name in _NAMES}
        current, vocabulary = self._settings, self._vocabulary
        if current is None or vocabulary is None or not changed:
            return SetParametersResult(successful=True)
        if fixed := sorted(set(changed) - LIVE):
            return SetParametersResult(
                successful=False,
                reason=f"{fixed[0]} is read when the node is configured. Clean it up first.",
            )
        try:
            values = {each.name: getattr(current, each.name) for each in PARAMETERS}
            settings = read(values | changed)
            if settings.names != current.names:
                vocabulary = self._embed(settings)
        except samclip.SamclipError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._settings, self._vocabulary = settings, vocabulary
        if self._loop is not None:
            self._loop.change(vocabulary, settings)
        return SetParametersResult(successful=True)

    def _embed(self, settings: Settings) -> samclip.Vocabulary:
        assert self._model is not None  # noqa: S101 - a node that has settings has a model
        with collect_warnings() as warned:
            vocabulary = self._model.vocabulary(settings.names, settings.templates or None)
        for _, message in warned:
            self.get_logger().warning(message)
        return vocabulary

    # Messages.

    def _receive(self, message: Any) -> None:
        self._health.received(time.monotonic())
        if self._loop is not None:
            self._loop.put(message)

    def _publish(self, answer: Answer) -> None:
        """Publish an answer, in the loop's thread; names first, so that they explain the mask."""
        header, settings = answer.header, answer.settings
        age = self.get_clock().now().nanoseconds - to_nanoseconds(header.stamp)
        self._health.answered(time.monotonic(), age / 1e6, answer.result.age_ms)
        self._announce(settings, header)
        self._mask.publish(mask_message(answer.labels, header))
        self._confidence.publish(confidence_message(answer.labels, header))
        if settings.detections:
            self._detections.publish(detections_message(answer.result, header, settings.class_ids))
        if self._overlay.get_subscription_count() > 0:
            drawn = answer.result if settings.detections else answer.labels
            self._overlay.publish(image_message(drawn.draw(), header))

    def _announce(self, settings: Settings, header: Any) -> None:
        said = (settings.names, settings.unlabelled, settings.background)
        if said == self._shown:
            return
        self._shown = said
        self._label_info.publish(label_info_message(*said, header))

    def _refuse(self, reason: CameraImageError) -> None:
        self._health.refused(time.monotonic(), str(reason))
        self.get_logger().warning(str(reason), throttle_duration_sec=QUIET)

    def _fail(self, error: Exception, pause: float) -> None:
        self._health.failed(f"{type(error).__name__}: {error}")
        self.get_logger().error(
            f"{type(error).__name__}: {error} The loop begins again in {pause:g} s."
        )

    def publish_diagnostics(self) -> None:
        """Publish the node's health, once a second."""
        loop = self._loop
        report = self._health.report(time.monotonic(), 0 if loop is None else loop.dropped)
        status = DiagnosticStatus()
        status.level = (DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR)[
            report.level
        ]
        status.name = f"{self.get_fully_qualified_name().lstrip('/')}: stream"
        status.message = report.message
        status.hardware_id = "" if self._model is None else self._model.manifest.name
        status.values = [KeyValue(key=key, value=value) for key, value in report.values]
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status = [status]
        self._diagnostics.publish(message)


_NAMES = frozenset(each.name for each in PARAMETERS)


def describe(declared: Declared) -> ParameterDescriptor:
    """Return a parameter's description, with its limits."""
    descriptor = ParameterDescriptor()
    descriptor.description = declared.about
    if declared.limits:
        least, most = declared.limits["least"], declared.limits["most"]
        if isinstance(declared.default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(least), to_value=float(most), step=0.0)
            ]
        else:
            descriptor.integer_range = [
                IntegerRange(from_value=int(least), to_value=int(most), step=1)
            ]
    return descriptor


def to_nanoseconds(stamp: Time) -> int:
    """Return a stamp's nanoseconds since the clock's beginning."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def main(args: list[str] | None = None) -> None:
    """Run the node until Ctrl-C or a shutdown of ROS."""
    rclpy.init(args=args)
    node = SamclipNode()
    try:
        if node.get_parameter("autostart").value and node.trigger_configure() == SUCCESS:
            node.trigger_activate()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass  # how a node is ended
    finally:
        node.release()
        node.destroy_node()
        rclpy.try_shutdown()
