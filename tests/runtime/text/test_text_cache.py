from __future__ import annotations

import logging
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from samclip.disk.cache_folder import cache_dir
from samclip.runtime.text.text_cache import BUSY_SECONDS, FILE_NAME, TextCache, embedding_keys

DIMENSION = 16
TEMPLATES = ("a photo of a {}.",)


def key_of(name: str) -> bytes:
    return embedding_keys("space", TEMPLATES, [name])[0]


def vector_of(name: str) -> NDArray[np.float32]:
    """The one right vector of a name."""
    return np.random.default_rng(list(name.encode())).random(DIMENSION, np.float32)


def entries(names: list[str]) -> dict[bytes, NDArray[np.float32]]:
    return {key_of(name): vector_of(name) for name in names}


def assert_right(cache: TextCache, names: list[str]) -> int:
    """Check that whatever is found is bit-equal to what was stored; returns how many were."""
    found = cache.get([key_of(name) for name in names])
    for name in names:
        if key_of(name) in found:
            assert np.array_equal(found[key_of(name)], vector_of(name))
    return len(found)


def filled_file(directory: Path, names: list[str]) -> Path:
    TextCache(directory).put(entries(names))
    return directory / FILE_NAME


def test_vectors_come_back_bit_equal_in_another_instance(tmp_path: Path) -> None:
    names = [f"name {number}" for number in range(1_200)]
    filled_file(tmp_path, names)
    other = TextCache(tmp_path)
    assert assert_right(other, names) == len(names)
    assert other.get([key_of("unknown")]) == {}
    assert other.get([]) == {}
    assert other.get([key_of("name 1")])[key_of("name 1")].dtype == np.float32


def test_keys_differ_by_space_templates_and_name() -> None:
    calls = [
        ("a", ("{}",), "x"),
        ("b", ("{}",), "x"),
        ("a", ("{}", "{}"), "x"),
        ("a", ("{}{}",), "x"),
        ("a", ("{}",), "X"),
        ("a", (), "{}name"),
        ("a", ("{}", "x"), ""),
        ("a", ("{}",), "\ud800"),
    ]
    keys = [embedding_keys(space, templates, [name])[0] for space, templates, name in calls]
    assert len(set(keys)) == len(calls)
    assert all(len(key) == 32 for key in keys)
    assert keys[0] == embedding_keys("a", ["{}"], ["y", "x"])[1]


def test_the_longest_unused_rows_go_first(tmp_path: Path) -> None:
    now = [0.0]
    cache = TextCache(tmp_path, max_rows=10, clock=lambda: now[0])
    names = [f"n{number}" for number in range(10)]
    for name in names:
        now[0] += 10
        cache.put(entries([name]))
    now[0] += 10_000
    assert assert_right(cache, names[:3]) == 3  # used again, hours later
    cache.put(entries([f"new{number}" for number in range(5)]))
    assert assert_right(cache, names) == 5
    assert assert_right(cache, names[:3]) == 3
    assert assert_right(cache, names[3:8]) == 0


def test_only_the_user_can_read_and_write_the_file(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        file = filled_file(tmp_path, ["a"])
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_never_more_rows_than_allowed(tmp_path: Path) -> None:
    cache = TextCache(tmp_path, max_rows=7)
    for start in range(0, 100, 20):
        cache.put(entries([f"n{number}" for number in range(start, start + 20)]))
    with sqlite3.connect(cache.path) as database:
        (count,) = database.execute("SELECT count(*) FROM embeddings").fetchone()
    database.close()
    assert count == 7


def test_directory_parameter_environment_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path / "env"))
    assert cache_dir() == tmp_path / "env"
    assert cache_dir(tmp_path) == tmp_path
    assert TextCache().path == tmp_path / "env" / FILE_NAME
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", "~nobody-here/x")
    assert cache_dir() == Path("~nobody-here/x")
    monkeypatch.delenv("SAMCLIP_CACHE_DIR")
    assert cache_dir().name == "samclip"


