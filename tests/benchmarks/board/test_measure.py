"""Records of boards: what is measured on which machine, and what never gets into the file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from machine_trees import ORIN_NANO, ORIN_NANO_STATE, X86, write_tree
from plan_samples import sample_sidecar
from timed_fakes import region_contender, timed_model

from samclip.benchmarks.board import measure as board
from samclip.benchmarks.board.measure import make_record, make_stages, measure_board
from samclip.benchmarks.board.privacy import NETWORKS, SERIALS, find_private
from samclip.benchmarks.board.record import BoardRecord
from samclip.benchmarks.board.show import record_tables
from samclip.benchmarks.board.signing import sign_record, unsigned
from samclip.benchmarks.latency import energy
from samclip.benchmarks.latency.contenders import Contender, Variant
from samclip.benchmarks.latency.photo_pipeline import NO_MAP
from samclip.benchmarks.latency.rounds import Schedule, measure_warm
from samclip.benchmarks.measurements import Energy
from samclip.engines.plans.gate.verdict import GateRow, Verdict
from samclip.engines.plans.library import DriverState, PlanGpu
from samclip.engines.plans.store import StoredPlan
from samclip.errors import BackendUnavailableError
from samclip.progress import SILENT
from samclip.runtime.bundles.signature import make_private_key

pytest.importorskip("cryptography")

JETSON = {**ORIN_NANO, **ORIN_NANO_STATE}
SCHEDULE = Schedule(cold=0, warm_up=1, repeats=3)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, photo_path: Path) -> Iterator[Any]:
    """Make the record of a fake model on a machine of these files; its meter counts a joule."""
    monkeypatch.setattr(energy, "SECONDS", 0.02)
    monkeypatch.setattr(board, "LOOP", 3)
    readings = iter(range(1000))

    @contextmanager
    def sensor(on_host: bool) -> Iterator[Any]:
        yield SimpleNamespace(name="meter", joules=lambda: float(next(readings)))

    monkeypatch.setattr(energy, "open_sensor", sensor)
    (tmp_path / "manifest.json").write_text("{}")

    def measure(
        tree: Mapping[str, str], name: str = "fake", backend_name: str = "fake"
    ) -> BoardRecord:
        files = write_tree(tmp_path / "root", tree)
        model, backend = timed_model(path=tmp_path)
        backend.inner.name = backend_name  # type: ignore[misc]
        contender = Contender(name, Variant("fake"), model, backend)
        measured = measure_board(
            contender, [photo_path], SCHEDULE, SILENT, memory=False, files=files
        )
        key = make_private_key()
        return make_record(
            contender,
            measured,
            SCHEDULE,
            1,
            command="samclip-bench board fake",
            seconds=1.23,
            idle_memory=5,
            signature=unsigned(key, own=False),
            files=files,
        )

    yield measure


def test_a_jetson_has_its_release_power_heat_and_energy(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_copies(*_: Any) -> Any:
        raise BackendUnavailableError("neither cuda-python nor pycuda is installed")

    gpu = PlanGpu("Orin", "8.7", "12.6", 8 * 10**9, 8, True)
    monkeypatch.setattr(board, "measure_transfers", no_copies)
    monkeypatch.setattr(board, "examine_gpu", lambda: DriverState(gpu, "540.4", ""))
    record = make(JETSON)
    assert record.jetpack is not None
    assert (record.jetpack.l4t, record.jetpack.tensorrt) == ("36.4.3", "10.3.0.30")
    assert record.gpu is not None
    assert (record.gpu.shares_memory, record.gpu.processors) == (True, 8)
    power = record.power
    assert (power.mode, power.mode_number, power.fastest_mode) == ("15W", 0, "MAXN_SUPER")
    assert power.clocks_pinned is False
    assert record.before.clocks == {"policy0": 1113.6e6, "17000000.gpu": 408e6}
    assert record.before.clock_limits == {"policy0": 1497.6e6, "17000000.gpu": 612e6}
    assert record.during.readings >= 1
    assert record.during.rails is not None
    assert record.during.rails["VDD_IN"].mean == 5.0
    assert record.throttled == ("devfreq-17000000.gpu: state 1",)  # no further event
    assert record.h2d_reason == "neither cuda-python nor pycuda is installed"
    assert record.joules_per_image == 1 / record.energy.runs
    assert record.watts == pytest.approx(1 / record.energy.seconds)
    figures = {stage.stage: stage.ms for stage in record.stages}
    assert figures["h2d"] is figures["name_regions"] is None
    parts = [figures[name].mean for name in figures if figures[name] and name != "whole"]
    assert sum(parts) == pytest.approx(figures["whole"].mean, rel=1e-6)
    assert figures["whole"].n == SCHEDULE.repeats
    noise = record.noise
    assert noise.drift == pytest.approx(noise.second.median / noise.first.median)
    texts = [cell for table in record_tables(record) for row in table.texts() for cell in row]
    assert "6.2 (L4T 36.4.3)" in texts
    assert any(text.startswith("15W (fastest: MAXN_SUPER)") for text in texts)


def test_what_a_machine_does_not_have_is_null(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "measure_transfers", lambda *_: [])
    monkeypatch.setattr(board, "examine_gpu", lambda: DriverState(None, None, "no driver"))
    none = Energy(model="fake", name="x", joules=None, runs=0, seconds=0, reason="no sensor")
    monkeypatch.setattr(board, "measure_energy", lambda *_: (none,))
    record = make(X86)
    for name in ("jetpack", "gpu", "watts", "joules_per_image", "throttled"):
        assert getattr(record, name) is None, name
    before = record.before
    assert before.rails is before.overcurrent is before.temperatures is before.clocks is None
    assert before.gpu_slowed_by is record.during.temperatures is None
    assert record.power.mode is None
    assert record.power.clocks_pinned is False  # 800 MHz to 5 GHz
    assert before.memory == 60_000_000 * 1024
    assert list(record_tables(record))


def test_bundles_that_name_boxes_have_their_own_stages(photo_path: Path) -> None:
    timings = measure_warm([region_contender()], SCHEDULE, [photo_path], board.WORKLOAD, SILENT)
    figures = {stage.stage: stage.ms for stage in make_stages(timings, NO_MAP)}
    assert figures["name_regions"] is not None
    assert figures["fuse_names"] is not None
    assert figures["head"] is figures["semantic"] is None
    assert figures["whole"] is not None


def test_plans_come_with_their_verdicts(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    row = GateRow(output="masks", run="alone", measure="mask_iou", value=0.91, limit=0.999)
    verdict = Verdict(state="failed", reason="the masks differ", rows=(row,))
    built = msgspec.structs.replace(sample_sidecar(), gate=verdict)
    stored = [
        StoredPlan(Path("a"), 1, built),
        StoredPlan(Path("b"), 1, None),
        StoredPlan(Path("c"), 1, msgspec.structs.replace(built, library="tensorrt-rtx")),
    ]
    monkeypatch.setattr(board, "list_plans", lambda _: stored)
    monkeypatch.setattr(board, "find_variant", lambda *_: object())
    monkeypatch.setattr(board, "measure_transfers", lambda *_: [])
    record = make(JETSON, backend_name="tensorrt")
    (plan,) = record.plans
    assert (plan.gate, plan.gate_reason, plan.gate_rows) == ("failed", "the masks differ", (row,))
    assert (plan.library_version, plan.capabilities) == ("10.3.0", ("8.7",))
    texts = [cell for table in record_tables(record) for line in table.texts() for cell in line]
    assert "failed: mask_iou of masks 0.91000, limit 0.999" in texts


def test_nothing_private_is_in_the_file(
    make: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    user, host, mac = "mallory-q", "robo-lab-7.example.net", "48:b0:2d:5e:aa:01"
    home = "/home" + f"/{user}"
    monkeypatch.setenv("USER", user)
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr("platform.node", lambda: host)
    monkeypatch.setattr(board, "measure_transfers", lambda *_: [])
    serials = {name: f"142321-{place:04d}-SN" for place, name in enumerate(SERIALS)}
    tree = {
        **JETSON,
        **serials,
        "/etc/hostname": "robo-lab-7\n",
        f"{NETWORKS}/eth0/address": f"{mac}\n",
        "/proc/device-tree/model": f"NVIDIA Jetson Orin Nano of {user}\0",
        "/sys/class/thermal/thermal_zone0/type": f"zone {serials[SERIALS[0]]}",
        "/sys/class/hwmon/hwmon1/in1_label": f"VDD_IN {mac}",
    }
    other = "GPU-01234567-89ab-cdef-0123-456789abcdef"
    said = (
        f"{user}@{host} may not read {home}/My-Models/x.json of {other} ({mac}, D:\\data\\{user})"
    )
    failed = Energy(model="fake", name="x", joules=None, runs=0, seconds=0, reason=said)
    monkeypatch.setattr(board, "measure_energy", lambda *_: (failed,))
    device = board.describe_machine()
    machine = msgspec.structs.replace(
        device, jetson=tree["/proc/device-tree/model"], system=f"Linux 6-{host}", gpus=(other,)
    )
    monkeypatch.setattr(board, "describe_machine", lambda: machine)
    planted = msgspec.structs.replace(
        sample_sidecar(), gate=Verdict(state="failed", reason=f"killed: {home}/core")
    )
    monkeypatch.setattr(board, "list_plans", lambda _: [StoredPlan(Path("a"), 1, planted)])
    monkeypatch.setattr(board, "find_variant", lambda *_: object())
    record = make(tree, f"tiny of {user}", "tensorrt")
    uncleaned = sign_record(record, make_private_key()).decode()
    assert all(plant in uncleaned for plant in (user, host, mac, home, other))
    private = find_private(write_tree(tmp_path / "private", tree))
    key = f"ssh-ed25519 AAAAC3+/abc/{user}/+{host}/path=="  # base64 by chance
    looks_private = msgspec.structs.replace(record.signature, public_key=key, fingerprint=key)
    signed = msgspec.structs.replace(record, signature=looks_private)
    assert private.clean_record(signed).signature == looks_private
    cleaned = private.clean_record(record)
    text = sign_record(cleaned, make_private_key()).decode()
    for plant in (user, host, "robo-lab-7", mac, home, other, "My-Models", *serials.values()):
        assert plant not in text, plant
    assert not re.search(r"/(?:home|tmp|root|Users)\b|[A-Z]:\\\\", text)
    assert "[removed] may not read [removed] of [removed]" in text
    document = json.loads(text)
    assert document["bundle"]["name"] == "tiny of [removed]"
    assert document["jetpack"]["tensorrt"] == "10.3.0.30"  # a version is no address
    assert msgspec.convert(document, type=BoardRecord).plans[0].gate_reason == "killed: [removed]"
