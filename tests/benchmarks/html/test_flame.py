"""The flame graph: frames are as wide as their time, lie in those above, and say what they are."""

from __future__ import annotations

from xml.etree.ElementTree import Element

import msgspec
import pytest
from made_profiles import made_node, made_profile

from samclip.benchmarks.html.flame import ROW, WIDTH, flame, operator_colours
from samclip.benchmarks.profiling.stacks import build_frames

COLOURS = {"Gemm": "var(--c0)", "FusedGemm": "var(--c1)", "Softmax": "var(--c2)"}


@pytest.fixture(scope="module")
def drawing() -> Element:
    return flame(build_frames(made_profile()), COLOURS, "made")


def titles(drawing: Element) -> dict[str, Element]:
    """Return the rectangles by what their titles begin with."""
    found = {}
    for group in drawing.findall("g"):
        title, rect = group.find("title"), group.find("rect")
        assert title is not None
        assert rect is not None
        found[str(title.text).partition(":")[0]] = rect
    return found


def span(rect: Element) -> tuple[float, float]:
    left = float(rect.attrib["x"])
    return left, left + float(rect.attrib["width"])


def test_frames_are_as_wide_as_their_time(drawing: Element) -> None:
    frames = titles(drawing)
    assert span(frames["encoder"]) == (0, WIDTH)
    assert drawing.attrib["viewBox"] == f"0 0 {WIDTH:.0f} {6 * ROW:.0f}"
    total = 500 + 100 + 110 + 300 + 20 + 50
    qkv = frames["encoder > blocks.0 > attn > qkv > Gemm > qkv"]
    assert float(qkv.attrib["width"]) == pytest.approx(WIDTH * 500 / total, abs=0.01)
    assert qkv.attrib["fill"] == "var(--c0)"
    assert frames["encoder > blocks.0"].attrib["fill"] == "var(--line)"


def test_frames_lie_in_the_frame_above(drawing: Element) -> None:
    frames = titles(drawing)
    for path, rect in frames.items():
        above = path.rpartition(" > ")[0]
        if above:
            (left, right), (outer_left, outer_right) = span(rect), span(frames[above])
            assert outer_left - 0.02 <= left <= right <= outer_right + 0.02  # two digits are kept
            assert float(rect.attrib["y"]) == float(frames[above].attrib["y"]) + ROW


def test_titles_have_the_time_and_the_share(drawing: Element) -> None:
    texts = [str(group.findtext("title")) for group in drawing.findall("g")]
    assert "encoder > blocks.0 > attn: 0.710 ms, 66 % (module)" in texts
    assert "encoder > between nodes: 0.0500 ms, 4.6 % (no node)" in texts


def test_names_are_cut_to_their_frames_and_dust_is_left_out() -> None:
    dust = made_node("dust", "Shape", "", 0.01, 0.01, 0.01)
    profile = made_profile()
    some = msgspec.structs.replace(profile, nodes=(*profile.nodes, dust))
    drawing = flame(build_frames(some), {}, "made")
    assert not any("dust" in path for path in titles(drawing))
    for group in drawing.findall("g"):
        text, rect = group.findtext("text"), group.find("rect")
        assert rect is not None
        if text is not None:
            assert len(text) * 6 <= float(rect.attrib["width"])


def test_a_graph_that_took_no_time_is_a_bar() -> None:
    nothing = msgspec.structs.replace(
        made_profile(), nodes=(made_node("a", "Shape", "", 0.0, 0.0, 0.0),), between=(0.0,) * 3
    )
    assert span(titles(flame(build_frames(nothing), {}, "made"))["encoder"]) == (0, WIDTH)


def test_the_slowest_operators_have_a_colour_of_their_own() -> None:
    found = operator_colours(tuple(f"op{place}" for place in range(12)))
    assert len(set(found.values())) == 11
    assert found["op10"] == found["op11"] == "var(--rest)"
