"""Tables and rows of a profile: what they add up, and what they leave out."""

from __future__ import annotations

import msgspec
import pytest
from made_profiles import made_node, made_profile

from samclip.benchmarks.profiling.operators import make_rows, nodes_table, operators_table


def test_the_table_adds_up_operators_the_slowest_first() -> None:
    table = operators_table(made_profile())
    assert [row[:3] for row in table.rows] == [
        ("Gemm", 2, pytest.approx(610e-6)),
        ("FusedGemm", 1, pytest.approx(300e-6)),
        ("Softmax", 1, pytest.approx(100e-6)),
        ("ReorderOutput", 1, pytest.approx(20e-6)),
        ("between nodes", None, pytest.approx(50e-6)),
        ("whole run", 5, pytest.approx(1070e-6)),
    ]
    texts = list(table.texts())
    assert texts[0] == ["Gemm", "2", "0.61", "56 %", "0.0025", "8.20"]
    assert texts[2][-2:] == ["-", "-"]
    assert texts[-1] == ["whole run", "5", "1.07", "-", "0.0036", "6.73"]
    assert sum(float(row[3]) for row in table.rows[:-1] if row[3]) == pytest.approx(1)
    assert table.title == "encoder of tiny, onnxruntime, fp32, median of 3 runs"


def test_operators_that_hardly_count_are_one_row() -> None:
    profile = made_profile()
    small = [made_node(f"n{place}", f"Shape{place}", "", 0.1, 0.1, 0.1) for place in range(3)]
    some = msgspec.structs.replace(profile, nodes=(*profile.nodes, *small))
    assert [row[:2] for row in operators_table(some).rows][-3] == ("3 others", 3)
    one = msgspec.structs.replace(profile, nodes=(*profile.nodes, small[0]))
    assert [row[0] for row in operators_table(one).rows][-3] == "Shape0"


def test_the_slowest_nodes_say_where_they_are() -> None:
    rows = list(nodes_table(made_profile(), 2).texts())
    assert rows[0][:4] == ["qkv", "Gemm", "blocks.0.attn.qkv", "1x8 -> 1x8"]
    assert [row[0] for row in rows] == ["qkv", "fused fc1"]


def test_rows_are_of_runs_and_can_be_compared() -> None:
    rows = {row.measure: row for row in make_rows([made_profile()])}
    gemm = rows["operator Gemm"]
    assert gemm.value == pytest.approx(610e-6)
    assert gemm.low is not None
    assert gemm.low < 610e-6
    assert (gemm.subset, gemm.unit, gemm.n, gemm.detail) == ("encoder", "seconds", 3, True)
    assert {"between nodes", "whole run"} < set(rows)
    best = msgspec.structs.replace(made_profile(), statistic="minimum")
    (least,) = [row for row in make_rows([best]) if row.measure == "operator Gemm"]
    assert (least.value, least.low) == (pytest.approx(500e-6), None)
