"""Streams of files, folders, pipes and servers: policies, and every way in which one can end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from stream_server import (
    CUT,
    DAMAGED,
    GARBAGE,
    STALL,
    MjpegServer,
    jpeg,
    made_frame,
    served,
    write_video,
)

import samclip
from samclip.video.frames import DamagedFrameError, Grab, Source
from samclip.video.stream import VideoStream, open_video

LEVELS = range(0, 250, 10)
NEAR = 6  # levels that JPEG and H.264 may change a grey by


def level(image: np.ndarray) -> float:
    return float(image.mean())


def test_a_file_gives_every_frame_in_order_with_its_time(tmp_path: Path) -> None:
    with open_video(write_video(tmp_path / "a.mp4", LEVELS)) as stream:
        frames = list(stream)
    assert (stream.policy, stream.total, stream.rate) == ("every", len(LEVELS), 25.0)
    assert [frame.number for frame in frames] == list(range(len(LEVELS)))
    assert [frame.time for frame in frames] == pytest.approx([n / 25 for n in range(len(LEVELS))])
    assert [level(frame.image) for frame in frames] == pytest.approx(list(LEVELS), abs=NEAR)
    assert (stream.dropped, stream.damaged, stream.reconnects) == (0, 0, 0)


@pytest.mark.parametrize(("turned", "shape"), [(90, (64, 48, 3)), (180, (48, 64, 3))])
def test_frames_are_turned_upright(tmp_path: Path, turned: int, shape: tuple[int, ...]) -> None:
    with open_video(write_video(tmp_path / "a.mp4", [90], turned=turned)) as stream:
        assert next(stream).image.shape == shape


def test_turning_is_counterclockwise() -> None:
    from samclip.video.containers import turn

    image = np.zeros((2, 3, 3), np.uint8)
    image[0, 2] = 255  # upper right
    assert turn(image, 90)[0, 0, 0] == 255  # upper left
    assert turn(image, -90)[2, 1, 0] == 255  # lower right
    assert turn(image, 45) is image


def test_latest_drops_what_is_not_taken_and_counts_it(tmp_path: Path) -> None:
    with open_video(write_video(tmp_path / "a.mp4", LEVELS), policy="latest") as stream:
        while not stream._finished:
            time.sleep(0.01)
        (last,) = list(stream)
    assert (last.number, last.dropped, stream.dropped) == (24, 24, 24)


def test_every_holds_a_bounded_number_of_frames() -> None:
    made = []

    class Endless:
        is_live, total, rate = False, None, None

        def read(self) -> Grab:
            made.append(None)
            return Grab(made_frame(1))

        def close(self) -> None:
            pass

    source = Source("an endless source", False, lambda _: Endless())
    with VideoStream(source, "every", 3, 5.0, 0.0) as stream:
        next(stream)
        time.sleep(0.2)
        assert len(made) <= 1 + 3 + 1  # taken, waiting, and the one in the reader's hand
    assert not stream._thread.is_alive()
    with pytest.raises(samclip.ClosedError):
        next(stream)


def test_a_folder_skips_and_counts_images_that_cannot_be_read(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(made_frame(50 * number)))
    (tmp_path / "2.jpg").write_bytes(b"\xff\xd8\xff no picture")
    with open_video(tmp_path) as stream:
        assert [level(frame.image) for frame in stream] == pytest.approx([0, 50, 150], abs=NEAR)
    assert (stream.total, stream.damaged) == (4, 1)


NOISE = bytes(np.random.default_rng(1).integers(0, 255, 3000, np.uint8))
BEGUN = b"\xff\xd8\xff\xe0"  # a start of an image, whose header would be longer than its neighbours
FIRST, SECOND, THIRD = (jpeg(made_frame(value)) for value in (40, 80, 120))
THUMBNAIL = SECOND[:2] + b"\xff\xe1" + (len(FIRST) + 2).to_bytes(2, "big") + FIRST + SECOND[2:]


@pytest.mark.parametrize(
    ("data", "levels", "damaged"),
    [
        (FIRST + SECOND + THIRD, [40, 80, 120], 0),
        (FIRST + NOISE + SECOND + b"\r\n" + THIRD, [40, 80, 120], 0),
        (NOISE + FIRST + SECOND, [40, 80], 0),
        (FIRST + SECOND[:400] + THIRD, [40, 120], 1),
        (FIRST + SECOND + THIRD[:-2], [40, 80], 1),
        (FIRST + BEGUN + SECOND + BEGUN + THIRD, [40, 80, 120], 2),
        (b"\xff\xd8\xff\xfe" + NOISE[:9] + FIRST, [40], 1),
        (b"".join(MjpegServer.body(step) for step in (40, GARBAGE, 80, 120)), [40, 80, 120], 0),
        (THUMBNAIL + THIRD, [80, 120], 0),  # the picture within the header is no frame
        (FIRST + jpeg(made_frame(80, (96, 128))), [40, 80], 0),
    ],
)
def test_standard_input_takes_images_of_jpeg_with_anything_between_them(
    data: bytes, levels: list[int], damaged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=BytesIO(data)))
    with open_video("-") as stream:
        found = [level(frame.image) for frame in stream]
    assert found == pytest.approx(levels, abs=NEAR)
    assert stream.damaged == damaged


def test_images_in_a_pipe_are_answered_as_they_come() -> None:
    """A camera's program writes on, and no frame waits for the next one's bytes."""
    code = (
        "from samclip.video.stream import open_video\n"
        "for frame in open_video('-'): print(int(frame.image.mean()), flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for value in (40, 80, 120):
            process.stdin.write(jpeg(made_frame(value)))
            process.stdin.flush()
            assert int(process.stdout.readline()) == pytest.approx(value, abs=NEAR)
        process.stdin.close()


def test_standard_input_takes_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_video(tmp_path / "a.ts", LEVELS).read_bytes()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=BytesIO(data)))
    with open_video("-") as stream:
        assert [level(frame.image) for frame in stream] == pytest.approx(list(LEVELS), abs=NEAR)


class TestEnds:
    """Each way in which a stream can end has its own error."""

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("gone.mp4", "there is no file"),
            ("text.mp4", "not a video"),
            ("http://127.0.0.1:9/x", "refused"),
            ("rtsp://user:secret@127.0.0.1:9/x", r"^rtsp://127\.0\.0\.1:9/x cannot be opened"),
            (977, "camera 977 cannot be opened"),
            ("videotestsrc ! appsink", "GStreamer"),
            ("empty", "no images"),
        ],
    )
    def test_what_cannot_be_opened(
        self, source: str | int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "text.mp4").write_text("no video" * 100)
        (tmp_path / "empty").mkdir()
        with pytest.raises(samclip.StreamOpenError, match=words) as caught:
            open_video(source)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("source", [None, True, -1, "", b"a.mp4", 3.5])
    def test_what_is_no_source(self, source: object) -> None:
        with pytest.raises(samclip.InputError):
            open_video(source)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "options",
        [{"policy": "newest"}, {"timeout": 0}, {"timeout": "5"}, {"reconnect": -1}, {"queue": 0}],
    )
    def test_options_that_are_refused(self, options: dict, tmp_path: Path) -> None:
        with pytest.raises(samclip.InputError, match=next(iter(options))):
            open_video(tmp_path, **options)

    def test_a_file_that_is_cut_off(self, tmp_path: Path) -> None:
        whole = write_video(
            tmp_path / "a.mp4", [n % 250 for n in range(250)], options={"movflags": "faststart"}
        )
        data = whole.read_bytes()
        cut = tmp_path / "cut.mp4"
        cut.write_bytes(data[: len(data) * 2 // 3])
        with open_video(cut) as stream, pytest.raises(samclip.StreamDamagedError, match="cut off"):
            for frame in stream:
                last = frame
        assert 50 < last.number < 200

    def test_damage_within_a_file_is_counted_and_skipped(self, tmp_path: Path) -> None:
        whole = write_video(
            tmp_path / "a.mp4", [n % 250 for n in range(250)], options={"movflags": "faststart"}
        )
        data = bytearray(whole.read_bytes())
        middle = len(data) * 2 // 3
        data[middle : middle + 200] = bytes(200)
        whole.write_bytes(data)
        with open_video(whole) as stream:
            frames = list(stream)
        assert frames[-1].number + 1 + stream.damaged == 250
        assert 0 < stream.damaged < 20

    def test_a_server_that_stalls(self) -> None:
        with served([10, 20, 30, STALL]) as server:
            stream = open_video(server.url, timeout=1.0, reconnect=0.0, policy="every")
            taken = [level(next(stream).image) for _ in range(3)]
            assert taken == pytest.approx([10, 20, 30], abs=NEAR)
            began = time.monotonic()
            with pytest.raises(samclip.StreamTimeoutError):
                next(stream)
            assert time.monotonic() - began < 5
            stream.close()

    def test_a_server_that_never_answers(self) -> None:
        with served([STALL]) as server, pytest.raises(TimeoutError):
            open_video(server.url, timeout=0.5)

    def test_a_server_that_is_gone_for_good(self) -> None:
        with served([10, 20, 30, CUT]) as server:
            stream = open_video(server.url, timeout=1.0, reconnect=1.2, policy="every")
            next(stream)
        with pytest.raises(samclip.StreamLostError, match="not be opened again in 1"):
            list(stream)

    def test_no_frame_can_be_decoded(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").write_bytes(b"no picture")
        with (
            open_video(tmp_path) as stream,
            pytest.raises(samclip.StreamDamagedError, match="none"),
        ):
            next(stream)


def test_a_server_that_cuts_is_opened_again_and_frames_go_on() -> None:
    scripts = [10, 20, 30, CUT], [40, 50, 60, GARBAGE], [70, 80, (90, (96, 128)), STALL]
    with served(*scripts) as server:
        with open_video(server.url, timeout=3.0, reconnect=20.0, policy="every") as stream:
            frames = [next(stream) for _ in range(9)]
        assert (stream.reconnects, server.connections) == (2, 3)
    levels = [level(frame.image) for frame in frames]
    assert levels == pytest.approx(list(range(10, 100, 10)), abs=NEAR)
    assert [frame.number for frame in frames] == list(range(9))
    assert frames[8].image.shape == (96, 128, 3)  # a stream may change its size


class Scripted:
    """A live source that is opened once for each script; a step is a grey level or an error."""

    is_live, total, rate = True, None, None

    def __init__(self, *scripts: list[int | Exception]) -> None:
        self.scripts = list(scripts)
        self.opened = 0

    def open(self, seconds: float) -> Scripted:
        self.steps = list(self.scripts[min(self.opened, len(self.scripts) - 1)])
        self.opened += 1
        return self

    def read(self) -> Grab:
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            time.sleep(0.5)  # as long as a read of a connection that fell silent
            raise step
        return Grab(made_frame(step))

    def close(self) -> None:
        pass

    def stream(self, timeout: float, reconnect: float) -> VideoStream:
        return VideoStream(Source("a camera", True, self.open), "every", 4, timeout, reconnect)


def test_a_camera_that_opens_again_and_sends_nothing_is_lost() -> None:
    silent = samclip.StreamTimeoutError("it sent nothing")
    camera = Scripted([10, silent], [silent])
    with camera.stream(0.3, 3.0) as stream:
        assert level(next(stream).image) == 10
        with pytest.raises(samclip.StreamLostError, match="not be opened again in 3 s"):
            next(stream)
    assert 2 <= camera.opened <= 4  # with pauses that grow


def test_damaged_frames_for_longer_than_the_timeout_open_a_camera_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The caller's own limit, 0.2 s and a second of slack, does not come before that."""
    damage: list[int | Exception] = [DamagedFrameError("garbage") for _ in range(20)]
    camera = Scripted([10, *damage], [20, 30])
    with camera.stream(0.2, 20.0) as stream:
        assert [level(next(stream).image) for _ in range(3)] == [10, 20, 30]
    assert 1 <= stream.damaged <= 2
    monkeypatch.setattr("samclip.video.stream.MOST_DAMAGED", 2)
    with Scripted([10, *damage], [20, 30]).stream(60.0, 20.0) as stream:
        assert [level(next(stream).image) for _ in range(3)] == [10, 20, 30]
    assert stream.damaged == 2


