"""Diagnostics: levels, sentences and figures of a node's life."""

from __future__ import annotations

from typing import Any


def report(health: Any, now: float) -> tuple[int, str, dict[str, str]]:
    found = health.report(now, 19)
    return found.level, found.message, dict(found.values)


def test_levels_follow_what_happens() -> None:
    from samclip_ros.health import ERROR, OK, WARN, Health

    health = Health(silent_after=5.0)
    assert report(health, 1000.0)[:2] == (OK, "not active")
    health.activated(1000.0)
    assert report(health, 1004.0)[:2] == (OK, "0.0 frames a second")
    assert report(health, 1006.0)[:2] == (
        WARN,
        "no image came for 6 s; check the topic and its QoS",
    )
    for place in range(40):  # 4 a second for 10 seconds
        health.received(1010.0 + place / 4)
        health.answered(1010.1 + place / 4, 100.0 + place, 50.0)
    level, said, values = report(health, 1020.0)
    assert (level, said) == (OK, "4.0 frames a second")
    assert values == {
        "fps": "4.0",
        "age_ms_median": "120",
        "age_ms_max": "139",
        "work_ms_median": "50",
        "work_ms_max": "50",
        "received": "40",
        "answered": "40",
        "dropped": "19",
        "refused": "0",
        "failures": "0",
    }
    health.refused(1021.0, "mono16 is refused.")
    health.received(1021.0)
    level, said, values = report(health, 1022.0)
    assert (level, said) == (WARN, "images are left out: mono16 is refused.")
    assert values["refused"] == "1"
    health.failed("the GPU is gone")
    assert report(health, 1022.5)[:2] == (ERROR, "failed, and begins again: the GPU is gone")
    health.answered(1023.0, 1.0, 1.0)
    health.received(1031.0)
    assert report(health, 1032.0)[0] == OK  # the refusal is long ago
    health.deactivated()
    level, said, values = report(health, 1033.0)
    assert (level, said, values["fps"], values["age_ms_max"]) == (OK, "not active", "0.0", "")
