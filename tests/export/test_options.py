"""Parsing the storage of weights, for all graphs and for single ones."""

from __future__ import annotations

import pytest

from samclip.engines.registry import backends
from samclip.errors import ExportError
from samclip.export.options import EXPORT_BACKENDS, WeightsDtypes, parse_weights_dtypes


def test_a_storage_is_for_all_graphs_or_for_one() -> None:
    given = parse_weights_dtypes(["text_encoder=int8", "fp16", "mask_decoder=fp32"])
    graphs = ("encoder", "mask_decoder", "clip_head", "text_encoder")
    assert [given.of(graph) for graph in graphs] == ["fp16", "fp32", "fp16", "int8"]


@pytest.mark.parametrize("nothing", [None, []])
def test_without_a_word_it_is_fp32(nothing: list[str] | None) -> None:
    assert parse_weights_dtypes(nothing) == WeightsDtypes()
    assert WeightsDtypes().of("encoder") == "fp32"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("fp8", "'fp8'; use one of fp32, fp16, int8"),
        ("encoder=", "''; use one of"),
        ("=int8", "no graph ''"),
        ("text_encodr=int8", r"did you mean 'text_encoder'\?"),
    ],
)
def test_mistakes_name_what_there_is(item: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        parse_weights_dtypes([item])


def test_graphs_are_written_for_every_backend() -> None:
    assert sorted(b.name for b in EXPORT_BACKENDS) == sorted(b.name for b in backends())
