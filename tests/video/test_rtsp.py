"""RTSP cameras: a real server on loopback, cut, stalled, with garbage and another size."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rtsp_server import NoisyProxy, RtspServer
from stream_server import write_video

import samclip
from samclip.video.stream import open_video

NEAR = 3  # levels of 255 that H.264 may be off
LEVELS = [20 + 2 * number for number in range(100)]  # 4 s at 25 frames a second


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[RtspServer]:
    write_video(tmp_path / "camera.mp4", LEVELS)
    with RtspServer(tmp_path) as server:
        yield server


def level(frame: samclip.Frame) -> float:
    return float(np.mean(frame.image))


def test_frames_come_live_and_the_newest_is_answered(camera: RtspServer) -> None:
    with open_video(camera.url("camera.mp4"), timeout=20.0) as stream:
        assert stream.policy == "latest"
        first = next(stream)
        time.sleep(0.5)
        later = next(stream)
    # What FFmpeg reads to find the codec is not answered, so the first frame is a later one.
    assert level(later) > level(first) >= LEVELS[0] - NEAR
    assert later.number > first.number + 4
    assert stream.dropped >= 3


def test_a_camera_that_loses_its_power_is_opened_again(camera: RtspServer, tmp_path: Path) -> None:
    """Frames go on after a cut, in another size, with the numbers going on."""
    with open_video(camera.url("camera.mp4"), timeout=20.0, reconnect=60.0) as stream:
        before = next(stream)
        assert before.image.shape == (48, 64, 3)
        camera.cut()
        write_video(tmp_path / "camera.mp4", LEVELS, size=(96, 128))
        camera.start()
        after = next(frame for frame in stream if frame.image.shape != before.image.shape)
    assert after.image.shape == (96, 128, 3)
    assert after.number > before.number
    assert stream.reconnects >= 1


def test_a_camera_that_stalls_is_a_timeout(camera: RtspServer) -> None:
    stream = open_video(camera.url("camera.mp4"), timeout=3.0, reconnect=0.0)
    next(stream)
    camera.stall()
    began = time.monotonic()
    with pytest.raises(samclip.StreamTimeoutError, match="for 3 s"):
        for _ in stream:
            assert time.monotonic() - began < 20
    stream.close()
    camera.go_on()


def test_garbage_in_the_connection_costs_frames_and_nothing_else(camera: RtspServer) -> None:
    """Damaged bytes: frames are counted, or the connection is opened again; none is made up."""
    with NoisyProxy(camera.port) as proxy:
        url = camera.url("camera.mp4", proxy.port)
        with open_video(url, timeout=2.0, reconnect=60.0, policy="every") as stream:
            next(stream)
            proxy.noise = bytes(range(256)) * 4
            seen = [next(stream) for _ in range(20)]
        assert proxy.noise == b""
    assert stream.damaged + stream.reconnects >= 1
    found = np.asarray([level(frame) for frame in seen])
    # Each frame is one of those that were sent, whole.
    assert np.abs(found[:, None] - np.asarray(LEVELS)[None]).min(axis=1).max() <= NEAR
    assert all(np.ptp(frame.image) <= 2 * NEAR for frame in seen)


def test_what_the_camera_does_not_have(camera: RtspServer) -> None:
    with pytest.raises(samclip.StreamOpenError, match="cannot be opened"):
        open_video(camera.url("nothing.mp4"), timeout=10.0)
