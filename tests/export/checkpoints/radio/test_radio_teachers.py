from __future__ import annotations

import argparse
from typing import Any

import pytest
from made_radio import TEACHERS, arguments

from samclip.errors import CheckpointError
from samclip.export.checkpoints.pickles import Arguments
from samclip.export.checkpoints.radio.radio_teachers import Teachers, read_teachers


def read(**changes: Any) -> Teachers:
    return read_teachers(vars(arguments(**changes)), "w.pth.tar")


def test_a_v3() -> None:
    found = read()
    assert [(each.name, each.slot) for each in found.all] == [
        ("clip", 0),
        ("siglip2", 1),
        ("dino_v2", 2),
        ("sam", 3),
    ]
    assert (found.cls_tokens, found.registers) == (4, 4)
    assert [each.name for each in found.all if each.has_text] == ["clip", "siglip2"]
    assert [each.name for each in found.all if each.is_sam] == ["sam"]
    assert {(each.summary, each.spatial) for each in found.all} == {("v2", "v2")}


def test_a_v4_with_its_own_order_slots_and_forms() -> None:
    teachers = [
        Arguments({"name": "sam3", "type": "sam3", "use_summary": False, "token_slot": 2}),
        {"name": "siglip2-g", "type": "siglip2", "token_slot": 0, "spatial_mlp_version": "attn"},
        {"name": "dino_v3_7b", "type": "dino_v3", "token_slot": 1, "mlp_version": "v1"},
        {"name": "siglip2-g", "type": "siglip2", "token_slot": 1, "input_size": 512},
    ]
    found = read(teachers=teachers, register_multiple=10, spatial_mlp_version="v2")
    sam3, siglip, dino = found.all
    assert (found.cls_tokens, found.registers) == (3, 7)
    assert (siglip.slot, siglip.index, siglip.summary, siglip.spatial) == (0, 1, "v2", "attn")
    assert (dino.summary, dino.spatial) == ("v1", "v2")
    assert not sam3.is_sam
    assert not sam3.has_text


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({"cls_token_per_teacher": False}, (1, 7)),
        ({"cls_token_per_teacher": None}, (1, 7)),
        ({"cpe_num_registers": 5}, (4, 5)),
        ({"cpe_num_registers": 0}, (4, 0)),
        ({"register_multiple": 4}, (4, 4)),
        ({"register_multiple": None}, (4, 0)),
    ],
)
def test_tokens(changes: dict[str, Any], tokens: tuple[int, int]) -> None:
    found = read(**changes)
    assert (found.cls_tokens, found.registers) == tokens
    if tokens[0] == 1:
        assert {each.slot for each in found.all} == {0}


def test_a_teacher_without_a_type_is_known_by_its_name() -> None:
    names = ("siglip2-g", "clip", "sam", "sam3", "dino_v2")
    found = read(teachers=[{"name": name} for name in names])
    assert [each.kind for each in found.all] == ["siglip2", "clip", "sam", "sam3", "dino_v2"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teachers": None}, "list no teachers"),
        ({"teachers": []}, "list no teachers"),
        ({"teachers": "clip"}, "list no teachers"),
        ({"teachers": ["clip"]}, "not a dictionary"),
        ({"teachers": [{"type": "sam"}]}, "without a name"),
        ({"teachers": [*TEACHERS, {"name": "x", "token_slot": 9}]}, "token 9, of 5"),
        ({"teachers": [{"name": "x", "token_slot": "a"}]}, "token_slot='a'"),
        ({"mlp_version": "v7"}, "mlp_version='v7', expected one of v1, v2, attn"),
        ({"model_norm": True}, "model_norm"),
        ({"register_multiple": argparse.Namespace()}, "register_multiple=Namespace"),
    ],
)
def test_what_is_not_understood_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        read(**changes)