def planted(path: str) -> None:
    Path(path).touch()
    Path(path).chmod(0o666)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda file: file.write_bytes(b"not a database" * 100), id="garbage"),
        pytest.param(lambda file: os.truncate(file, file.stat().st_size // 2), id="truncated"),
        pytest.param(lambda file: os.truncate(file, 50), id="header only"),
        pytest.param(lambda file: (file.unlink(), file.mkdir()), id="directory"),
        pytest.param(lambda file: (file.unlink(), os.mkfifo(file)), id="fifo"),
        pytest.param(lambda file: file.symlink_to(file.rename(file.with_name("x"))), id="link"),
        pytest.param(lambda file: file.chmod(0o666), id="everybody may write"),
        pytest.param(lambda file: os.mkfifo(f"{file}-journal"), id="a fifo as journal"),
        pytest.param(lambda file: planted(f"{file}-journal"), id="a journal of everybody's"),
    ],
)
def test_a_damaged_file_ends_caching_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: object
) -> None:
    names = [f"n{number}" for number in range(200)]
    damage(filled_file(tmp_path, names))  # type: ignore[operator]
    cache = TextCache(tmp_path)
    with caplog.at_level(logging.WARNING, "samclip"):
        for _ in range(3):
            assert_right(cache, names)
            cache.put(entries(["x"]))
    (record,) = caplog.records
    assert "not kept on disk" in record.getMessage()
    assert "Delete the file" in record.getMessage()


def test_an_unwritable_place_ends_caching_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    cache = TextCache(tmp_path / "file" / "below")
    cache.put(entries(["x"]))
    assert cache.get([key_of("x")]) == {}
    assert len(caplog.records) == 1


def test_a_file_of_another_schema_ends_caching(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.execute("CREATE TABLE other (x)")
    database.close()
    cache = TextCache(tmp_path)
    cache.put(entries(["x"]))
    assert cache.get([key_of("x")]) == {}
    assert len(caplog.records) == 1


def test_damage_quoted_in_an_error_message_is_survived(tmp_path: Path) -> None:
    file = filled_file(tmp_path, ["a"])
    file.write_bytes(file.read_bytes().replace(b"NOT NULL, digest", b"(\xed( NULL, digest"))
    cache = TextCache(tmp_path)
    assert_right(cache, ["a"])
    cache.put(entries(["b"]))


@pytest.mark.parametrize(
    "change",
    [
        "SET vector = zeroblob(length(vector))",
        "SET vector = substr(vector, 1, 9)",
        "SET vector = 'text'",
        "SET vector = 1.5",
        "SET digest = x'00'",
        "SET digest = 7",
        "SET used = 'soon'",
        "SET vector = (SELECT vector FROM embeddings WHERE rowid = 2)",
        "SET vector = (SELECT vector FROM embeddings WHERE rowid = 2), "
        "digest = (SELECT digest FROM embeddings WHERE rowid = 2)",
    ],
)
def test_a_changed_row_counts_as_absent(tmp_path: Path, change: str) -> None:
    file = filled_file(tmp_path, ["a", "b", "c"])
    with sqlite3.connect(file) as database:
        database.execute(f"UPDATE embeddings {change} WHERE key = ?", (key_of("a"),))
    database.close()
    cache = TextCache(tmp_path)
    assert cache.get([key_of("a")]) == {}
    assert assert_right(cache, ["b", "c"]) == 2
    cache.put(entries(["a"]))
    assert assert_right(cache, ["a"]) == 1


def test_single_bit_flips_never_raise_and_never_give_a_wrong_vector(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(40)]
    file = filled_file(tmp_path, names)
    sound, chooser = file.read_bytes(), random.Random(5)
    found = 0
    for _ in range(200):
        place = chooser.randrange(len(sound) * 8)
        data = bytearray(sound)
        data[place // 8] ^= 1 << place % 8
        file.write_bytes(data)
        cache = TextCache(tmp_path)
        found += assert_right(cache, names)
        cache.put(entries(["later"]))
        assert_right(cache, [*names, "later"])
    assert found > 150 * len(names)  # most flips cost one row at most


def test_threads_share_one_file(tmp_path: Path) -> None:
    cache, errors = TextCache(tmp_path), []

    def work(seed: int) -> None:
        try:
            for number in range(8):
                cache.put(entries([f"n{(seed + number) % 24}"]))
                assert_right(cache, [f"n{i}" for i in range(24)])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert assert_right(TextCache(tmp_path), [f"n{i}" for i in range(23)]) == 23


WRITER = """
import sys
import numpy as np
from samclip.runtime.text.text_cache import TextCache, embedding_keys
cache, first = TextCache(sys.argv[1]), int(sys.argv[2])
for number in range(first, first + 20):
    key = embedding_keys("s", ("{}",), [str(number)])[0]
    cache.put({key: np.full(4, number, np.float32)})
    assert key in cache.get([key])
"""


def test_processes_share_one_file(tmp_path: Path) -> None:
    starts = (0, 10, 20, 30)
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(start)])
        for start in starts
    ]
    assert [writer.wait(60) for writer in writers] == [0] * len(starts)
    keys = embedding_keys("s", ("{}",), map(str, range(50)))
    found = TextCache(tmp_path).get(keys)
    assert [float(found[key][0]) for key in keys] == list(range(50))


