import dataclasses
import logging
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from samclip.errors import InputError
from samclip.merge.data.batches import PhotoView
from samclip.merge.data.views import View
from samclip.merge.teachers.output_cache import OutputCache, output_key

SAMPLE = PhotoView("ab" * 32, View((40, 60), (0, 0, 60, 40), 64))
KEY = output_key("teacher", SAMPLE)


def made(value: float = 0.1) -> dict[str, Tensor]:
    return {"map": torch.full((2, 3), value), "count": torch.tensor([3])}


def never() -> dict[str, Tensor]:
    raise AssertionError("asked though it was kept")


def test_keys_distinguish_teacher_photo_and_view() -> None:
    others = [
        output_key("other", SAMPLE),
        output_key("teacher", dataclasses.replace(SAMPLE, photo="cd" * 32)),
        output_key("teacher", dataclasses.replace(SAMPLE, view=View((40, 60), (0, 0, 59, 40), 64))),
    ]
    assert len({KEY, *others}) == 4
    assert output_key("teacher", SAMPLE) == KEY


def test_what_was_made_is_kept(tmp_path: Path) -> None:
    cache = OutputCache(tmp_path)
    assert KEY not in cache
    first = cache.get_or_make(KEY, made)
    assert KEY in cache
    again = OutputCache(tmp_path).get_or_make(KEY, never)
    assert all(torch.equal(first[name], again[name]) for name in ("map", "count"))
    assert torch.equal(first["map"], made()["map"])
    assert cache.path(KEY) == tmp_path / KEY[:2] / KEY[2:4] / f"{KEY}.safetensors"
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [cache.path(KEY)]  # nothing partial


def test_halves_are_rounded_the_first_time_too(tmp_path: Path) -> None:
    cache = OutputCache(tmp_path, half=("map",))
    first = cache.get_or_make(KEY, made)
    again = cache.get_or_make(KEY, never)
    assert torch.equal(first["map"], again["map"])
    assert torch.equal(first["map"], torch.full((2, 3), 0.1).half().float())
    assert again["count"].dtype == torch.int64
    assert load_file(cache.path(KEY))["map"].dtype == torch.float16


@pytest.mark.parametrize("planted", ["pipe", "link"])
def test_what_is_not_a_plain_file_is_made_again(
    tmp_path: Path, planted: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = OutputCache(tmp_path / "cache")
    cache.put(KEY, made(7.0))
    file = cache.path(KEY)
    file.rename(tmp_path / "other")
    if planted == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(tmp_path / "other")
    found = cache.get_or_make(KEY, made)
    assert torch.equal(found["map"], made()["map"])
    assert "computed again" in caplog.text
    assert file.is_file()
    assert not file.is_symlink()


@pytest.mark.parametrize("content", [b"", b"rubbish", None])
def test_a_damaged_file_is_made_again_with_a_warning(
    tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    cache = OutputCache(tmp_path)
    cache.put(KEY, made())
    whole = cache.path(KEY).read_bytes()
    cache.path(KEY).write_bytes(whole[:-4] if content is None else content)
    with caplog.at_level(logging.WARNING):
        found = cache.get_or_make(KEY, lambda: made(0.5))
    assert torch.equal(found["map"], made(0.5)["map"])
    assert "is damaged" in caplog.text
    assert torch.equal(cache.get_or_make(KEY, never)["map"], found["map"])


def test_what_is_missing_of_several_is_made_together(tmp_path: Path) -> None:
    cache = OutputCache(tmp_path)
    keys = [output_key(str(number), SAMPLE) for number in range(4)]
    cache.put(keys[1], made(1.0))
    asked: list[list[int]] = []

    def make(missing: list[int]) -> list[dict[str, Tensor]]:
        asked.append(missing)
        return [made(float(position)) for position in missing]

    for _ in range(2):
        found = cache.get_or_make_all(keys, make)
        assert [float(tensors["map"][0, 0]) for tensors in found] == [0, 1, 2, 3]
    assert asked == [[0, 2, 3]]


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = OutputCache(tmp_path)

    def fail(path: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        cache.put(KEY, made())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert cache.get(KEY) is None


@pytest.mark.parametrize("key", ["", "../../etc/passwd", "AB" * 32, "ab" * 31])
def test_keys_that_are_no_hash_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(InputError, match="is not a SHA-256"):
        OutputCache(tmp_path).path(key)
