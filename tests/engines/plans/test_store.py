"""Plans on the disk: whole or absent, and only the user's own."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from plan_samples import PLAN, sample_sidecar, sample_source

from samclip.disk.partial_files import locked_partial, make_empty_file
from samclip.engines.base import GraphSource
from samclip.engines.plans.sidecar import BuildOptions
from samclip.engines.plans.store import (
    StoredPlan,
    list_plans,
    plan_folder,
    read_plan,
    remove_plan,
    sidecar_path,
    write_plan,
)
from samclip.engines.steps import BuildPlans
from samclip.errors import PlanDamagedError


def write(data: bytes = PLAN, **changes: object) -> StoredPlan:
    return write_plan(plan_folder(), data, sample_sidecar(**changes))


def only() -> StoredPlan:
    (found,) = list_plans([plan_folder()])
    return found


def test_a_plan_is_exactly_what_was_built(cache: Path) -> None:
    stored = write()
    assert stored.path.parent == cache / "engines"
    assert stored.path.read_bytes() == PLAN
    assert read_plan(only()) == PLAN
    assert only() == stored
    assert stored.path.name.startswith("encoder.fp32.tensorrt-10.3.0.sm87.")


def test_plans_of_the_same_bytes_are_kept_apart_by_what_they_are_of() -> None:
    """As those of two checkpoints are, built without their weights."""
    others = [sample_source(onnx=b"another"), sample_source(origin="/bundles/other")]
    written = [write(), *(write_of(source) for source in others)]
    written.append(write(options=BuildOptions(level=5)))
    assert len({stored.path for stored in written}) == 4
    assert {stored.path for stored in list_plans([plan_folder()])} == {x.path for x in written}
    assert write().path == written[0].path  # the same again takes its place


def write_of(source: GraphSource) -> StoredPlan:
    return write_plan(plan_folder(), PLAN, sample_sidecar(source))


def test_nothing_but_the_two_files_is_left() -> None:
    stored = write()
    assert {*plan_folder().iterdir()} == {stored.path, sidecar_path(stored.path)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "949 bytes, its sidecar says 950"),
        (lambda data: data + b"x", "more than 950 bytes"),
        (lambda data: b"", "0 bytes"),
        (lambda data: bytes([data[0] ^ 1]) + data[1:], "SHA-256"),
    ],
)
def test_changed_bytes_are_refused(change, message: str) -> None:
    stored = write()
    stored.path.write_bytes(change(PLAN))
    with pytest.raises(PlanDamagedError, match=message) as caught:
        read_plan(only())
    assert "Build it again" in str(caught.value)
    (step,) = caught.value.steps
    assert isinstance(step, BuildPlans)
    assert (step.origin, step.backend, step.force) == ("/bundles/some bundle", "tensorrt", True)


def test_a_link_is_refused(tmp_path: Path) -> None:
    stored = write()
    elsewhere = tmp_path / "elsewhere"
    stored.path.rename(elsewhere)
    stored.path.symlink_to(elsewhere)
    with pytest.raises(PlanDamagedError, match="cannot be read"):
        read_plan(stored)


def test_a_plan_that_everybody_may_write_is_refused() -> None:
    stored = write()
    stored.path.chmod(0o666)
    with pytest.raises(PlanDamagedError, match="everybody may write"):
        read_plan(stored)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_plan_of_another_user_is_refused() -> None:
    stored = write()
    os.chown(stored.path, 12345, 12345)
    with pytest.raises(PlanDamagedError, match="another user"):
        read_plan(stored)


def test_a_fifo_does_not_block() -> None:
    stored = write()
    sidecar_path(stored.path).unlink()
    os.mkfifo(sidecar_path(stored.path))
    fault = only().fault
    assert fault is not None
    assert "not a plain file" in str(fault)


def test_a_damaged_sidecar_is_listed_with_its_fault() -> None:
    stored = write()
    sidecar_path(stored.path).write_bytes(b"{}")
    found = only()
    assert found.sidecar is None
    with pytest.raises(PlanDamagedError, match="not a sidecar"):
        read_plan(found)


def test_a_sidecar_without_its_plan_is_a_fault() -> None:
    write().path.unlink()
    fault = only().fault
    assert fault is not None
    assert "is missing, and only its sidecar is there" in str(fault)
    assert isinstance(fault.steps[0], BuildPlans)


def test_a_plan_without_sidecar_is_being_written_until_it_is_old() -> None:
    stored = write()
    sidecar_path(stored.path).unlink()
    assert list_plans([plan_folder()]) == []
    os.utime(stored.path, (0, 0))
    assert "has no sidecar" in str(only().fault)


def test_remains_of_a_killed_writer_are_removed() -> None:
    plan_folder().mkdir(parents=True)
    left = plan_folder() / f".a.plan.{'0' * 16}.partial"
    without_sidecar, of_others = (plan_folder() / f"{n}.plan" for n in (f"a.{'0' * 12}", "mine"))
    for path in (left, without_sidecar, of_others):
        path.write_bytes(b"half")
    with locked_partial(plan_folder() / "b.plan", make_empty_file()) as at_work:
        write()
        assert at_work.exists()
    assert not left.exists()
    assert not without_sidecar.exists()
    assert of_others.exists()
    assert only().sidecar is not None


def test_a_plan_whose_sidecar_is_on_its_way_stays() -> None:
    path = plan_folder() / f"a.{'0' * 12}.plan"
    path.parent.mkdir(parents=True)
    with locked_partial(path, make_empty_file()) as partial:
        partial.replace(path)
        write()
        assert path.exists()


def test_two_writers_of_one_plan_leave_a_sound_one() -> None:
    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_plan(only()) == PLAN


def test_newest_first_and_removed_by_path() -> None:
    old = write(b"old", built="2025-01-01T00:00:00+00:00")
    new = write(b"new", built="2026-01-01T00:00:00+00:00")
    assert [plan.path for plan in list_plans([plan_folder()])] == [new.path, old.path]
    remove_plan(new.path)
    remove_plan(new.path)  # twice does nothing
    assert only() == old


def test_a_folder_that_is_not_there_holds_no_plans(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    assert list_plans([tmp_path / "none", file]) == []
