"""BERT sentence encoders read from a model's folder: weights, settings and tokenizer.

Weights do not show how many heads there are, how tokens are pooled, or what follows: the files next
to them do, and what `BertTower` does not compute is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from samclip.disk.user_files import read_user_file
from samclip.errors import CheckpointError
from samclip.export.checkpoints.checkpoint import Checkpoint, StateDict
from samclip.export.checkpoints.fetch import packaged_license
from samclip.export.checkpoints.model_files import (
    MAX_JSON_BYTES,
    Json,
    read_json,
    read_json_list,
    require_settings,
    table,
)
from samclip.export.models.bert_tower import (
    IGNORED_CHECKPOINT_KEYS,
    LAYER_NORM_EPS,
    BertTowerConfig,
    infer_bert_config,
)

TOKENIZER_FILE = "tokenizer.json"
POOLING_FILE = "1_Pooling/config.json"
MODULES_FILE = "modules.json"
BERT: Json = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "layer_norm_eps": LAYER_NORM_EPS,
    "position_embedding_type": "absolute",
    "pad_token_id": 0,
    "is_decoder": False,
    "add_cross_attention": False,
}
POOLING: Json = {
    "pooling_mode_mean_tokens": True,
    "pooling_mode_cls_token": False,
    "pooling_mode_max_tokens": False,
    "pooling_mode_mean_sqrt_len_tokens": False,
    "pooling_mode_weightedmean_tokens": False,
    "pooling_mode_lasttoken": False,
}
KNOWN_MODULES = re.compile(r"sentence_transformers\..*(Transformer|Pooling|Normalize)")
ADVICE = "Give an encoder that has it, such as MiniLM."


@dataclass(frozen=True)
class SentenceEncoder:
    """A sentence encoder's weights under `BertTower`'s names, and the bytes of its tokenizer."""

    state: StateDict
    config: BertTowerConfig
    tokenizer: bytes


def read_sentence_encoder(checkpoint: Checkpoint) -> SentenceEncoder:
    """Read an encoder whose `config.json` and `tokenizer.json` lie next to its weights.

    Raises CheckpointError when they are missing, and for encoders that would embed wrongly: of
    another activation, another pooling, or with further layers behind it.
    """
    folder, name = checkpoint.path.parent, checkpoint.path.name
    config = read_json(folder, "config.json") or {}
    tokenizer = folder / TOKENIZER_FILE
    heads = config.get("num_attention_heads")
    if not isinstance(heads, int) or not tokenizer.exists():
        raise CheckpointError(
            f"{name} is a BERT encoder; expected next to it config.json with "
            "num_attention_heads, and tokenizer.json. Give the whole model folder."
        )
    require_settings(config, BERT, f"config.json next to {name}, a BERT encoder,", ADVICE)
    _require_mean(checkpoint)
    state = {
        key: value.float()
        for key, value in checkpoint.state.items()
        if key not in IGNORED_CHECKPOINT_KEYS
    }
    vocabulary = read_user_file(tokenizer, MAX_JSON_BYTES, "the tokenizer", CheckpointError)
    _require_lower_case(folder)
    return SentenceEncoder(state, infer_bert_config(state, heads), vocabulary)


def _require_mean(checkpoint: Checkpoint) -> None:
    """Refuse an encoder that does not pool by the mean of its tokens, or does more than that."""
    folder, name = checkpoint.path.parent, checkpoint.path.name
    pooling = read_json(folder, POOLING_FILE)
    if pooling is None and packaged_license(checkpoint.sha256) is None:
        raise CheckpointError(
            f"{name} is a BERT encoder, and nothing next to it says how it pools its tokens. Give "
            f"the whole folder of a sentence encoder, with {POOLING_FILE}."
        )
    where = f"{POOLING_FILE} next to {name}"
    advice = f"Only the mean of its tokens is. {ADVICE}"
    require_settings(pooling or {}, POOLING, where, advice)
    for part in read_json_list(folder, MODULES_FILE):
        module = str(part.get("type"))
        if not KNOWN_MODULES.fullmatch(module):
            raise CheckpointError(
                f"{MODULES_FILE} next to {name} lists {module[:80]}, a layer that is not "
                f"supported. {ADVICE}"
            )


def _require_lower_case(folder: Path) -> None:
    """Refuse an encoder whose texts are put into lower case outside its tokenizer."""
    lowered = (read_json(folder, "sentence_bert_config.json") or {}).get("do_lower_case")
    if lowered and not _lower_cases(table(read_json(folder, TOKENIZER_FILE), "normalizer")):
        raise CheckpointError(
            f"sentence_bert_config.json in {folder} asks for lower case, which its tokenizer.json "
            f"does not make. {ADVICE}"
        )


def _lower_cases(normaliser: Json) -> bool:
    parts = normaliser.get("normalizers")
    if isinstance(parts, list):
        return any(isinstance(part, dict) and _lower_cases(part) for part in parts)
    return normaliser.get("type") == "Lowercase" or bool(normaliser.get("lowercase"))
