"""Figures of the server in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The counters and gauges of one server; a separate registry, so that two do not mix."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "samclip_requests", "Requests answered.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "samclip_request_seconds",
            "From the header of a request to the end of its answer.",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self.stages = Histogram(
            "samclip_stage_seconds",
            "Decoding, encoder passes and heads, by stage.",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.joined = Histogram(
            "samclip_joined_questions",
            "Questions about one scene that were answered together.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Show what `read` returns whenever the figures are asked for."""
        Gauge(name, text, registry=self._registry).set_function(read)

    def observe_stages(self, milliseconds: dict[str, float]) -> None:
        """Count the stages of an answer, see `Scene.timings`."""
        for stage, took in milliseconds.items():
            self.stages.labels(stage).observe(took / 1e3)

    def text(self) -> bytes:
        """Return all figures."""
        return bytes(generate_latest(self._registry))
