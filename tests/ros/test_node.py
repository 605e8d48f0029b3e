"""The lifecycle node from end to end on stand-ins of ROS: a real model on a real photo."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from waiting import wait_until

from samclip.runtime.bundles.manifest import base_name
from samclip.runtime.engine_pool import EnginePool

NAMES = ["cup of coffee", "table", "cat"]
Pixels = NDArray[np.uint8]


ENCODED: dict[bytes, Any] = {}


def run_once(run: Callable[..., Any]) -> Callable[..., Any]:
    """The encoder, two seconds of a CPU for a frame, computes the same frame once."""

    def cached(pool: EnginePool, name: str, feeds: Any, *others: Any) -> Any:
        if base_name(name) != "encoder":
            return run(pool, name, feeds, *others)
        key = hashlib.sha256(feeds["image"].tobytes()).digest()
        if key not in ENCODED:
            ENCODED[key] = run(pool, name, feeds, *others)
        return ENCODED[key]

    return cached


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from fake_rclpy import LifecycleNode

    from samclip_ros.node import SamclipNode

    given = {"names": NAMES, "detections": False, "points_per_side": 4, "threads": 1}
    monkeypatch.setattr(LifecycleNode, "overrides", {**given, "silent_after": 3600.0})
    monkeypatch.setattr(EnginePool, "run", run_once(EnginePool.run))
    made = SamclipNode()
    yield made
    made.release()


def camera_image(pixels: Pixels, second: int = 100, encoding: str = "rgb8") -> Any:
    from builtin_interfaces.msg import Time
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    height, width = pixels.shape[:2]
    return Image(
        header=Header(stamp=Time(sec=second, nanosec=7), frame_id="front_optical_frame"),
        height=height,
        width=width,
        encoding=encoding,
        step=width * 3,
        data=array("B", pixels.tobytes()),
    )


def activate(node: Any) -> None:
    from fake_rclpy import TransitionCallbackReturn

    assert node.trigger("configure") is TransitionCallbackReturn.SUCCESS, node.logger.lines
    assert node.trigger("activate") is TransitionCallbackReturn.SUCCESS


def pixels_of(message: Any) -> Pixels:
    found = np.frombuffer(message.data, np.uint8)
    return found.reshape(
        message.height, message.width, *(() if message.encoding == "mono8" else (3,))
    )


def diagnostics(node: Any) -> tuple[bytes, str, dict[str, str]]:
    node.timers[0]()
    status = node.publishers["/diagnostics"].messages[-1].status[0]
    return status.level, status.message, {pair.key: pair.value for pair in status.values}


def test_a_frame_gives_mask_confidence_names_detections_and_overlay(
    node: Any, photo: Pixels
) -> None:
    import samclip

    assert node.set_parameters(detections=True).successful
    activate(node)
    sent = camera_image(photo[..., ::-1], encoding="bgr8")
    node.deliver("image", sent)
    mask, confidence, overlay, detections = (
        node.wait_for(f"segmentation/{topic}", 1)[0]
        for topic in ("mask", "confidence", "overlay", "detections")
    )
    (info,) = node.wait_for("segmentation/label_info", 1)
    for answer in (mask, confidence, overlay, detections, *detections.detections):
        assert answer.header == sent.header  # the camera's stamp and optical frame
    assert (mask.encoding, mask.step, mask.height, mask.width) == ("mono8", 600, 400, 600)
    assert (overlay.encoding, overlay.step) == ("rgb8", 1800)
    assert {each.class_id: each.class_name for each in info.class_map} == dict(enumerate(NAMES))
    assert info.threshold == 0.5

    # The same as the library gives, from one pass.
    model = node._model
    passes = model.encoder_passes
    with model.encode(photo) as scene:
        labels = scene.semantic(NAMES, background=0.5)
        masks = scene.everything(NAMES, points_per_side=4)
    assert passes == 1
    values = pixels_of(mask)
    np.testing.assert_array_equal(values, np.where(labels.labels < 0, 255, labels.labels))
    assert (values == 0).mean() > 0.05  # the cup
    sure = np.where(values == 255, 1 - labels.scores, labels.scores)
    # Half a step of 255, by rounding.
    np.testing.assert_allclose(pixels_of(confidence) / 255, sure, atol=0.5 / 255 + 1e-6)

    assert len(detections.detections) == len(masks) > 0
    assert isinstance(masks, samclip.AutoMasks)
    for row, found in enumerate(detections.detections):
        assert found.id == str(row + 1)
        (only,) = found.results
        assert NAMES[int(only.hypothesis.class_id)] == masks.names[row]
        assert only.hypothesis.score == pytest.approx(float(masks.name_probabilities[row]))
        centre, box = found.bbox.center, masks.boxes[row]
        assert centre.theta == 0
        half = np.asarray([found.bbox.size_x, found.bbox.size_y]) / 2
        middle = np.asarray([centre.position.x, centre.position.y])
        np.testing.assert_allclose([*(middle - half), *(middle + half)], box)
    assert np.abs(pixels_of(overlay).astype(int) - photo).mean() > 1  # something is drawn


def test_tracks_stay_and_names_change_live(node: Any, photo: Pixels) -> None:
    assert node.set_parameters(detections=True).successful
    activate(node)
    node.deliver("image", camera_image(photo, 1))
    first = node.wait_for("segmentation/detections", 1)[0]
    refused = node.set_parameters(names=["rocket", "rocket"])
    assert not refused.successful and "'rocket' twice" in refused.reason
    refused = node.set_parameters(bundle="another")
    assert not refused.successful and "when the node is configured" in refused.reason
    assert not node.set_parameters(background=1.5).successful
    assert not node.set_parameters(names=["", " "]).successful
    accepted = node.set_parameters(
        names=[" rocket ", "cup of coffee", ""], class_ids="name", unlabelled="unknown"
    )
    assert accepted.successful, accepted.reason
    node.deliver("image", camera_image(photo, 2))
    second = node.wait_for("segmentation/detections", 2)[1]
    mask = node.wait_for("segmentation/mask", 2)[1]
    old, new = node.wait_for("segmentation/label_info", 2)
    assert [each.class_name for each in old.class_map] == NAMES
    pairs = [(each.class_id, each.class_name) for each in new.class_map]
    assert pairs == [(0, "rocket"), (1, "cup of coffee"), (255, "unknown")]
    assert new.header == mask.header and mask.header.stamp.sec == 2
    assert set(np.unique(pixels_of(mask))) <= {0, 1, 255}
    assert (pixels_of(mask) == 1).mean() > 0.05
    assert [each.id for each in second.detections] == [each.id for each in first.detections]
    ids = {each.results[0].hypothesis.class_id for each in second.detections}
    assert ids <= {"rocket", "cup of coffee"}


def test_only_the_newest_image_waits_and_drops_are_counted(node: Any, photo: Pixels) -> None:
    activate(node)
    for second in range(1, 41):
        node.deliver("image", camera_image(photo, second))
    answered = node.publishers["segmentation/mask"].messages
    wait_until(lambda: any(each.header.stamp.sec == 40 for each in answered))
    seconds = [each.header.stamp.sec for each in answered]
    assert seconds == sorted(seconds) and len(seconds) < 40
    level, said, values = diagnostics(node)
    assert (level, values["received"]) == (b"\x00", "40"), said
    assert int(values["answered"]) == len(seconds)
    assert int(values["dropped"]) == 40 - len(seconds)
    assert float(values["fps"]) > 0 and float(values["work_ms_median"]) > 0
    assert not node.publishers["segmentation/detections"].messages
    assert {each.qos.depth for each in node.publishers.values() if each.is_lifecycle} == {1}
    qos = node.subscriptions["image"].qos
    assert (qos.reliability, qos.depth, qos.durability) == ("BEST_EFFORT", 1, "VOLATILE")
    latched = node.publishers["segmentation/label_info"].qos
    assert (latched.reliability, latched.durability) == ("RELIABLE", "TRANSIENT_LOCAL")


def test_images_that_cannot_be_used_are_left_out_and_reported(node: Any, photo: Pixels) -> None:
    activate(node)
    bad = camera_image(photo)
    bad.encoding = "mono16"
    short = camera_image(photo)
    short.data = short.data[:1000]
    for count, sent in enumerate((bad, bad, short), 1):
        node.deliver("image", sent)
        wait_until(lambda count=count: diagnostics(node)[2]["refused"] == str(count))
    level, said, values = diagnostics(node)
    assert (level, values["answered"]) == (b"\x01", "0")
    assert said.startswith("images are left out: an image of rgb8, 600x400, has rows of at least")
    node.deliver("image", camera_image(photo, 5))
    (mask,) = node.wait_for("segmentation/mask", 1)
    assert mask.header.stamp.sec == 5
    warnings = [text for kind, text in node.logger.lines if kind == "warning"]
    assert sum("'mono16', which is refused" in text for text in warnings) == 1


def test_the_lifecycle_can_go_round(node: Any, photo: Pixels) -> None:
    from fake_rclpy import TransitionCallbackReturn

    with pytest.raises(KeyError):
        node.deliver("image", camera_image(photo))  # not subscribed before it is active
    activate(node)
    node.deliver("image", camera_image(photo, 1))
    node.wait_for("segmentation/mask", 1)
    model = node._model
    node.trigger("deactivate")
    assert not node.subscriptions
    assert diagnostics(node)[:2] == (b"\x00", "not active")
    node.trigger("activate")
    node.deliver("image", camera_image(photo, 2))
    node.wait_for("segmentation/mask", 2)
    assert node._model is model  # it stays while inactive
    assert len(node.wait_for("segmentation/label_info", 2)) == 2  # for those who come late
    node.trigger("deactivate")
    node.trigger("cleanup")
    assert not node.publishers and not node.timers and node._model is None
    assert node.set_parameters(names=["cat", "dog"], bundle="no-such-bundle").successful
    assert node.trigger("configure") is TransitionCallbackReturn.FAILURE
    assert any("no-such-bundle" in text for kind, text in node.logger.lines if kind == "error")
    assert node.set_parameters(bundle="", names=[""]).successful
    assert node.trigger("configure") is TransitionCallbackReturn.FAILURE
    assert any("has no names" in text for kind, text in node.logger.lines if kind == "error")
    assert node.set_parameters(names=["cat", "cup"]).successful
    activate(node)
    node.deliver("image", camera_image(photo, 3))
    (mask,) = node.wait_for("segmentation/mask", 1)
    assert mask.header.stamp.sec == 3
    node.trigger_shutdown()
    assert not node.publishers and node._model is None


def test_a_failure_is_reported_and_the_loop_begins_again(
    node: Any, photo: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    import samclip
    from samclip_ros import loop

    monkeypatch.setattr(loop, "FIRST_PAUSE", 0.2)
    semantic = samclip.Scene.semantic
    failures = iter([True, False])

    def fail_once(self: Any, *given: Any, **options: Any) -> Any:
        if next(failures, False):
            raise samclip.EngineRunError("the GPU fell off the bus.")
        return semantic(self, *given, **options)

    monkeypatch.setattr(samclip.Scene, "semantic", fail_once)
    activate(node)
    node.deliver("image", camera_image(photo, 1))
    wait_until(lambda: any(kind == "error" for kind, _ in node.logger.lines))
    level, said, values = diagnostics(node)
    assert (level, values["failures"]) == (b"\x02", "1")
    assert said == "failed, and begins again: EngineRunError: the GPU fell off the bus."

    def is_answered() -> bool:
        node.deliver("image", camera_image(photo, 2))
        return bool(node.publishers["segmentation/mask"].messages)

    wait_until(is_answered)
    assert diagnostics(node)[0] == b"\x00"


def test_compressed_images_have_their_topic(node: Any, photo_path: Any) -> None:
    from sensor_msgs.msg import CompressedImage

    assert node.set_parameters(image_transport="compressed").successful
    activate(node)
    sent = CompressedImage(format="jpeg", data=array("B", photo_path.read_bytes()))
    node.deliver("image/compressed", sent)
    (mask,) = node.wait_for("segmentation/mask", 1)
    assert (mask.height, mask.width) == (400, 600)
