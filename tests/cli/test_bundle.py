"""`samclip info` on a real bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cli_fakes import Run

from samclip.runtime.bundles.manifest import MANIFEST_NAME


def test_json_holds_the_manifest_and_sizes(run: Run, mobile_sam_bundle: Path) -> None:
    result = run("info", mobile_sam_bundle, "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["manifest"] == json.loads((mobile_sam_bundle / MANIFEST_NAME).read_text())
    assert report["bytes"] == sum(f["size"] for f in report["manifest"]["files"].values())
    assert report["verified"] is False
    assert report["path"] == str(mobile_sam_bundle.resolve())


def test_people_see_every_part(run: Run, mobile_sam_bundle: Path) -> None:
    result = run("info", mobile_sam_bundle)
    assert result.exit_code == 0
    manifest = json.loads((mobile_sam_bundle / MANIFEST_NAME).read_text())
    text = result.stdout
    assert manifest["model_type"] in text
    assert "encoder" in text
    assert "iou_predictions" in text
    assert "mobile_sam.pt" in text
    assert all(Path(name).name[:12] in text for name in manifest["files"])
    assert "UNTRAINED" in result.stderr


def test_verify_passes_on_a_sound_bundle(run: Run, mobile_sam_bundle: Path) -> None:
    result = run("info", mobile_sam_bundle, "--verify", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["verified"] is True


def test_verify_finds_one_flipped_bit(run: Run, mobile_sam_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(mobile_sam_bundle, copy)
    victim = max(copy.rglob("*.onnx"), key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    assert run("info", copy).exit_code == 0
    result = run("info", copy, "--verify")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert victim.name in result.stderr


@pytest.mark.parametrize("name", ["nowhere", "no/where"])
def test_unknown_bundle_is_bad_input(name: str, run: Run, tmp_path: Path) -> None:
    result = run("info", name)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "there is no bundle" in result.stderr
