"""Sidecars: what is written is read, and whatever else is refused."""

from __future__ import annotations

import json

import msgspec
import pytest
from plan_samples import sample_sidecar

from samclip.engines.plans.sidecar import (
    DEFAULT_AXES,
    AxisRange,
    decode_sidecar,
    encode_sidecar,
    parse_axis,
)
from samclip.engines.steps import BuildPlans, RemovePlan
from samclip.errors import InputError, PlanDamagedError


def test_a_written_sidecar_is_read() -> None:
    sidecar = sample_sidecar(axes=dict(DEFAULT_AXES), seconds=1)  # no float, where one belongs
    read = decode_sidecar(encode_sidecar(sidecar), "x")
    assert msgspec.structs.replace(read, digest="") == sidecar


def test_no_flipped_bit_goes_unnoticed() -> None:
    data = encode_sidecar(sample_sidecar())
    original = decode_sidecar(data, "x")
    for place in range(len(data)):
        flipped = data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]
        try:
            assert decode_sidecar(flipped, "x") == original  # between the values
        except PlanDamagedError:
            continue


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 1},
        {"library": "another"},
        {"unknown": 1},
        {"plan": {"size": -1, "sha256": "0" * 64}},
        {"target": {"capabilities": [], "system": "x"}},
    ],
)
def test_records_that_are_not_sidecars_are_refused(change: dict[str, object]) -> None:
    record = json.loads(encode_sidecar(sample_sidecar()))
    with pytest.raises(PlanDamagedError, match=r"x\.json is not a sidecar of schema 2"):
        decode_sidecar(json.dumps({**record, **change}).encode(), "x.json")


@pytest.mark.parametrize("data", [b"", b"\xff" * 9, b"[" * 100_000, b" " * 2_000_000])
def test_rubbish_is_refused(data: bytes) -> None:
    with pytest.raises(PlanDamagedError, match="Remove it and build the plan again") as caught:
        decode_sidecar(data, "x")
    assert caught.value.steps == (RemovePlan(), BuildPlans())


def test_a_changed_value_is_found_by_the_digest() -> None:
    changed = encode_sidecar(sample_sidecar()).replace(b'"10.3.0"', b'"10.4.0"')
    with pytest.raises(PlanDamagedError, match="its bytes changed"):
        decode_sidecar(changed, "x")


def test_axes_are_read() -> None:
    assert parse_axis("1,4, 16") == AxisRange(least=1, best=4, most=16)
    assert parse_axis("3") == AxisRange(least=3, best=3, most=3)
    assert parse_axis(str(DEFAULT_AXES["points"])) == DEFAULT_AXES["points"]


@pytest.mark.parametrize("text", ["", "1,2", "4,1,16", "a,b,c", "-1,2,3", "0", "1,2,99999999999"])
def test_axes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_axis(text)
