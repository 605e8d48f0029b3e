"""SigLIP's text towers read from a Hugging Face folder: weights, settings and tokenizer.

`SiglipModel` and `Siglip2Model` have the same text tower, and SigLIP 2's weights are published as
either. Weights show neither the number of heads nor the activation nor how texts are split: the
files next to them do, and what `SiglipTower` does not compute is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from torch import Tensor

from samclip.disk.user_files import read_user_file
from samclip.errors import BundleError, CheckpointError
from samclip.export.checkpoints.checkpoint import Checkpoint, StateDict, some_keys
from samclip.export.checkpoints.model_files import Json, read_json, require_settings, table
from samclip.export.models.siglip_tower import (
    HEAD,
    LAYER_NORM_EPS,
    WORDS,
    SiglipTower,
    SiglipTowerConfig,
    infer_siglip_config,
)
from samclip.runtime.text.tokenizer import GEMMA_END, GEMMA_PAD, Tokenizer
from samclip.runtime.text.tokenizer_file import MAX_BYTES, read_tokenizer_file

PREFIX = "text_model."
# Keys of a whole model that its text tower does without. The bias of the logits is the same for all
# names, so it changes no share of any.
NOT_TEXT = ("vision_model.", "logit_scale", "logit_bias", f"{PREFIX}embeddings.position_ids")
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_SETTINGS_FILE = "tokenizer_config.json"
DEFAULT_HEADS = 12  # of transformers' configurations, which omit what has its default

MODEL: Json = {"model_type": ("siglip", "siglip_text_model", "siglip2", "siglip2_text_model")}
TEXT: Json = {
    "model_type": ("siglip_text_model", "siglip2_text_model"),
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": LAYER_NORM_EPS,
}
TOKENIZER: Json = {
    "add_bos_token": False,
    "add_eos_token": True,
    "padding_side": "right",
    "truncation_side": "right",
    "eos_token": GEMMA_END,
    "pad_token": GEMMA_PAD,
}
ADVICE = (
    "Give the folder of a SigLIP 2 as its authors publish it, with Gemma's tokenizer, such as "
    "google/siglip2-giant-opt-patch16-384."
)


@dataclass(frozen=True)
class SiglipText:
    """A tower's weights under `SiglipTower`'s names, and the bytes of its tokenizer."""

    state: StateDict
    config: SiglipTowerConfig
    tokenizer: bytes


def is_siglip(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has a SigLIP's text tower, alone or in the whole model."""
    return any(f"{root}{WORDS}" in state and f"{root}{HEAD}" in state for root in ("", PREFIX))


def read_siglip_text(checkpoint: Checkpoint) -> SiglipText:
    """Read a tower whose `config.json` and `tokenizer.json` lie next to its weights.

    Raises CheckpointError when they are missing, for towers that would embed wrongly, and for
    keys that a SigLIP does not have.
    """
    folder, name = checkpoint.path.parent, checkpoint.path.name
    config = read_json(folder, CONFIG_FILE)
    if config is None or not (folder / TOKENIZER_FILE).exists():
        raise CheckpointError(
            f"{name} has a SigLIP text tower; expected {CONFIG_FILE} and {TOKENIZER_FILE} next to "
            f"it, and not both are there. {ADVICE}"
        )
    where = f"{CONFIG_FILE} next to {name}, a SigLIP,"
    require_settings(config, MODEL, where, ADVICE)
    text = table(config, "text_config") if "text_config" in config else config
    require_settings(text, TEXT, where, ADVICE)
    heads = text.get("num_attention_heads", DEFAULT_HEADS)
    if not isinstance(heads, int) or isinstance(heads, bool):
        raise CheckpointError(
            f"{where} says num_attention_heads = {ascii(heads)[:60]}, expected a number. {ADVICE}"
        )
    state = {
        key.removeprefix(PREFIX): value.float()
        for key, value in checkpoint.state.items()
        if not key.startswith(NOT_TEXT)
    }
    sizes = infer_siglip_config(state, heads)
    _require_own_keys(state, sizes)
    return SiglipText(state, sizes, _read_tokenizer(folder, sizes))


def _require_own_keys(state: Mapping[str, Tensor], config: SiglipTowerConfig) -> None:
    """Refuse a tower that lacks keys, and keys that it has not: what they do would be left out."""
    smallest = SiglipTowerConfig(width=1, heads=1, layers=1, hidden=1, embed_dim=1, vocab_size=1)
    first = "encoder.layers.0."
    own = set()
    for key in SiglipTower(smallest).state_dict():
        layers = range(config.layers) if key.startswith(first) else (0,)
        own |= {key.replace(first, f"encoder.layers.{number}.") for number in layers}
    for what, keys in (("lacks", own - state.keys()), ("also has", state.keys() - own)):
        if keys:
            raise CheckpointError(
                f"the text tower of this SigLIP {what} {some_keys(sorted(keys))}. {ADVICE}"
            )


def _read_tokenizer(folder: Path, config: SiglipTowerConfig) -> bytes:
    """Read the tokenizer, and check that it is Gemma's kind, used as SigLIP 2 uses it.

    Only what the runtime reads of the file is returned, without the spaces between.
    """
    settings = read_json(folder, TOKENIZER_SETTINGS_FILE) or {}
    plain = {
        key: value.get("content") if isinstance(value, dict) else value
        for key, value in settings.items()
    }
    where = f"{TOKENIZER_SETTINGS_FILE} in {folder}, a SigLIP's,"
    require_settings(plain, TOKENIZER, where, ADVICE)
    file = folder / TOKENIZER_FILE
    data = read_user_file(file, MAX_BYTES, "the tokenizer", CheckpointError)
    try:
        checked = read_tokenizer_file(data)
        content = checked.content.encode()
        tokenizer = Tokenizer.from_bytes(content, config.context_length, canonical=True)
    except BundleError as error:
        raise CheckpointError(
            f"{file} is not a tokenizer that SigLIP towers are read with: {error} {ADVICE}"
        ) from error
    if not tokenizer.is_gemma or checked.largest_id >= config.vocab_size:
        raise CheckpointError(
            f"{file} has ids up to {checked.largest_id:,}, and the tower a table of "
            f"{config.vocab_size:,} tokens; expected Gemma's tokenizer, with {GEMMA_END} and "
            f"{GEMMA_PAD}. {ADVICE}"
        )
    framing = table(msgspec.json.decode(data, type=Json), "post_processor")
    _require_end_alone(framing, file)
    return content


def _require_end_alone(framing: Json, file: Path) -> None:
    """Refuse a tokenizer that frames texts otherwise than by an end token behind them."""
    steps = framing.get("single")
    if framing.get("type") != "TemplateProcessing" or not isinstance(steps, list):
        return
    tokens = [table(step, "SpecialToken").get("id") for step in steps if isinstance(step, dict)]
    if tokens not in ([None], [None, GEMMA_END]):
        around = " and ".join(str(token)[:20] for token in tokens if token)
        raise CheckpointError(
            f"{file} puts {around} around a text, and only {GEMMA_END} behind it is supported. "
            f"{ADVICE}"
        )