def test_a_damaged_frame_of_a_server_is_counted_and_the_next_ones_come() -> None:
    with served([10, 20, 30, DAMAGED, 50, STALL]) as server:
        with open_video(server.url, timeout=3.0, policy="every") as stream:
            levels = [level(next(stream).image) for _ in range(4)]
        assert stream.damaged == 1
    assert levels == pytest.approx([10, 20, 30, 50], abs=NEAR)


def test_closing_ends_a_reader_that_waits_for_its_turn_to_try_again() -> None:
    with served([10, 20, 30, CUT]) as server:
        stream = open_video(server.url, timeout=1.0, policy="every")
        next(stream)
        time.sleep(0.3)
    began = time.monotonic()
    stream.close()
    stream._thread.join(5)
    assert not stream._thread.is_alive()
    assert time.monotonic() - began < 5


def test_a_taker_in_another_thread_is_woken_by_close() -> None:
    with (
        served([10, 20, 30, STALL]) as server,
        open_video(server.url, timeout=20.0, policy="every") as stream,
    ):
        for _ in range(3):
            next(stream)
        raised: list[BaseException] = []

        def take() -> None:
            try:
                next(stream)
            except samclip.SamclipError as error:
                raised.append(error)

        taker = threading.Thread(target=take)
        taker.start()
        time.sleep(0.1)
        stream.close()
        taker.join(5)
        assert [type(error) for error in raised] == [samclip.ClosedError]


def test_without_pyav_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", [1])
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(samclip.CapabilityError, match=r"pip install 'samclip\[video\]'"):
        open_video(os.fspath(path))
