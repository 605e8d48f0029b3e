"""Contenders: exported files are made once, by a separate process."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from samclip.runtime.assets import DEFAULT_BUNDLE
from tools.peers import contenders
from tools.peers.catalogue import Peer, PeerExport
from tools.peers.contenders import PeerPlan, bundle_contenders, peer_contender
from tools.peers.environments import Environment
from tools.peers.worker_process import Loaded, Ran

NOWHERE = Environment("nowhere", ())
WORKER = """
from pathlib import Path
def export(setup):
    with (Path(setup.folder) / "file").open("a") as file:
        file.write(f"{setup.image_size} {setup.checkpoint} ")
def load(setup):
    setup.facts["file"] = (Path(setup.folder) / "file").read_text()
    setup.facts["options"] = str(setup.options)
"""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PeerPlan:
    monkeypatch.setattr(contenders, "prepare_environment", lambda *_: Path(sys.executable))
    return PeerPlan(image_size=64, threads=1, folder=tmp_path / "peers", scratch=tmp_path)


def facts(peer: Peer, plan: PeerPlan, told: list[str]) -> dict[str, str]:
    process, request = peer_contender(peer, plan).start(told.append)
    with process:
        return process.ask(request, Loaded).facts


def test_an_export_is_made_once_for_each_size_and_checkpoint(
    plan: PeerPlan, tmp_path: Path
) -> None:
    file, checkpoint, told = tmp_path / "worker.py", tmp_path / "sam.pth", list[str]()
    file.write_text(WORKER)
    checkpoint.write_text("weights")
    export = PeerExport("made", NOWHERE, file)
    peer = Peer("p", "a peer", NOWHERE, file, {"compile": True}, export, takes_checkpoint=True)
    assert facts(peer, plan, told) == {"file": "64 None ", "options": "{'compile': True}"}
    assert facts(peer, plan, told)["file"] == "64 None "
    assert len(told) == 1
    other = replace(plan, image_size=32, checkpoint=checkpoint)
    assert facts(peer, other, told)["file"] == f"32 {checkpoint} "
    assert len(list((plan.folder / "exports").glob("made-*"))) == 2


def test_bundles_are_named_apart(plan: PeerPlan) -> None:
    names = [one.name for one in bundle_contenders([None, None], ["onnxruntime"], "fp32", plan)]
    assert names == [DEFAULT_BUNDLE, f"{DEFAULT_BUNDLE} #2"]
    names = [one.name for one in bundle_contenders([None], ["auto", "openvino"], "fp32", plan)]
    assert names == [f"{DEFAULT_BUNDLE} auto", f"{DEFAULT_BUNDLE} openvino"]


@pytest.mark.slow
def test_the_shipped_bundle_runs_as_a_worker(plan: PeerPlan) -> None:
    from samclip.runtime.assets import packaged_photos

    photo = sorted(packaged_photos().glob("*.jpg"))[0]
    (contender,) = bundle_contenders([None], ["onnxruntime"], "fp32", plan)
    process, request = contender.start(print)
    with process:
        loaded = process.ask(request, Loaded)
        ran = process.ask({"do": "run", "photo": str(photo)}, Ran)
    assert loaded.facts == {"backend": "onnxruntime", "precision": "fp32"}
    assert list(ran.stages) == [
        *("prepare", "encoder", "segment a point"),
        *("classify 20 names", "semantic coarse, 20 names"),
    ]
    assert all(seconds > 0 for seconds in ran.stages.values())
