"""samclip-tiny in BF16 on processors that are made for it: judged here, and close to FP32."""

from __future__ import annotations

from pathlib import Path

import pytest

import samclip
from samclip.benchmarks.accuracy.agreement import LABELS, MASKS, Side, evaluate_agreement
from samclip.engines.openvino.backend import OPENVINO
from samclip.export.precision.gate_tasks import gate_vocabulary
from samclip.runtime.assets import packaged_photos

pytest.importorskip("openvino")

# The targets of docs/evidence/cpu.md: mean IoU of masks, share of pixels with the same name.
LEAST = {MASKS: 0.995, LABELS: 0.99}


@pytest.mark.slow
def test_masks_and_label_maps_are_those_of_fp32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path))
    probe = OPENVINO.probe_precision("bf16")
    if not probe.available:
        pytest.skip(f"this processor is not made for BF16: {probe.detail}")
    with (
        samclip.load(backend="openvino") as full,
        samclip.load(backend="openvino", engine_precision="bf16") as reduced,
    ):
        assert (full.engine_precision, reduced.engine_precision) == ("fp32", "bf16")
        sides = [Side(str(n), m, gate_vocabulary(m)) for n, m in enumerate((full, reduced))]
        rows = evaluate_agreement(*sides, sorted(packaged_photos().glob("*.jpg")))
    found = {row.measure: row.value for row in rows}
    assert {measure: found[measure] for measure in LEAST if found[measure] < LEAST[measure]} == {}
    assert found[MASKS] < 1  # something was computed in BF16
