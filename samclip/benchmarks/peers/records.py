"""Records of peers in a report."""

from __future__ import annotations

import msgspec

from samclip.benchmarks.record import Record


class PeerRecord(Record, frozen=True, kw_only=True):
    """A peer, or a bundle beside them: where it ran and with what, or why it did not.

    `image_size`: the side of its input in pixels. `python` and `packages`: versions of its
    environment, empty where it was never made. `load_seconds`: to load the model, and to make it
    ready as far as its library does that then. `reason`: why there are no figures; None where
    there are.
    """

    name: str
    what: str
    image_size: int
    python: str = ""
    packages: dict[str, str] = msgspec.field(default_factory=dict)
    load_seconds: float | None = None
    reason: str | None = None
