"""The weights of a SigLIP text tower, read back out of its graph."""

from __future__ import annotations

import msgspec
import torch

from samclip.export.checkpoints.metadata import TextMetadata
from samclip.export.graphs import export_graph
from samclip.export.models.siglip_tower import SiglipTower, SiglipTowerConfig
from samclip.export.rebuilding.alignment import align
from samclip.export.rebuilding.coded_weights import CodedWeights
from samclip.export.text_part import text_encoder_spec

SIZES = SiglipTowerConfig(width=32, heads=4, layers=2, hidden=56, embed_dim=48, vocab_size=300)


def test_every_weight_comes_back_from_the_graph() -> None:
    described = TextMetadata(model="m", logit_scale=100.0, siglip=SIZES, canonical=True)
    read = msgspec.json.decode(msgspec.json.encode(described), type=TextMetadata)
    assert (read.tower, read.canonical) == (SIZES, True)

    torch.manual_seed(2)
    own, coded = SiglipTower(SIZES), SiglipTower(SIZES)
    for parameter in own.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    given = export_graph(text_encoder_spec(own))
    codes = CodedWeights(coded)
    spec = text_encoder_spec(coded)
    template = export_graph(spec)
    codes.expect(template.graph, spec.module)
    for pair in align(template.graph, given.graph, codes.is_weight):
        codes.take(pair)
    state = codes.state()
    assert state.keys() == own.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in own.state_dict().items())
