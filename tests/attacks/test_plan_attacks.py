"""Damaged, exchanged and foreign plans: refused by their sidecars; no library sees their bytes.

`find_plan` gets no library, so that none can be reached; the tests of the TensorRT backend show the
same with one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import COUNTS, draw_bits, flip_bit
from figures import Figures
from plan_samples import HOST, PLAN, sample_sidecar, sample_source
from side_effects import record_side_effects

from samclip.engines.plans import store
from samclip.engines.plans.match import PlanHost, find_plan
from samclip.engines.plans.sidecar import BuiltFor
from samclip.engines.plans.store import StoredPlan, plan_folder, read_plan, sidecar_path, write_plan
from samclip.engines.steps import BuildPlans
from samclip.errors import (
    PlanDamagedError,
    PlanError,
    PlanForeignError,
    PlanMissingError,
    PlanStaleError,
)

SOURCE = sample_source()
STALE = "TensorRT: plans of another GPU, library, system, precision or graph"
EXCHANGED = "TensorRT: plans and sidecars that were exchanged"
REBUILD = "refused with the command that builds them again"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh cache, which loading never writes to."""
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path / "cache"))
    yield tmp_path / "cache"


def stored(data: bytes = PLAN, **changes: Any) -> StoredPlan:
    return write_plan(plan_folder(), data, sample_sidecar(**changes))


def refuse(kind: type[PlanError], source: Any = SOURCE, host: PlanHost = HOST) -> str:
    with record_side_effects() as effects, pytest.raises(kind) as caught:
        find_plan(source, host)
    assert type(caught.value) is kind
    assert effects.done == []
    assert any(isinstance(step, BuildPlans) for step in caught.value.steps)
    return str(caught.value)


@pytest.mark.parametrize("count", COUNTS)
def test_truncated_plans_and_sidecars(count: int, figures: Figures) -> None:
    plan = stored()
    for path in (plan.path, sidecar_path(plan.path)):
        whole = path.read_bytes()
        last = len(whole) - 1 if path == plan.path else len(whole) - 2  # its newline may go
        for length in np.linspace(0, last, count).astype(int):
            path.write_bytes(whole[:length])
            refuse(PlanDamagedError)
        path.write_bytes(whole)
        kind = "plan" if path == plan.path else "sidecar"
        figures.add(f"TensorRT: {kind} truncated", count=count, found="refused")
    assert find_plan(SOURCE, HOST).data == PLAN


@pytest.mark.parametrize("count", COUNTS)
def test_flipped_bits_of_plans(count: int, figures: Figures) -> None:
    plan = stored()
    for bit in draw_bits(PLAN, count):
        plan.path.write_bytes(flip_bit(PLAN, bit))
        assert "SHA-256" in refuse(PlanDamagedError)
    figures.add("TensorRT: plan with a flipped bit", count=count, found="refused by SHA-256")


