from __future__ import annotations

from pathlib import Path

import pytest
from timed_fakes import contender

from samclip.benchmarks.latency.contenders import (
    Variant,
    describe_conditions,
    describe_settings,
    open_variant,
)
from samclip.benchmarks.latency.timed import TimedBackend
from samclip.benchmarks.measurements import Timing
from samclip.engines.machine.kernel_files import MachineFiles
from samclip.errors import InputError, SignatureError

# Of a pair that was made for this test and signs nothing.
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl x\n"


def write(root: Path, **files: str) -> MachineFiles:
    policy = root / "sys/devices/system/cpu/cpufreq/policy0"
    policy.mkdir(parents=True)
    for name, text in files.items():
        (policy / name).write_text(text)
    return MachineFiles(root)


def test_clocks_are_in_hertz_and_the_governor_stands_in_for_a_power_mode(tmp_path: Path) -> None:
    files = write(
        tmp_path, scaling_governor="schedutil\n", scaling_min_freq="800000", scaling_max_freq="2e"
    )
    assert describe_conditions("x", files).clocks == ()
    (tmp_path / "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq").write_text("2400000")
    found = describe_conditions("x", files)
    assert found.power_mode == "schedutil"
    assert [(clock.lowest, clock.highest) for clock in found.clocks] == [(0.8e9, 2.4e9)]
    assert found.clocks_pinned is False


def test_a_container_tells_nothing(tmp_path: Path) -> None:
    found = describe_conditions("x", MachineFiles(tmp_path))
    assert (found.power_mode, found.clocks, found.clocks_pinned) == (None, (), None)


def test_settings_count_the_rounds_that_were_kept() -> None:
    one = contender()
    timings = [Timing(model="a", kind="task", name="x", samples=(1.0, 2.0, 3.0))]
    found = describe_settings(one, 2, timings)
    assert (found.warm_up, found.repeats, found.backend) == (2, 3, "fake")
    assert found.precisions == {"encoder": "fp32"}
    assert found.cuda_graphs is None


def test_an_unknown_precision_is_a_wrong_input() -> None:
    with pytest.raises(InputError, match="there is no precision 'fp8'"):
        open_variant(Variant(precision="fp8"), None, TimedBackend)


def test_a_timed_model_is_opened_through_the_gate_of_all_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that trusts one key only measures no other bundle either."""
    key = tmp_path / "maker.pub"
    key.write_text(PUBLIC_KEY)
    monkeypatch.setenv("SAMCLIP_PUBLIC_KEY", str(key))
    with pytest.raises(SignatureError):
        open_variant(Variant(), tmp_path, TimedBackend)
