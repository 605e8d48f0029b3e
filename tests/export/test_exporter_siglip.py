"""A merged model with a SigLIP 2 text tower, from checkpoints to a device that has no tower."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import samclip
from samclip.engines.steps import ExportBundle
from samclip.errors import CapabilityError, ExportError
from samclip.export.checkpoints.checkpoint import read_checkpoint
from samclip.export.checkpoints.text_source import TextSource, read_text
from samclip.export.exporter import Export, export_bundle
from samclip.export.models.merged import build_text_tower
from samclip.export.options import ExportOptions, WeightsDtypes
from samclip.export.weight_storage import stored_space
from samclip.runtime.text.templates import resolve_templates
from samclip.runtime.text.text_space import TextSpace
from samclip.runtime.text.tokenizer import Tokenizer
from tests.support.made_siglip import save_siglip

pytestmark = pytest.mark.filterwarnings("ignore::samclip.errors.UntrainedHeadWarning")
NAMES = ("Traffic_Light", "espresso cup", "cat")
SETS = ("none", ("a photo of the {}.", "a {}, up close"))


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SigLIP 2 whose table of tokens is large enough to be stored as INT8."""
    folder = tmp_path_factory.mktemp("siglip")
    save_siglip(folder, sizes={"hidden_size": 128, "intermediate_size": 160})
    return folder


@pytest.fixture(scope="module")
def options(
    mobile_sam_checkpoint: Path, tower: Path, tmp_path_factory: pytest.TempPathFactory
) -> ExportOptions:
    return ExportOptions(
        checkpoint=mobile_sam_checkpoint,
        text_checkpoint=tower,
        output=tmp_path_factory.mktemp("exports") / "bundle",
        image_size=256,
        attention=("chunk",),
        templates=SETS[0],
        more_templates=SETS[1:],
        labels=NAMES,
        weights_dtype=WeightsDtypes(graphs={"text_encoder": "int8"}),
    )


@pytest.fixture(scope="module")
def export(options: ExportOptions) -> Export:
    return export_bundle(options)


@pytest.fixture(scope="module")
def source(tower: Path) -> TextSource:
    return read_text(read_checkpoint(tower))


@pytest.fixture(scope="module")
def space(source: TextSource) -> TextSpace:
    """The tower in torch, FP32, behind the recipe of names."""
    module = build_text_tower(source.config).eval()
    module.load_state_dict(source.state)

    @torch.inference_mode()
    def encode(tokens: np.ndarray) -> np.ndarray:
        return module(torch.from_numpy(tokens)).numpy()

    tokenizer = Tokenizer.from_bytes(source.tokenizer, 64, canonical=True)
    return TextSpace(encode, tokenizer, "", 48, ("{}",), canonical=True)


def test_the_graph_is_proven_and_stored_small(
    export: Export, space: TextSpace, source: TextSource
) -> None:
    manifest = export.manifest
    text, graph = manifest.text, manifest.graphs.text_encoder
    assert text is not None
    assert graph is not None
    assert (text.canonical, text.context_length, text.embed_dim) == (True, 64, 48)
    assert graph.variants[0].weights_dtype == "int8"
    assert text.space == stored_space(source.space, "int8")
    rows = {row.graph: row.max_rel_error for row in manifest.parity}
    assert rows["text_encoder"] <= 1e-4  # of FP32, before its weights are rounded
    weights = manifest.files["text_encoder.safetensors"].size
    assert weights < sum(2 * value.numel() for value in source.state.values())  # FP16 has these
    with samclip.load(export.path, "onnxruntime") as model:
        computed = model.vocabulary(["red Dog!"]).embeddings
    assert float((computed @ space.embed(["red dog"]).T).min()) > 0.999  # INT8 against FP32


def test_a_board_answers_from_its_vocabulary_in_each_set(
    options: ExportOptions, space: TextSpace, source: TextSource, tmp_path: Path
) -> None:
    lean = replace(options, output=tmp_path / "board", text_encoder=False, verify=False)
    board = export_bundle(lean)
    require_board(board.path, space)
    # The vectors are FP32's, and no weights of a tower were rounded: this is not INT8's space.
    assert board.manifest.text is not None
    assert board.manifest.text.space == source.space


@pytest.mark.slow
def test_a_board_is_made_from_a_bundle_with_the_tower(
    options: ExportOptions, export: Export, space: TextSpace, tmp_path: Path
) -> None:
    """The rebuilt tower gives the bundle's own answers; its vocabulary is carried over."""
    made = ExportOptions(export.path, tmp_path / "copy", attention=("chunk",))
    assert export_bundle(made).manifest.text == export.manifest.text
    lean = replace(made, output=tmp_path / "board", text_encoder=False, verify=False)
    board = export_bundle(lean).path
    require_board(board, space)
    # A board's bundle is a checkpoint, too; its space stays, and no tower is made up.
    again = replace(lean, checkpoint=board, output=tmp_path / "again")
    require_board(export_bundle(again).path, space)


def require_board(path: Path, space: TextSpace) -> None:
    with samclip.load(path, "onnxruntime") as board:
        _require_board(board, space)


def _require_board(board: samclip.Model, space: TextSpace) -> None:
    manifest = board.bundle.manifest
    assert manifest.graphs.text_encoder is None
    assert not {"tokenizer.json", "text_encoder.onnx"} & set(manifest.files)
    assert manifest.text is not None
    assert manifest.text.templates == SETS[0]
    assert [each.templates for each in manifest.text.baked] == [*SETS[1:]]
    for templates in (None, *SETS):
        chosen = resolve_templates(SETS[0] if templates is None else templates)
        got = board.vocabulary(["traffic light!", "CAT"], templates=templates).embeddings
        expected = space.embed(["Traffic_Light", "cat"], chosen)
        assert np.allclose(got, expected, rtol=0, atol=1e-5)  # of unit length
    with pytest.raises(CapabilityError, match=r"none of the 3 names.*'traffic lihgt'") as caught:
        board.vocabulary(["traffic lihgt"])
    assert ExportBundle((("vocabulary", None),)) in caught.value.steps
    with pytest.raises(CapabilityError, match="made with 2 sets of templates, not with these"):
        board.vocabulary(["cat"], templates="simple")


def test_a_further_set_of_templates_needs_names(options: ExportOptions, tmp_path: Path) -> None:
    alone = replace(options, labels=(), output=tmp_path / "b", verify=False)
    with pytest.raises(ExportError, match=r"more than one --templates.*--vocabulary FILE"):
        export_bundle(alone)
