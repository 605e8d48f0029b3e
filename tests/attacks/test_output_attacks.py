"""Graphs of a bundle that compute what is no answer, on the backends for CPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from coloured_graphs import coloured_draft, coloured_graphs
from figures import Figures
from mixed_calls import photos

from samclip.engines.base import EngineOptions
from samclip.engines.registry import get_backend
from samclip.errors import EngineRunError
from samclip.runtime.model import Model


def test_an_encoder_whose_outputs_are_no_numbers(
    backend: str, tmp_path: Path, figures: Figures
) -> None:
    """Its decoder would answer with masks and IoUs that look right."""
    draft: Any = coloured_draft(coloured_graphs(gain=float("nan")), tmp_path)
    with (
        Model(draft, get_backend(backend), EngineOptions(threads=1)) as model,
        pytest.raises(EngineRunError, match="of the graph 'encoder' holds NaN, infinity"),
    ):
        model.encode(photos()[0])
    figures.add("an encoder that computes NaN", count=1, found="EngineRunError names the output")
