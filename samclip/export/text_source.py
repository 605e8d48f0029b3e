"""A CLIP text tower as it comes from a file: weights, sizes, temperature, name of its space."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from torch import Tensor

from samclip.errors import CheckpointError
from samclip.export.checkpoint import Checkpoint, StateDict
from samclip.export.models.text_tower import TextTowerConfig
from samclip.export.text_checkpoint import infer_text_config, logit_scale, text_state

HF_DEFAULT_ACTIVATION = "quick_gelu"  # what transformers' CLIPTextConfig assumes when unsaid
TEXT_KEYS = ("text.", "text_model.", "token_embedding.")


@dataclass(frozen=True)
class TextSource:
    """A text tower's weights under our names.

    `space` is the SHA-256 of the weights: embeddings from different spaces do not compare.
    """

    state: StateDict
    config: TextTowerConfig
    logit_scale: float
    space: str

    @property
    def model(self) -> str:
        """A short description for people."""
        c = self.config
        gelu = ", QuickGELU" if c.quick_gelu else ""
        return f"CLIP text transformer {c.width}x{c.layers} -> {c.embed_dim}{gelu}"


def has_text(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint holds a text tower of a family we know."""
    return any(checkpoint.has(prefix) for prefix in TEXT_KEYS)


def read_text(checkpoint: Checkpoint, quick_gelu: bool | None = None) -> TextSource:
    """Take the text tower out of a checkpoint; raises CheckpointError when there is none.

    `quick_gelu` None decides by the checkpoint's family, since weights do not tell the activation.
    """
    own = {key: value for key, value in checkpoint.state.items() if not _is_vision(key)}
    state = {key: value.float() for key, value in text_state(own).items()}
    gelu = _quick_gelu(checkpoint) if quick_gelu is None else quick_gelu
    config = infer_text_config(state, quick_gelu=gelu)
    return TextSource(state, config, logit_scale(checkpoint.state), _digest(state, gelu))


def _is_vision(key: str) -> bool:
    """Keys of the other parts of a merged checkpoint."""
    return key.startswith(("image_encoder.", "prompt_encoder.", "mask_decoder.", "clip_head."))


def _quick_gelu(checkpoint: Checkpoint) -> bool:
    """Tell the activation as each family does.

    Hugging Face: `hidden_act` of the `config.json` beside the weights, or that library's default.
    OpenAI's own archives, told by their `input_resolution`: QuickGELU. open_clip's: GELU.
    """
    if not checkpoint.has("text_model."):
        return "input_resolution" in checkpoint.state
    config = checkpoint.path.with_name("config.json")
    if not config.is_file():
        return True
    try:
        content = msgspec.json.decode(config.read_bytes(), type=dict[str, object])
    except msgspec.MsgspecError as error:
        raise CheckpointError(f"{config} beside the weights is not valid JSON: {error}") from error
    text = content.get("text_config", content)
    activation = text.get("hidden_act") if isinstance(text, dict) else None
    return (activation or HF_DEFAULT_ACTIVATION) == "quick_gelu"


def _digest(state: Mapping[str, Tensor], quick_gelu: bool) -> str:
    """Hash names, shapes and float32 bytes of all weights, in name order, and the activation."""
    digest = hashlib.sha256(b"quick_gelu" if quick_gelu else b"gelu")
    for key in sorted(state):
        digest.update(f"{key}{tuple(state[key].shape)}".encode())
        digest.update(state[key].contiguous().numpy().tobytes())
    return digest.hexdigest()