@pytest.mark.parametrize("count", COUNTS)
def test_flipped_bits_of_sidecars(count: int, figures: Figures) -> None:
    """Bits of the white space between the values change nothing."""
    plan = stored()
    path = sidecar_path(plan.path)
    whole, harmless = path.read_bytes(), 0
    for bit in draw_bits(whole, count):
        path.write_bytes(flip_bit(whole, bit))
        try:
            plan_found = find_plan(SOURCE, HOST)
        except PlanDamagedError:
            continue
        assert chr(whole[bit // 8]).isspace()
        assert plan_found.data == PLAN
        harmless += 1
    spaces = f", {harmless} harmless: white space between the values" if harmless else ""
    found = f"{count - harmless} refused{spaces}"
    figures.add("TensorRT: sidecar with a flipped bit", count=count, found=found)


def exchange(first: Path, second: Path) -> None:
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)


def test_two_plans_exchanged(figures: Figures) -> None:
    """Each is sound, and of the same size."""
    other = stored(PLAN[::-1], graph=sample_sidecar(sample_source(name="clip_head")).graph)
    exchange(stored().path, other.path)
    refuse(PlanDamagedError)
    figures.add(EXCHANGED, count=1, found="refused")


def test_two_sidecars_exchanged(figures: Figures) -> None:
    """A sidecar fits one plan alone."""
    head = sample_source(name="clip_head")
    other = stored(PLAN[::-1], graph=sample_sidecar(head).graph)
    exchange(sidecar_path(stored().path), sidecar_path(other.path))
    refuse(PlanDamagedError)
    refuse(PlanDamagedError, head)
    figures.add(EXCHANGED, count=1, found="refused")


def test_a_stale_sidecar_with_a_new_plan(figures: Figures) -> None:
    plan = stored()
    plan.path.write_bytes(b"a plan of a later build")
    assert "its sidecar says" in refuse(PlanDamagedError)
    figures.add(EXCHANGED, count=1, found="refused")


FOREIGN: dict[str, tuple[dict[str, Any], PlanHost]] = {
    "older library": ({"library_version": "10.2.0"}, HOST),
    "newer library": ({"library_version": "10.16.1"}, HOST),
    "another build of it": ({"library_version": "10.3.0.26"}, HOST),
    "no version": ({"library_version": ""}, HOST),
    "older GPU": ({"target": BuiltFor(capabilities=("7.2",), system=HOST.system)}, HOST),
    "newer GPU": ({"target": BuiltFor(capabilities=("12.0",), system=HOST.system)}, HOST),
    "sister GPU": ({"target": BuiltFor(capabilities=("8.6",), system=HOST.system)}, HOST),
    "two other GPUs": ({"target": BuiltFor(capabilities=("8.6", "8.9"), system=HOST.system)}, HOST),
    "Windows": ({"target": BuiltFor(capabilities=("8.7",), system="Windows AMD64")}, HOST),
    "another processor": ({"target": BuiltFor(capabilities=("8.7",), system="Linux riscv")}, HOST),
    "no system": ({"target": BuiltFor(capabilities=("8.7",), system="")}, HOST),
    "this machine changed its GPU": ({}, replace(HOST, capability="9.0")),
    "this machine was updated": ({}, replace(HOST, version="10.4.0")),
}


@pytest.mark.parametrize(("changes", "host"), FOREIGN.values(), ids=FOREIGN)
def test_plans_of_other_machines(changes: dict[str, Any], host: PlanHost, figures: Figures) -> None:
    stored(**changes)
    refuse(PlanForeignError, host=host)
    figures.add(STALE, count=1, found=REBUILD)


OTHERS: dict[str, tuple[dict[str, Any], type[PlanError]]] = {
    "changed graph": ({"onnx": SOURCE.onnx + b" "}, PlanStaleError),
    "changed weights": ({"files": dict.fromkeys(SOURCE.files, b"")}, PlanStaleError),
    "no weights": ({"files": {}}, PlanStaleError),
    "another precision": ({"onnx": b"x", "precision": "fp16"}, PlanMissingError),
    "another lowering": ({"onnx": b"x", "attention": "fold"}, PlanMissingError),
    "another graph": ({"onnx": b"x", "name": "clip_head"}, PlanMissingError),
    "another bundle": ({"onnx": b"x", "origin": "/bundles/other"}, PlanMissingError),
}


@pytest.mark.parametrize(("changes", "kind"), OTHERS.values(), ids=OTHERS)
def test_plans_of_other_graphs(
    changes: dict[str, Any], kind: type[PlanError], figures: Figures
) -> None:
    stored()
    refuse(kind, sample_source(**changes))
    figures.add(STALE, count=1, found=REBUILD)


def test_the_bytes_given_are_those_that_were_hashed(
    monkeypatch: pytest.MonkeyPatch, figures: Figures
) -> None:
    """The file is replaced right after it was read."""
    plan, read = stored(), store.read_own

    def read_and_exchange(path: Path, limit: int) -> bytes:
        data = read(path, limit)
        if path == plan.path:
            path.write_bytes(b"evil" * 1000)
        return data

    monkeypatch.setattr(store, "read_own", read_and_exchange)
    assert find_plan(SOURCE, HOST).data == PLAN
    monkeypatch.undo()
    with pytest.raises(PlanDamagedError):
        read_plan(plan)
    figures.add("TensorRT: plan exchanged after it was hashed", count=1, found="the hashed bytes")


LINKS: dict[str, Callable[[Path, Path], Any]] = {
    "symbolic": lambda path, outside: (path.rename(outside), path.symlink_to(outside)),
    "dangling": lambda path, outside: (path.unlink(), path.symlink_to(outside)),
    "to itself": lambda path, outside: (path.unlink(), path.symlink_to(path.name)),
    "folder": lambda path, outside: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("change", LINKS.values(), ids=LINKS)
@pytest.mark.parametrize("which", ["plan", "sidecar"])
def test_links_and_folders_are_refused(
    change: Callable[[Path, Path], Any], which: str, cache: Path, figures: Figures
) -> None:
    plan = stored()
    path = plan.path if which == "plan" else sidecar_path(plan.path)
    change(path, cache.parent / "outside")
    with record_side_effects() as effects, pytest.raises(PlanDamagedError):
        find_plan(SOURCE, HOST)
    assert effects.done == []
    figures.add("TensorRT: links and folders in the place of files", count=1, found="refused")
