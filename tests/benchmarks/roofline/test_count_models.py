"""The count of whole models, against torch's own counter and what is published of SAM."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from small_ovsam import SMALL_OVSAM, random_ovsam
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from samclip.benchmarks.roofline.count import GraphWork, count
from samclip.benchmarks.roofline.read_graph import read_graph
from samclip.export.families.merged import encoder_spec, mask_decoder_spec
from samclip.export.families.ovsam import clip_roi_spec, roi_classifier_spec
from samclip.export.graph_files import GraphFiles
from samclip.export.graphs import GraphSpec, LoweredGraph, PlainGraph
from samclip.export.models.attention import Lowering, set_attention_lowering
from samclip.export.models.merged import MergedConfig, MergedModel
from samclip.export.models.sam_vit import SamVit, SamVitConfig
from samclip.runtime.bundles.weights import parse_weights

OUTPUTS = ("backbone_features", "image_embeddings")


def with_random_weights(module: nn.Module) -> nn.Module:
    """Biases of zeros would be stored once for all layers, and norms of ones too."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.02)
    return module.eval()


def works(files: GraphFiles, **sizes: int) -> dict[str, GraphWork]:
    weights = parse_weights(files.files[f"{files.name}.safetensors"])
    graphs = {v.attention or "": files.files[v.file] for v in files.graph.variants}
    return {n: count(read_graph(g, files.name, sizes, weights)) for n, g in graphs.items()}


def flops_by_torch(module: nn.Module, *inputs: torch.Tensor) -> int:
    """Count in eager mode, where attention is two products."""
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:
        module(*inputs)
    return int(counter.get_total_flops())


@pytest.fixture(scope="module")
def small() -> tuple[SamVit, dict[str, GraphWork]]:
    """Two blocks, one in windows of 6 tokens that do not fill the grid of 8, one global."""
    config = SamVitConfig(width=32, depth=2, num_heads=2, global_blocks=(1,), window_size=6)
    encoder = with_random_weights(SamVit(config, image_size=128))

    def spec(lowering: Lowering) -> GraphSpec:
        set_attention_lowering(encoder, lowering)
        return GraphSpec("encoder", encoder, {"image": torch.rand(1, 3, 128, 128)}, OUTPUTS)

    return encoder, works(LoweredGraph("encoder", spec).write(("bias", "fold"), 20))


@pytest.mark.parametrize("lowering", ["bias", "fold"])
def test_macs_equal_torchs_count(
    small: tuple[SamVit, dict[str, GraphWork]], lowering: Lowering
) -> None:
    encoder, found = small
    set_attention_lowering(encoder, lowering)
    assert 2 * found[lowering].macs == flops_by_torch(encoder, torch.rand(1, 3, 128, 128))


def test_every_lowering_has_the_models_parameters(
    small: tuple[SamVit, dict[str, GraphWork]],
) -> None:
    encoder, found = small
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    assert {work.parameters for work in found.values()} == {parameters}
    assert found["fold"].macs > found["bias"].macs


@pytest.mark.slow
def test_sams_encoder_is_972_gflop() -> None:
    """MLP 464, windowed linear 185, global linear 77, global attention 206, windowed 24."""
    model = with_random_weights(MergedModel(MergedConfig("vit_b")))
    files = LoweredGraph("encoder", partial(encoder_spec, model)).write(("chunk",), 20)
    work = works(files)["chunk"]
    assert 2 * work.macs == sum(_flops_by_formula())
    assert 2 * work.macs / 1e9 == pytest.approx(972.1, abs=0.05)
    assert work.parameters == 89_670_912  # published: ViT-B's image encoder


def _flops_by_formula() -> Sequence[int]:
    tokens, width, windows = 64 * 64, 768, 25
    in_windows, heads, head = windows * 14 * 14, 12, 64
    linear = 2 * (3 * width * width + width * width)  # qkv and proj, a token
    return (
        12 * tokens * 2 * (2 * width * 4 * width),  # MLP
        8 * in_windows * linear,
        4 * tokens * linear,
        4 * heads * tokens**2 * 4 * head,  # scores and values
        8 * windows * heads * 196**2 * 4 * head,
        4 * heads * tokens * 128 * 2 * head + 8 * heads * in_windows * 28 * 2 * head,  # positions
        tokens * 2 * (3 * 256 * width + width * 256 + 9 * 256 * 256),  # patches, neck
    )


@pytest.mark.slow
def test_sams_mask_decoder_has_the_published_parameters() -> None:
    model = MergedModel(MergedConfig("vit_b"))
    with_random_weights(model.mask_decoder)
    with_random_weights(model.prompt_encoder)
    files = PlainGraph("mask_decoder", partial(mask_decoder_spec, model)).write((), 20)
    one, many = (works(files, prompts=n, points=2)[""] for n in (1, 64))
    # 4,058,340 and 6,220 are published; the frequencies (2 x 128) and the grid of the positions
    # (64 x 64 x 2) are constants that the graph holds next to them, less a scalar or two.
    assert one.parameters == pytest.approx(4_064_560 + 256 + 8192, abs=10_000)
    assert 60 < many.macs / one.macs <= 64


@pytest.mark.parametrize(("regions", "texts"), [(1, 1), (2, 5), (16, 80)])
def test_classifiers_of_regions_are_counted_by_hand(
    classifiers: dict[str, GraphFiles], regions: int, texts: int
) -> None:
    """RoiAlign is not a product; the pooling's query alone goes through the keys' matrix."""
    config, heads = SMALL_OVSAM, 4
    width, dim, cells = config.backbone.width * 32, config.embed_dim, config.backbone.pool_grid**2
    compared = texts * dim
    trained = 12 * 12 * config.fpn_channels * dim  # a 1x1 convolution on 12x12 places
    projections = 3 * width**2 + width * dim  # query, keys, values, output
    attention = 2 * heads * (cells + 1) * width  # scores and values, of the mean and all cells
    expected = {"roi_classifier": trained, "clip_roi": projections + attention}
    for name, once in expected.items():
        (work,) = works(classifiers[name], regions=regions, vocabulary=texts).values()
        assert work.macs == regions * (once + compared)
    (work,) = works(classifiers["roi_classifier"], regions=regions, vocabulary=texts).values()
    assert work.parameters == config.fpn_channels * dim + 4 * 4  # and what places boxes on levels
    assert {"RoiAlign"} < {entry.operator for entry in work.operators}


@pytest.fixture(scope="module")
def classifiers(graphs_traced_once: None) -> dict[str, GraphFiles]:
    model = random_ovsam()
    with torch.no_grad():
        return {
            name: PlainGraph(name, partial(spec, model)).write((), 20)
            for name, spec in (("roi_classifier", roi_classifier_spec), ("clip_roi", clip_roi_spec))
        }
