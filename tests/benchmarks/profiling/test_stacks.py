"""Frames add up, and folded stacks are what flamegraph.pl and speedscope read."""

from __future__ import annotations

import re

import msgspec
import pytest
from made_profiles import made_profile

from samclip.benchmarks.profiling.operators import total_seconds
from samclip.benchmarks.profiling.stacks import Frame, build_frames, fold


def below(frame: Frame) -> list[Frame]:
    return [frame, *(one for child in frame.children.values() for one in below(child))]


def test_every_frame_is_as_long_as_its_children() -> None:
    root = build_frames(made_profile())
    assert root.depth == 6  # graph, three modules, operator, node
    assert root.seconds == pytest.approx(total_seconds(made_profile()))
    for frame in below(root):
        if frame.children:
            children = sum(child.seconds for child in frame.children.values())
            assert frame.seconds == pytest.approx(children)
    assert [frame.name for frame in root.children.values()] == [
        "blocks.0", "ReorderOutput", "between nodes"
    ]  # fmt: skip


def test_folded_stacks_are_read_back() -> None:
    """Stacks end at the last space; frames end at semicolons."""
    profiles = [made_profile(), made_profile("tiny; other\n", "head")]
    text = fold(profiles)
    lines = [re.fullmatch(r"(\S.*) (\d+)", line) for line in text.splitlines()]
    assert all(lines)
    stacks = {line[1]: int(line[2]) for line in lines if line is not None}
    assert len(stacks) == len(lines) == 2 * 6
    assert stacks["samclip;tiny;encoder;blocks.0;attn;qkv;Gemm;qkv"] == 500
    assert stacks["samclip;tiny;encoder;ReorderOutput;reorder,1"] == 20
    assert stacks["samclip;tiny, other;head;between nodes"] == 50
    # Each stack is rounded to a microsecond.
    total = sum(total_seconds(one) for one in profiles) * 1e6
    assert sum(stacks.values()) == pytest.approx(total, abs=0.5 * len(stacks))


def test_the_fastest_run_of_each_node_can_be_shown() -> None:
    best = msgspec.structs.replace(made_profile(), statistic="minimum")
    assert build_frames(best).seconds == pytest.approx((400 + 90 + 100 + 280 + 10 + 40) * 1e-6)
