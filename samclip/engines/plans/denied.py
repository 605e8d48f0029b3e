"""Builds that are known to give wrong plans: they are passed over, so that no time is lost on them.

Each rule has its public report. The list saves time and replaces nothing: what is not on it is
judged like everything else, and what is on it may still be built without the gate.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from samclip.engines.backend_names import TENSORRT
from samclip.engines.plans.library import Library
from samclip.engines.plans.request import BuildRequest

# The forms of attention that TensorRT computes in one kernel.
ONE_KERNEL = ("fused", "bias")
NUMBERS = re.compile(r"[0-9]+")


@dataclass(frozen=True)
class Rule:
    """Versions of TensorRT, `first` to `last`, that build a wrong plan of attention in one kernel.

    A `last` of "10.3" includes all of 10.3. `capabilities`: () for every GPU.
    """

    first: str
    last: str
    precisions: tuple[str, ...]
    capabilities: tuple[str, ...]
    source: str

    def covers(self, version: str, capability: str, precision: str) -> bool:
        """Whether the rule is about such a build."""
        here, first, last = map(_numbers, (version, self.first, self.last))
        return (
            first <= here
            and here[: len(last)] <= last
            and precision in self.precisions
            and (not self.capabilities or capability in self.capabilities)
        )


RULES = (
    Rule("10.0", "10.16.1", ("fp16", "bf16"), ("12.0",), "NVIDIA/TensorRT issue 4837"),
    Rule("10.3", "10.3", ("fp16",), (), "NVIDIA/TensorRT issue 4723"),
    Rule("10.4", "10.4", ("fp32",), (), "NVIDIA/TensorRT issue 4742"),
    Rule("10.13.3.9", "10.13.3.9", ("fp16", "bf16"), ("11.0",), "TensorRT-Edge-LLM issue 151"),
)


def why_denied(request: BuildRequest, library: Library) -> str | None:
    """Return why a build is passed over; None for one that may be tried."""
    source = request.source
    is_one_kernel = source.attention in ONE_KERNEL and request.attention_kernels == "any"
    if library.name != TENSORRT or not is_one_kernel or not request.gate:
        return None
    for rule in RULES:
        for capability in request.capabilities:
            if rule.covers(library.version, capability, source.precision):
                return (
                    f"{library.name} {library.version} is known to compute attention in one kernel "
                    f"wrongly in {source.precision} on compute capability {capability} "
                    f"({rule.source})"
                )
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in NUMBERS.findall(version))
