"""The untrained student of a merge: a recogniser's front and a SAM's back in one encoder."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from samclip.export.checkpoint import fit_state
from samclip.export.models.stitched_encoder import FIRST_STAGE, StitchedEncoder
from samclip.export.models.tiny_vit import TinyVit


def initialise_stitched(
    encoder: StitchedEncoder, recogniser: Mapping[str, Tensor], sam_encoder: TinyVit
) -> None:
    """Give a stitched encoder its trained parts; only the stitch keeps the values it has.

    `recogniser` holds the tensors of an `EfficientNetLite` by its own keys (`recogniser_state`);
    those of its classifier are left out. Raises CheckpointError when they do not fit.
    """
    trunk = {key: value for key, value in recogniser.items() if not key.startswith("head.")}
    fit_state(encoder.backbone, trunk, "recogniser inside the encoder")
    back = nn.ModuleList(sam_encoder.layers[FIRST_STAGE:])
    fit_state(encoder.stages, back.state_dict(), "stages of TinyViT inside the encoder")
    fit_state(encoder.neck, sam_encoder.neck.state_dict(), "neck of the encoder")
