"""Fuzzing with hypothesis: every input gives an answer or one of samclip's errors.

The examples are the same on every run; `pytest --hypothesis-profile=random [--hypothesis-seed=N]`
draws others, and a failure says how to draw them again.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest
from figures import Figures
from fuzz_targets import TARGETS, check_prompts, config, feed, seeds
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from samclip.errors import ConfigError, PromptError, SamclipError, VocabularyError
from samclip.merge.config.run import parse_config
from samclip.runtime.pixels.image import load_image
from samclip.runtime.tasks.grid import AutoMaskOptions
from samclip.runtime.text.names import as_names
from samclip.runtime.text.templates import resolve_templates

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

COUNTS = [40, pytest.param(2000, marks=pytest.mark.slow)]
FAULT = "fuzzing with hypothesis"
FOUND = "answers and typed errors alone"
JSON = ["manifest", "sidecar", "compiled_sidecar", "tokenizer", "coco", "report", "evaluations"]
QUIET = {"suppress_health_check": list(HealthCheck)}
# Tokens that parsers stumble over, in place of some bytes.
TOKENS = st.sampled_from(
    [b"\0", b"\xff", b"\xff\xff\xff\xff", b"\xed\xa0\x80", b'"', b"{", b"[" * 2000, b"}", b"\\",
     b"\\u0000", b"\\ud800", b"9" * 5000, b"-", b"1e999", b"NaN", b"../", b"/", b"null", b"\n"]
)  # fmt: skip
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 40), TOKENS | st.binary(max_size=20)), max_size=5
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["9" * 5000, "../x", "a\0b", "\ud800", "fp32", 10**400])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def apply_edits(data: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """Replace spans of `data`, each given by its start as a share of the length, and its size."""
    for share, length, new in edits:
        at = int(share * len(data))
        data = data[:at] + new + data[at + length :]
    return data


def replace_at(value: Any, path: list[int], new: Any) -> Any:
    """Return `value` with `new` at the place to which the numbers of `path` lead."""
    if not path or not isinstance(value, (dict, list)) or not value:
        return new
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = keys[path[0] % len(keys)]
    inner = replace_at(value[key], path[1:], new)
    if isinstance(value, dict):
        return {**value, key: inner}
    return [inner if index == key else item for index, item in enumerate(value)]


PATHS = st.lists(st.integers(0, 30), min_size=1, max_size=6)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files(name: str, count: int, figures: Figures) -> None:
    """Sound files with spans replaced, cut out, or inserted."""

    @settings(max_examples=count, **QUIET)
    @given(st.sampled_from(seeds(name)), EDITS)
    def run(seed: bytes, edits: list[tuple[float, int, bytes]]) -> None:
        feed(TARGETS[name], apply_edits(seed, edits))

    run()
    figures.add(f"{FAULT}: damaged files of {len(TARGETS)} kinds", count=count, found=FOUND)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_sound(name: str) -> None:
    """Fuzzers that start with refused files would only reach the first check."""
    TARGETS[name](seeds(name)[0])


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", JSON)
def test_json_of_the_wrong_values(name: str, count: int, figures: Figures) -> None:
    """Sound JSON with one or more values replaced."""

    @settings(max_examples=count, **QUIET)
    @given(st.sampled_from(seeds(name)), st.lists(st.tuples(PATHS, VALUES), max_size=3))
    def run(seed: bytes, changes: list[tuple[list[int], Any]]) -> None:
        value = json.loads(seed)
        for path, new in changes:
            value = replace_at(value, path, new)
        feed(TARGETS[name], json.dumps(value).encode())

    run()
    figures.add(f"{FAULT}: wrong values in sound files", count=count, found=FOUND)


@pytest.mark.parametrize("count", COUNTS)
def test_configurations_of_the_wrong_values(count: int, figures: Figures) -> None:
    @settings(max_examples=count, **QUIET)
    @given(st.sampled_from(seeds("config")), st.lists(st.tuples(PATHS, VALUES), max_size=3))
    def run(seed: bytes, changes: list[tuple[list[int], Any]]) -> None:
        value = tomllib.loads(seed.decode())
        for path, new in changes:
            value = replace_at(value, path, new)
        try:
            parse_config(value if isinstance(value, dict) else {"": value}, "run.toml")
        except ConfigError as error:
            assert str(error).startswith("run.toml: ")

    run()
    figures.add(f"{FAULT}: wrong values in sound files", count=count, found=FOUND)


def test_half_a_character_in_a_configuration() -> None:
    with pytest.raises(ConfigError, match="is not valid text"):
        parse_config({"\ud800": 1}, "run.toml")


NUMBERS = st.floats(-20, 220) | st.integers(-1, 201) | st.sampled_from([np.nan, np.inf, 1e300, 2])
KINDS = st.sampled_from([np.float32, np.int64, np.uint8, np.bool_, np.complex64, np.float16])
ARRAYS = KINDS.flatmap(
    lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=0, min_side=0, max_side=4))
)
ROWS = st.lists(st.lists(NUMBERS, min_size=1, max_size=4), max_size=4)
GIVEN = st.none() | VALUES | ARRAYS | ROWS | st.lists(ROWS, max_size=3)


@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.slow)])
def test_prompts_of_any_kind(count: int, figures: Figures) -> None:
    """Accepted prompts lie in the image, see `check_prompts`."""

    @settings(max_examples=count, **QUIET)
    @given(GIVEN, GIVEN, GIVEN, GIVEN)
    def run(points: Any, labels: Any, boxes: Any, mask: Any) -> None:
        given = {"points": points, "labels": labels, "boxes": boxes, "mask": mask}
        try:
            check_prompts(given)
        except PromptError as error:
            assert 0 < len(str(error)) < 2000

    run()
    figures.add(f"{FAULT}: prompts", count=count, found=f"{FOUND}; accepted ones are in the image")


@pytest.mark.parametrize("count", COUNTS)
def test_images_of_any_kind(count: int, figures: Figures) -> None:
    @settings(max_examples=count, **QUIET)
    @given(VALUES | ARRAYS | st.binary() | st.text())
    def run(source: Any) -> None:
        try:
            load_image(source)
        except SamclipError as error:
            assert str(error)

    run()
    figures.add(f"{FAULT}: images as objects of any kind", count=count, found=FOUND)


@settings(max_examples=100, **QUIET)
@given(VALUES)
def test_names_and_templates_of_any_kind(value: Any) -> None:
    for read in (as_names, resolve_templates):
        try:
            read(value)
        except VocabularyError as error:
            assert len(str(error)) < 1000


@settings(max_examples=100, **QUIET)
@given(st.sampled_from(sorted(AutoMaskOptions.__dataclass_fields__)), VALUES)
@example("crop_n_points_downscale_factor", 10**400)
@example("pred_iou_thresh", np.float32("nan"))
@example("point_grids", None)
@example("adaptive", None)
def test_options_of_any_kind(name: str, value: Any) -> None:
    try:
        options = AutoMaskOptions(**{name: value})
    except PromptError as error:
        assert name in str(error)
    else:
        found = getattr(options, name)
        assert (name, found) == ("point_grids", None) or 0 <= found < np.inf


def test_a_number_of_thousands_of_digits_in_a_configuration() -> None:
    with pytest.raises(ConfigError, match="not valid TOML"):
        config(b"seed = " + b"9" * 5000)


def test_a_file_nested_without_end() -> None:
    with pytest.raises(ConfigError, match="nested too deeply"):
        config(b"a = " + b"[" * 100_000)


@pytest.mark.parametrize("name", ["evaluations", "report", "coco"])
def test_unknown_fields_nested_without_end(name: str) -> None:
    """Fields that a reader does not know are skipped, but only to a limit of nesting."""
    with pytest.raises(SamclipError):
        TARGETS[name](b'[{"x": ' * (name == "evaluations") + b'{"x": ' + b"[" * 100_000)
