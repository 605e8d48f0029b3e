"""Graphs of every family, lowering, opset, precision and storage that the exporter writes, small.

The weights are random and calibration is made up: what counts is which operators, attributes and
shapes come out. `python tests/support/exported_graphs.py FOLDER` writes them all, to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import torch
from small_ovsam import SMALL_OVSAM, random_ovsam
from small_radio import random_radio

from samclip.export.families.merged import clip_head_spec, encoder_spec, mask_decoder_spec
from samclip.export.families.ovsam import (
    ROI_MAX_OPSET,
    clip_roi_spec,
    ovsam_encoder_spec,
    ovsam_mask_decoder_spec,
    roi_classifier_spec,
)
from samclip.export.families.radio import (
    radio_clip_head_spec,
    radio_encoder_spec,
)
from samclip.export.graph_files import GraphFiles
from samclip.export.graphs import LoweredGraph, PlainGraph
from samclip.export.models import attention
from samclip.export.models.attention import Lowering
from samclip.export.models.bert_tower import BertTower, BertTowerConfig
from samclip.export.models.merged import MergedConfig, MergedModel
from samclip.export.models.ovsam.convnext import ConvNextConfig
from samclip.export.models.sam_vit import SamVit, SamVitConfig
from samclip.export.models.text_tower import TextTower, TextTowerConfig
from samclip.export.precision.calibration import Calibration, Range
from samclip.export.precision.half import to_half
from samclip.export.precision.keep import DEFAULT_KEEP
from samclip.export.precision.layers import find_layers
from samclip.export.precision.quantise import quantise
from samclip.export.text_part import text_encoder_graph
from samclip.export.token_aggregation import aggregation_graph
from samclip.export.uint8_input import uint8_spec
from samclip.export.weight_storage import store_weights
from samclip.runtime.bundles.manifest import Preprocessing

SIZE = 256
LOWERINGS: tuple[Lowering, ...] = ("bias", "fold", "chunk", "wide", "fused")
OPSETS = (18, 20, 21, 23)
Plan = LoweredGraph | PlainGraph
CLIP_TEXT = TextTowerConfig(width=64, heads=1, layers=2, embed_dim=32, vocab_size=600)
QUICK_TEXT = TextTowerConfig(64, 1, 1, 32, vocab_size=600, quick_gelu=True)
BERT_TEXT = BertTowerConfig(width=48, heads=3, layers=1, hidden=96, vocab_size=600)
CONVNEXT = ConvNextConfig((8, 16, 16, 24), (1, 1, 2, 1), embed_dim=24)


def merged_plans(model: MergedModel) -> list[Plan]:
    """The three graphs of a merged model."""
    return [
        LoweredGraph("encoder", lambda form: encoder_spec(model, form)),
        LoweredGraph("clip_head", lambda form: clip_head_spec(model, form)),
        PlainGraph("mask_decoder", lambda: mask_decoder_spec(model)),
    ]


def uint8_plan(encoder: Plan) -> Plan:
    """The graph of an encoder, with its input in uint8."""
    assert isinstance(encoder, LoweredGraph)
    pixels = Preprocessing(
        image_size=SIZE, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)
    )
    return LoweredGraph("encoder", lambda form: uint8_spec(encoder.spec(form), pixels))


def ovsam_plans(with_convnext: bool) -> list[Plan]:
    """The four graphs of a small Open-Vocabulary SAM."""
    config = replace(SMALL_OVSAM, backbone=CONVNEXT) if with_convnext else SMALL_OVSAM
    model = random_ovsam(config)
    return [
        LoweredGraph("encoder", lambda form: ovsam_encoder_spec(model, form)),
        PlainGraph("mask_decoder", lambda: ovsam_mask_decoder_spec(model)),
        PlainGraph("roi_classifier", lambda: roi_classifier_spec(model), ROI_MAX_OPSET),
        PlainGraph("clip_roi", lambda: clip_roi_spec(model), ROI_MAX_OPSET),
    ]


def radio_plans(window_size: int) -> list[Plan]:
    """The three graphs of a small C-RADIO."""
    model = random_radio(SIZE, window_size)
    return [
        LoweredGraph("encoder", lambda form: radio_encoder_spec(model, form)),
        PlainGraph("clip_head", lambda: radio_clip_head_spec(model)),
        PlainGraph("mask_decoder", lambda: mask_decoder_spec(model)),
    ]


def named_plans() -> list[Plan]:
    """The encoders that attend twice, and the graph that aggregates tokens."""
    radio, vit = random_radio(SIZE), small_vit()
    radio.encoder.trunk.add_recursion()
    assert isinstance(vit.image_encoder, SamVit)
    vit.image_encoder.add_recursion()
    side = SIZE // 16
    return [
        LoweredGraph("encoder", lambda form: radio_encoder_spec(radio, form)),
        LoweredGraph("encoder", lambda form: encoder_spec(vit, form)),
        aggregation_graph((1, 64, 1, 1 + side**2), (side, side)),
    ]


def small_vit() -> MergedModel:
    """A plain ViT of two blocks, windowed and global, with a CLIP head and a decoder."""
    vit = merged("vit_b")
    vit.image_encoder = SamVit(SamVitConfig(768, 2, 12, (1,)), SIZE).eval()
    return vit


def merged(model_type: str, **changes: object) -> MergedModel:
    """A merged model of random weights."""
    return MergedModel(MergedConfig(model_type, SIZE, 32, **changes)).eval()  # type: ignore[arg-type]


FAMILIES: dict[str, Callable[[], list[Plan]]] = {
    "vit_t": lambda: merged_plans(merged("vit_t")),
    "vit_t_pool": lambda: merged_plans(merged("vit_t", head_pool=2))[1:2],
    "vit": lambda: merged_plans(small_vit()),
    "names": named_plans,
    "vit_uint8": lambda: [uint8_plan(merged_plans(small_vit())[0])],
    "lite2": lambda: merged_plans(merged("lite2")),
    "lite2_pyramid": lambda: merged_plans(merged("lite2", pyramid=(1, 2)))[:2],
    "ovsam": lambda: ovsam_plans(with_convnext=False),
    "ovsam_convnext": lambda: ovsam_plans(with_convnext=True),
    "radio": lambda: radio_plans(0),
    "radio_windows": lambda: radio_plans(4)[:1],
    "clip_text": lambda: [text_encoder_graph(TextTower(CLIP_TEXT))],
    "quick_text": lambda: [text_encoder_graph(TextTower(QUICK_TEXT))],
    "bert_text": lambda: [text_encoder_graph(BertTower(BERT_TEXT))],
}


@contextmanager
def small_chunks() -> Iterator[None]:
    """Let graphs of this size be taken in chunks, as those of 1024 px are."""
    bounds = attention.MAX_CHUNK_SCORES, attention.MAX_WIDE_CHUNK_SCORES
    attention.MAX_CHUNK_SCORES, attention.MAX_WIDE_CHUNK_SCORES = 2**17, 2**18
    try:
        yield
    finally:
        attention.MAX_CHUNK_SCORES, attention.MAX_WIDE_CHUNK_SCORES = bounds


def reduced(name: str, model: ir.Model) -> Iterator[tuple[str, ir.Model]]:
    """The model in every reduced precision, weights inside."""
    keep = DEFAULT_KEEP.nodes(name, model)
    for half in ("fp16", "bf16"):
        yield half, to_half(model.clone(), half, keep)
    if name not in {"encoder", "clip_head"}:
        return
    layers = [layer.name for layer in find_layers(model)]
    ranges = dict.fromkeys(layers, Range(-3.0, 4.0))
    known = Calibration(method="minmax", photos=1, inputs=ranges, outputs=ranges)
    some = frozenset(layers[1::7])  # layers that fell back to the wider type
    yield "int8", quantise(model, known, some, "unsigned")
    symmetric = quantise(model, known, some, "symmetric")
    names = DEFAULT_KEEP.nodes(name, symmetric)
    yield "int8_fp16", to_half(symmetric, "fp16", names)


def exported_graphs(
    families: dict[str, Callable[[], list[Plan]]] | None = None,
    opsets: tuple[int, ...] = OPSETS,
) -> Iterator[tuple[str, GraphFiles]]:
    """Yield graphs with a label: all variants of each graph, in every storage and precision."""
    torch.manual_seed(0)
    for family, make in (families or FAMILIES).items():
        for opset in opsets:
            for plan in make():
                with small_chunks():
                    full = plan.write(LOWERINGS, opset)
                label = f"{family}.{plan.name}.{opset}"
                yield label, full
                for storage in ("fp16", "int8"):
                    yield f"{label}.stored_{storage}", store_weights(full, storage)
                for file, model in full.models().items():
                    variant = next(v for v in full.graph.variants if v.file == file)
                    for precision, made in reduced(plan.name, model):
                        files = GraphFiles(plan.name, full.graph, {}).with_models({variant: made})
                        yield f"{label}.{precision}.{variant.attention}", files


def write_all(folder: Path) -> None:
    """Write every graph, without its weights, as a separate file."""
    for label, files in exported_graphs():
        for file, data in files.files.items():
            if file.endswith(".onnx"):
                (folder / f"{label}.{file}").write_bytes(data)


if __name__ == "__main__":
    import sys

    write_all(Path(sys.argv[1]))
