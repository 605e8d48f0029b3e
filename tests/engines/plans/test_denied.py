"""Builds that are known to be wrong: which they are, and that they are passed over."""

from __future__ import annotations

from dataclasses import replace

import pytest
from plan_samples import ORIN, RTX_3090, fake_library, sample_source
from recorded_progress import RecordedProgress
from recorded_tensorrt import Script

from samclip.engines.plans.build import build_plan
from samclip.engines.plans.denied import why_denied
from samclip.engines.plans.request import BuildRequest

HALF = sample_source(precision="fp16", attention="bias")


@pytest.mark.parametrize(
    ("version", "capability", "precision", "issue"),
    [
        ("10.3.0.30", "8.7", "fp16", "4723"),
        ("10.3.0", "8.6", "fp16", "4723"),
        ("10.3.0.30", "8.7", "fp32", None),
        ("10.4.0", "8.6", "fp32", "4742"),
        ("10.5.0", "8.6", "fp32", None),
        ("10.16.1.11", "12.0", "bf16", "4837"),
        ("10.16.2", "12.0", "bf16", None),
        ("11.0.0", "12.0", "fp16", None),
        ("10.14.1", "8.9", "fp16", None),
        ("10.13.3.9", "11.0", "fp16", "151"),
        ("10.13.3.10", "11.0", "fp16", None),
    ],
)
def test_the_rules(version: str, capability: str, precision: str, issue: str | None) -> None:
    library = replace(fake_library(Script(), gpu=RTX_3090), version=version)
    request = BuildRequest(replace(HALF, precision=precision), (capability,))
    reason = why_denied(request, library)
    assert (reason is None) == (issue is None)
    if reason is not None:
        assert reason.endswith(f"issue {issue})")
        assert why_denied(replace(request, attention_kernels="split"), library) is None
        assert why_denied(replace(request, gate=False), library) is None
        assert (
            why_denied(replace(request, source=replace(HALF, attention="chunk")), library) is None
        )


def test_a_build_that_is_denied_is_not_begun() -> None:
    script = Script(layers=(("MATRIX_MULTIPLY", "HALF"), ("SOFTMAX", "HALF")))
    progress = RecordedProgress()
    built = build_plan(BuildRequest(HALF, ("8.7",)), fake_library(script, gpu=ORIN), progress)
    assert len(script.named("build")) == 1
    assert len(script.named("mark_output")) == 1
    assert built.stored.sidecar is not None
    assert built.stored.sidecar.asked is not None
    assert built.stored.sidecar.asked.how == "attention in several kernels"
    assert "is not built as asked: tensorrt 10.3.0 is known" in progress.notes[0]
