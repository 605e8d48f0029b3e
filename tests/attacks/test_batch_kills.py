"""Jobs that are killed, as the whole process or a worker of Ray: then each image is in one row."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections import Counter
from pathlib import Path

import pytest
from colour_files import write_colour
from command_process import CODES, LINES, Command
from figures import Figures
from waiting import wait_until

from samclip.batch.shards import JOB_NAME, LOCK_NAME, SHARD
from samclip.runtime.assets import packaged_photos

pq = pytest.importorskip("pyarrow.parquet", reason="needs samclip[batch]")
ENTRY = "samclip.commands:run"
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs samclip[ray]")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc"),
]


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, set[str], set[str]]:
    """600 images with 30 bad ones among them: the folder, all keys, those of the bad ones."""
    folder = tmp_path / "photos"
    good = write_colour(folder / "0000.png", "green", (64, 64)).read_bytes()
    bad = set()
    for number in range(600):
        path = folder / f"{number:04}.png"
        path.write_bytes(good)
        if number % 20 == 7:
            path.write_bytes((good[:70], b"text", b"")[number % 3])
            bad.add(path.name)
    return folder, {path.name for path in folder.iterdir()}, bad


def check(out: Path, keys: set[str], bad: set[str]) -> None:
    """Each image is in exactly one row of the whole files, and nothing else is there."""
    rows = pq.ParquetDataset(out).read(columns=["key", "error_type", "embedding"]).to_pylist()
    assert Counter(row["key"] for row in rows) == Counter(keys)
    assert {row["key"] for row in rows if row["error_type"]} == bad
    assert all((row["embedding"] is None) == (row["key"] in bad) for row in rows)
    assert {row["error_type"] for row in rows} == {None, "ImageError"}
    names = {path.name for path in out.iterdir()}
    assert {name for name in names if not SHARD.fullmatch(name)} == {JOB_NAME, LOCK_NAME}


def workers(command: Command) -> list[int]:
    return [pid for pid, title in command.processes() if title.startswith("ray::MapWorker")]


def kill_a_worker(command: Command) -> None:
    wait_until(lambda: workers(command))
    os.kill(workers(command)[0], signal.SIGKILL)


def shard_count(out: Path) -> int:
    return len(list(out.glob("part-*.parquet")))


def test_a_killed_process_loses_no_image_and_doubles_none(
    images: tuple[Path, set[str], set[str]], coloured_bundle: Path, tmp_path: Path, figures: Figures
) -> None:
    folder, keys, bad = images
    out = tmp_path / "out"
    words = [ENTRY, "batch", folder, "--to", out, "--task", "embed", "--bundle", coloured_bundle]
    words += ["--backend", "onnxruntime", "--rows-per-file", "3"]
    for target in (1, 20, 55):
        command = Command(words, tmp_path / "cache")
        wait_until(lambda target=target: shard_count(out) >= target)  # type: ignore[misc]
        assert command.is_running()
        command.kill()
    assert shard_count(out) < 200
    stopped = Command(words, tmp_path / "cache")
    wait_until(lambda: shard_count(out) >= 90)
    code, errors = stopped.stop(signal.SIGINT, 0)
    assert code == CODES[signal.SIGINT], errors
    assert LINES[signal.SIGINT] in errors
    printed = Command(words, tmp_path / "cache").finish()
    assert "600 images" in printed
    assert "30 with an error" in printed
    check(out, keys, bad)
    found = "each of 600 images in one row after the last run, 30 bad ones with an error"
    figures.add("samclip batch killed 3 times, then Ctrl-C", count=4, found=found)


@needs_ray
def test_killed_workers_of_ray_lose_no_image_and_double_none(
    images: tuple[Path, set[str], set[str]], coloured_bundle: Path, tmp_path: Path, figures: Figures
) -> None:
    """A worker is killed, then all at once; a second run finishes, and loses a worker too."""
    folder, keys, bad = images
    out = tmp_path / "out"
    words = [ENTRY, "batch", folder, "--to", out, "--task", "embed", "--bundle", coloured_bundle]
    words += ["--backend", "onnxruntime", "--rows-per-file", "3"]
    words += ["--workers", "2", "--runner", "ray", "--batch-size", "4"]

    first = Command(words, tmp_path / "cache")
    wait_until(lambda: shard_count(out) >= 5)
    kill_a_worker(first)
    wait_until(lambda: shard_count(out) >= 40)
    assert first.is_running()
    first.kill()
    before = shard_count(out)
    assert before < 200
    second = Command(words, tmp_path / "cache")
    wait_until(lambda: shard_count(out) >= before + 5)
    kill_a_worker(second)
    printed = second.finish()
    assert printed.startswith(str(out)), printed  # and nothing of Ray's before it
    assert "600 images" in printed
    check(out, keys, bad)
    found = "each of 600 images in one row, 30 bad ones with an error"
    figures.add("2 workers of Ray: a worker, then all, then a worker killed", count=3, found=found)


@needs_ray
def test_two_thousand_photos_with_bad_ones_and_killed_workers(
    coloured_bundle: Path, tmp_path: Path, figures: Figures
) -> None:
    """Cut photos, text, empty files and broken PNGs; a worker is killed early, another one late."""
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    photos = [path.read_bytes() for path in sorted(packaged_photos().glob("*.jpg"))]
    bad = set()
    for number in range(2000):
        path, data = folder / f"{number:04}.jpg", photos[number % len(photos)]
        if number % 20 == 7:
            faults = (data[: len(data) // 2], b"text", b"", b"\x89PNG\r\n\x1a\n" + bytes(50))
            data = faults[number // 20 % len(faults)]
            bad.add(path.name)
        path.write_bytes(data)
    words = [ENTRY, "batch", folder, "--to", out, "--task", "embed", "--bundle", coloured_bundle]
    words += ["--backend", "onnxruntime", "--rows-per-file", "50", "--workers", "2"]
    command = Command([*words, "--runner", "ray"], tmp_path / "cache")
    for target in (5, 20):
        wait_until(lambda target=target: shard_count(out) >= target)  # type: ignore[misc]
        kill_a_worker(command)
    printed = command.finish()
    assert "2,000 images" in printed
    assert "100 with an error" in printed
    check(out, {path.name for path in folder.iterdir()}, bad)
    found = "each of 2,000 photos in one row, 100 bad ones with an error; 2 workers killed"
    figures.add("2,000 photos on 2 workers of Ray, two workers killed", count=2000, found=found)
