"""Records of memory."""

from __future__ import annotations

from samclip.benchmarks.record import Record


class MemoryUse(Record, frozen=True, kw_only=True):
    """The memory of a fresh process that went as far as one stage, and no further.

    `model`: the subject's name. `stage`: what the process had done when it was measured; each
    stage includes those before it, the first being Python with samclip imported. `peaks`: the
    highest resident set of each process that was started for it, bytes. `device_memory`: bytes of
    the GPU that the process held at the end; None with the `device_reason`. `disk`: bytes of the
    bundle's files that were read up to this stage; None where it reads none.
    """

    model: str
    stage: str
    peaks: tuple[int, ...]
    device_memory: int | None = None
    device_reason: str | None = None
    disk: int | None = None

    @property
    def peak_rss(self) -> int:
        """The highest of the peaks, bytes."""
        return max(self.peaks)
