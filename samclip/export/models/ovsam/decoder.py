"""Open-Vocabulary SAM's mask decoder: SAM's with one mask, and a label token where the IoU's was.

Open-Vocabulary SAM (Yuan et al., 2024); repository HarborYuan/ovsam,
`seg/models/heads/ovsam_head.py`.
"""

from __future__ import annotations

from torch import Tensor, nn

from samclip.export.models.mask_decoder import PromptedDecoder, ReluMlp, TokenDecoder, Upscaling
from samclip.export.models.prompt_encoder import PromptEncoder
from samclip.export.models.two_way_transformer import TwoWayTransformer


class LabelDecoder(TokenDecoder):
    """One mask per prompt, without a predicted IoU: tokens [label, mask, prompts].

    The label token shapes the mask, through attention among the tokens. `label_mlp` was meant for
    naming, but the released code multiplies its output by 0; published weights have it, so it is
    here, and no output depends on it. State-dict keys are those of the published `mask_decoder.`,
    without the inner prefix `mask_decoder.`.
    """

    def __init__(self, embed_dim: int, dim: int = 256) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(dim=dim)
        self.mask_tokens = nn.Embedding(1, dim)
        self.output_upscaling = Upscaling(dim)
        self.output_hypernetworks_mlps = nn.ModuleList([ReluMlp((dim, dim, dim, dim // 8))])
        self.label_token = nn.Embedding(1, dim)
        self.label_mlp = ReluMlp((dim, dim, dim, embed_dim))

    def forward(
        self, image_embeddings: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor
    ) -> Tensor:
        """Predict masks for B prompts on one image: low_res_masks, Bx1x4Gx4G logits.

        The arguments are those of `samclip.export.models.mask_decoder.SamMaskDecoder`.
        """
        _, masks = self.decode(image_embeddings, image_pe, sparse, dense)
        return masks

    @property
    def leading(self) -> Tensor:
        """The label token, 1xC."""
        return self.label_token.weight

    def outputs(self, leading: Tensor, masks: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG002
        """Return the masks alone."""
        return (masks,)


class PromptedLabelDecoder(PromptedDecoder):
    """SAM's prompt encoder and this decoder in one graph, as it is exported."""

    def __init__(self, prompt_encoder: PromptEncoder, mask_decoder: LabelDecoder) -> None:
        super().__init__(prompt_encoder)
        self.mask_decoder: LabelDecoder = mask_decoder

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
    ) -> Tensor:
        """Segment one image by B prompts: low_res_masks, Bx1x4Gx4G logits.

        The arguments are those of `samclip.export.models.mask_decoder.PromptedMaskDecoder`. The
        released model was trained with points and boxes; mask prompts rely on SAM's prompt encoder.
        """
        sparse, dense = self.prompt_encoder(point_coords, point_labels, mask_input, has_mask_input)
        masks: Tensor = self.mask_decoder(image_embeddings, self.positions(), sparse, dense)
        return masks

    def without_masks(
        self, image_embeddings: Tensor, point_coords: Tensor, point_labels: Tensor
    ) -> Tensor:
        """Return the results of `forward` for prompts without masks."""
        sparse, dense = self.embed_without_masks(point_coords, point_labels)
        masks: Tensor = self.mask_decoder(image_embeddings, self.image_pe, sparse, dense)
        return masks
