"""Worker processes: the protocol, and how failures are reported."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_peers import BROKEN_LOAD, DEAD_LOAD, REQUEST, SOUND, start
from PIL import Image

from samclip.errors import PeerError
from tools.peers.worker_process import Answer, Loaded, PeakMemory, Ran
from tools.peers.workers.loop import MEAN, STD, Setup, Stopwatch


def test_a_peer_is_loaded_run_and_asked_for_its_memory(tmp_path: Path) -> None:
    with start(tmp_path, SOUND.format(delay=0.02, more="print('and again')")) as worker:
        loaded = worker.ask(REQUEST, Loaded)
        ran = worker.ask({"do": "run", "photo": "x.jpg"}, Ran)
        memory = worker.ask({"do": "memory"}, PeakMemory)
    assert loaded.facts == {"backend": "fake"}
    assert "numpy" in loaded.packages
    assert list(ran.stages) == ["prepare", "encoder"]
    assert ran.stages["encoder"] == 0.02
    assert memory.peak is not None
    assert 2**22 < memory.peak < 2**30


def test_an_error_is_an_answer_and_the_process_goes_on(tmp_path: Path) -> None:
    with start(tmp_path, BROKEN_LOAD) as worker:
        with pytest.raises(PeerError, match="MemoryError: no room for it"):
            worker.ask(REQUEST, Loaded)
        with pytest.raises(PeerError, match="send 'load' first"):
            worker.ask({"do": "run", "photo": "x.jpg"}, Ran)
        assert worker.ask({"do": "memory"}, PeakMemory).peak


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signal")
def test_a_process_that_is_killed_says_so_with_its_last_line(tmp_path: Path) -> None:
    with start(tmp_path, DEAD_LOAD) as worker:
        for _ in range(2):  # asking again gives the same failure
            with pytest.raises(PeerError, match="SIGKILL, as when memory runs out: about to end"):
                worker.ask(REQUEST, Loaded)


def test_silence_is_a_failure_and_ends_the_process(tmp_path: Path) -> None:
    with (
        start(tmp_path, "import time\ndef load(setup):\n    time.sleep(60)\n") as worker,
        pytest.raises(PeerError, match="no answer to 'load' within 0 s"),
    ):
        worker.ask(REQUEST, Loaded, timeout=0.1)


def test_an_answer_of_another_form_is_refused(tmp_path: Path) -> None:
    code = "def load(setup):\n    setup.facts['backend'] = 3\n"
    with start(tmp_path, code) as worker, pytest.raises(PeerError, match="not understood"):
        worker.ask(REQUEST, Loaded)


def test_laps_share_out_the_time_since_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 11.0, 13.0, 13.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    watch = Stopwatch()
    for name in ("prepare", "encoder", "prepare"):
        watch.lap(name)
    assert watch.stages == {"prepare": 1.5, "encoder": 2.0}


def test_files_are_exported_into_the_folder(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "def export(setup):\n"
        "    (Path(setup.folder) / 'encoder.onnx').write_text(str(setup.image_size))\n"
    )
    with start(tmp_path, code) as worker:
        worker.ask({**REQUEST, "do": "export", "folder": str(tmp_path)}, Answer)
    assert (tmp_path / "encoder.onnx").read_text() == "64"


def test_photos_are_prepared_as_sam_does(tmp_path: Path) -> None:
    pixels = np.zeros((30, 60, 3), np.uint8)
    pixels[:] = (10, 100, 250)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    image, size, inner = Setup(json.loads(json.dumps(REQUEST))).prepare(str(tmp_path / "photo.png"))
    assert (image.shape, image.dtype) == ((1, 3, 64, 64), np.float32)
    assert (size, inner) == ((30, 60), (32, 64))
    assert not image[:, :, 32:].any()  # padding comes after normalisation
    expected = (np.array([10, 100, 250]) - MEAN) / STD
    np.testing.assert_allclose(image[0, :, 31, 63], expected, rtol=1e-6)