def test_a_lock_held_too_long_costs_the_cache_not_the_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samclip.runtime.text.text_cache.BUSY_SECONDS", 0.05)
    file = filled_file(tmp_path, ["a"])
    other = sqlite3.connect(file, isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        cache = TextCache(tmp_path)
        assert cache.get([key_of("a")]) == {}
        cache.put(entries(["b"]))
    finally:
        other.close()
    assert len(caplog.records) == 1


@pytest.mark.parametrize("error", [TimeoutError("the caller's limit"), KeyboardInterrupt()])
def test_a_stop_is_heeded_while_another_process_writes(
    tmp_path: Path, error: BaseException
) -> None:
    file = filled_file(tmp_path, ["a"])
    other = sqlite3.connect(file, isolation_level=None)

    def stop(*_: object) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, stop)
    try:
        other.execute("BEGIN EXCLUSIVE")
        started = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(type(error)):
            TextCache(tmp_path).get([key_of("a")])
        assert time.monotonic() - started < BUSY_SECONDS / 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        other.close()


def test_a_write_waits_for_its_turn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = filled_file(tmp_path, ["a"])
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    timer = threading.Timer(0.5, other.close)
    timer.start()
    cache = TextCache(tmp_path)
    cache.put(entries(["b"]))
    timer.join()
    assert assert_right(cache, ["a", "b"]) == 2
    assert caplog.records == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_can_use_the_cache(tmp_path: Path) -> None:
    cache = TextCache(tmp_path)
    cache.put(entries(["parent"]))
    child = os.fork()
    if child == 0:
        ok = assert_right(cache, ["parent"]) == 1
        cache.put(entries(["child"]))
        os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert assert_right(cache, ["parent", "child"]) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # threads: the point
def test_a_child_forked_during_a_write_can_use_the_cache(tmp_path: Path) -> None:
    """Else it would take the parent's write for one in its own process, and wait forever."""
    cache, ended = TextCache(tmp_path), threading.Event()

    def write() -> None:
        while not ended.is_set():
            cache.put(entries(["parent"]))
            time.sleep(0.001)  # lets others have a turn

    writer = threading.Thread(target=write)
    writer.start()
    codes = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            name = f"child {number}"
            cache.put(entries([name]))
            os._exit(0 if cache._usable and len(cache.get([key_of(name)])) == 1 else 1)
        codes.append(os.waitpid(child, 0)[1])
    ended.set()
    writer.join()
    assert codes == [0] * 4
