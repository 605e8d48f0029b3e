from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes import fake_manifest
from region_fakes import region_manifest
from timed_fakes import contender

from samclip.benchmarks.memory import stages
from samclip.benchmarks.memory.child import peak_rss
from samclip.benchmarks.memory.stages import (
    STAGES,
    ProcessMemory,
    Shapes,
    bytes_read,
    measure_memory,
    run_child,
    stages_of,
)
from samclip.errors import CapabilityError, EngineRunError
from samclip.progress import SILENT
from samclip.runtime.bundles.manifest import FileEntry

NAME = "name a mask, 20 names"


def task(**changes: Any) -> str:
    given = {"steps": [], "bundle": "none", "options": {}, "photo": "", "names": [], "gpu": None}
    return json.dumps({**given, **changes})


def test_a_process_reports_its_own_peak_and_not_that_of_its_parent() -> None:
    ballast = bytearray(400 * 2**20)
    ballast[:: 2**12] = b"x" * len(ballast[:: 2**12])
    found = run_child("a", task())
    del ballast
    assert 2**20 < found.peak < 200 * 2**20  # Python with `import samclip` alone
    assert peak_rss() > 400 * 2**20
    assert found.device is found.reason is None


def test_a_process_says_why_it_does_not_know_the_memory_of_a_gpu() -> None:
    found = run_child("a", task(gpu=0))
    assert found.device is not None or found.reason


def test_a_process_that_fails_is_an_error() -> None:
    with pytest.raises(EngineRunError, match=r"fresh process for a failed .*BundleNotFoundError"):
        run_child("a", task(steps=["load"]))


def test_every_stage_has_processes_of_its_own(
    monkeypatch: pytest.MonkeyPatch, photo_path: Path
) -> None:
    given: list[dict[str, Any]] = []

    def run(name: str, text: str) -> ProcessMemory:
        given.append(json.loads(text))
        return ProcessMemory(peak=len(given), device=None, reason="no driver")

    monkeypatch.setattr(stages, "run_child", run)
    monkeypatch.setattr(stages, "bytes_read", lambda *_: 0)  # the fake has no files of labels
    uses = measure_memory([contender()], photo_path, SILENT, repeats=2)
    tokens = [stage.name for stage in STAGES if stage.name != NAME]  # the fake has a CLIP head
    assert [use.stage for use in uses] == tokens
    assert [use.peaks for use in uses[:2]] == [(1, 2), (3, 4)]
    assert given[0]["steps"] == []
    assert given[-1]["steps"] == ["load", "encode", "segment", "classify", "semantic", "refine"]
    assert given[-1]["names"]
    assert given[0]["gpu"] == 0  # "fake" does not run on the host
    assert uses[0].device_reason == "no driver"


def test_a_mask_on_each_shape_is_a_stage(monkeypatch: pytest.MonkeyPatch, photo_path: Path) -> None:
    given: list[dict[str, Any]] = []

    def run(name: str, text: str) -> ProcessMemory:
        given.append(json.loads(text))
        return ProcessMemory(peak=len(given), device=None, reason=None)

    monkeypatch.setattr(stages, "run_child", run)
    monkeypatch.setattr(stages, "bytes_read", lambda *_: 0)
    several = contender(canvases=((192, 256), (256, 192)))
    uses = measure_memory([several], photo_path, SILENT, shapes=Shapes(2))
    assert [use.stage for use in uses[-2:]] == [
        "segment a point",
        "a point on each of 3 shapes, 2 stay",
    ]
    assert given[-1]["steps"] == ["load", "encode", "segment", "shapes"]
    assert given[-1]["canvases"] == [[256, 256], [192, 256], [256, 192]]
    assert given[-1]["options"]["max_shapes"] == 2
    stage = stages_of(several.model.manifest, everything=False, shapes=Shapes())[-1]
    assert stage.name == "a point on each of 3 shapes"
    assert {"encoder", "encoder-192x256", "mask_decoder-256x192"} <= {*stage.graphs}
    with pytest.raises(CapabilityError, match="one shape of input"):
        stages_of(fake_manifest(), everything=False, shapes=Shapes())


def test_bundles_without_a_head_have_fewer_stages() -> None:
    names = [stage.name for stage in stages_of(fake_manifest(clip=False), everything=True)]
    assert names[-2:] == ["segment a point", "everything, 1,024 points"]


def test_bytes_on_disk_count_each_file_once() -> None:
    sizes = {"fp32.onnx": 100, "fp16.onnx": 10, "labels.json": 5, "labels.bin": 3}
    entries = {name: FileEntry(size=size, sha256="0" * 64) for name, size in sizes.items()}
    manifest = msgspec.structs.replace(fake_manifest(), files=entries)
    assert bytes_read(manifest, STAGES[:1], "fake", None) == 0
    assert bytes_read(manifest, STAGES[:2], "fake", None) == 100
    assert bytes_read(manifest, STAGES[:2], "fake", "fp16") == 10
    assert bytes_read(manifest, STAGES[:4], "fake", "fp16") == 110  # the decoder is FP32 alone
    assert bytes_read(manifest, STAGES, "fake", None) == 108  # the graphs share a file


def test_bundles_that_name_boxes_have_a_stage_of_their_own_and_no_map() -> None:
    names = [stage.name for stage in stages_of(region_manifest(), everything=False)]
    assert names[-2:] == ["classify 20 names", NAME]
    assert len(names) == 6
    with pytest.raises(CapabilityError, match="cannot segment everything"):
        stages_of(region_manifest(), everything=True)
