from __future__ import annotations

import pytest
from reference_open_clip import reference_templates

from samclip.errors import VocabularyError, did_you_mean
from samclip.runtime.text import templates
from samclip.runtime.text.templates import TEMPLATE_SETS, fill, resolve_templates


@pytest.mark.parametrize(
    ("name", "count"), [("OPENAI_IMAGENET_TEMPLATES", 80), ("SIMPLE_IMAGENET_TEMPLATES", 7)]
)
def test_sets_equal_open_clip(name: str, count: int) -> None:
    ours = getattr(templates, name)
    assert ours == reference_templates(name)
    assert len(ours) == count


def test_vild_has_objects_of_three_sizes() -> None:
    chosen = resolve_templates("vild")
    assert len(chosen) == 14
    for size in ("small", "medium", "large"):
        assert sum(size in template for template in chosen) == 3
    assert sum("scene" in template for template in chosen) == 6


@pytest.mark.parametrize("name", TEMPLATE_SETS)
def test_sets_have_unique_templates_with_one_place_each(name: str) -> None:
    chosen = resolve_templates(name)
    assert len(set(chosen)) == len(chosen)
    assert all(template.count("{}") == 1 for template in chosen)


def test_own_templates() -> None:
    assert resolve_templates("a drawing of {}") == ("a drawing of {}",)
    assert resolve_templates(["{} here", "no {} there"]) == ("{} here", "no {} there")
    assert resolve_templates(("{}",)) == ("{}",)


def test_a_misspelt_set_is_named() -> None:
    with pytest.raises(VocabularyError, match=r"'opneai' \(did you mean 'openai'\?\)"):
        resolve_templates("opneai")


@pytest.mark.parametrize(
    "spec",
    ["", "a photo", "{} and {}", [], ["a photo"], ["{}", 3], ["{}{}"], [b"{}"], b"{}", None, 7],
)
def test_unusable_templates_are_refused(spec: object) -> None:
    with pytest.raises(VocabularyError, match=r"\{\}"):
        resolve_templates(spec)  # type: ignore[arg-type]


def test_fill_leaves_braces_of_names_alone() -> None:
    assert fill("a {} b", "{}{0}") == "a {}{0} b"


def test_did_you_mean() -> None:
    assert did_you_mean("CAR", ["car", "bus"]) == " (did you mean 'car'?)"
    assert did_you_mean("zebra", ["car", "bus"]) == ""
    assert did_you_mean("x" * 10_000, ["x" * 10_000]) == ""
