"""A text tower as it comes from a file: weights, sizes, temperature, tokenizer, its space's name.

CLIP's towers of two families, and BERT sentence encoders (MiniLM) in Hugging Face's layout.

CLIP's `tokenizer.json`, built from its byte-pair merges.

The merges are data of OpenAI's CLIP (MIT licence, `bpe_simple_vocab_16e6.txt`); of the 262,144
published there, the 48,894 that CLIP uses are kept.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor

from samclip.errors import CheckpointError, error_context
from samclip.export.checkpoints.checkpoint import Checkpoint, StateDict
from samclip.export.checkpoints.metadata import TOKENIZER_KEY, decode_metadata
from samclip.export.checkpoints.text_checkpoint import infer_text_config, logit_scale, text_state
from samclip.export.models.bert_tower import (
    IGNORED_CHECKPOINT_KEYS,
    BertTowerConfig,
    infer_bert_config,
    is_bert,
)
from samclip.export.models.merged import TextConfig
from samclip.runtime.text.tokenizer import END, SPECIAL, START

MERGES_FILE = Path(__file__).parents[1] / "assets" / "clip_bpe_merges.txt.gz"
MERGE_COUNT = 49152 - 256 - 2
END_OF_WORD = "</w>"
# CLIP's pattern, which ignores case: on lower-cased text only the long s (U+017F) has a case left,
# and U+0345, whose upper case is a letter, belongs nowhere and falls out.
WORDS = (
    SPECIAL.pattern
    + "|'[s\u017f]|'t|'re|'ve|'m|'ll|'d|"
    + r"\p{L}+|\p{N}|[^\s\p{L}\p{N}"
    + "\u0345]+"
)


def read_merges(file: Path = MERGES_FILE) -> list[tuple[str, str]]:
    """Read the merges, most frequent first."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        pairs = [line.split() for line in lines]
    return [(left, right) for left, right in pairs]


def clip_vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    """Give each token CLIP's id: bytes, bytes that end a word, merges, special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [
        *alphabet,
        *(byte + END_OF_WORD for byte in alphabet),
        *(left + right for left, right in merges),
        START,
        END,
    ]
    return {token: number for number, token in enumerate(tokens)}


def clip_tokenizer_json() -> bytes:
    """Build `tokenizer.json` for texts that the runtime has cleaned (its tokenizer's `clean_text`).

    The file is in the format of the `tokenizers` library, which adds the start and end tokens when
    asked for special tokens.
    """
    merges = read_merges()
    vocabulary = clip_vocabulary(merges)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix=END_OF_WORD))
    tokenizer.pre_tokenizer = _words()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(name, vocabulary[name]) for name in (START, END)],
    )
    return tokenizer.to_str().encode("utf-8")


def _words() -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


HF_DEFAULT_ACTIVATION = "quick_gelu"  # what transformers' CLIPTextConfig assumes when unsaid
TEXT_KEYS = ("text.", "text_model.", "token_embedding.")
BERT_LOGIT_SCALE = 20.0  # what Sentence-BERT's contrastive training multiplies cosines by


@dataclass(frozen=True)
class TextSource:
    """A text tower's weights under our names.

    `space` is the SHA-256 of the weights: embeddings from different spaces do not compare.
    """

    state: StateDict
    config: TextConfig
    logit_scale: float
    space: str
    tokenizer: bytes  # the content of tokenizer.json

    @property
    def model(self) -> str:
        """A short description for people."""
        c = self.config
        if isinstance(c, BertTowerConfig):
            return f"BERT sentence encoder {c.width}x{c.layers} -> {c.embed_dim}"
        gelu = ", QuickGELU" if c.quick_gelu else ""
        return f"CLIP text transformer {c.width}x{c.layers} -> {c.embed_dim}{gelu}"


def has_text(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint holds a text tower of a family we know."""
    return is_bert(checkpoint.state) or any(checkpoint.has(prefix) for prefix in TEXT_KEYS)


def read_text(checkpoint: Checkpoint, quick_gelu: bool | None = None) -> TextSource:
    """Take the text tower out of a checkpoint; raises CheckpointError when there is none.

    `quick_gelu` None decides by the checkpoint's family, since weights do not tell the activation.
    """
    with error_context(checkpoint.path.name):
        if checkpoint.has("clip_head."):
            return _read_merged(checkpoint)
        if is_bert(checkpoint.state):
            return _read_bert(checkpoint)
        return _read_clip(checkpoint, quick_gelu)


def _read_clip(checkpoint: Checkpoint, quick_gelu: bool | None) -> TextSource:
    """Read the text side of a CLIP checkpoint, of open_clip or Hugging Face."""
    state = {key: value.float() for key, value in text_state(checkpoint.state).items()}
    gelu = _quick_gelu(checkpoint) if quick_gelu is None else quick_gelu
    config = infer_text_config(state, quick_gelu=gelu)
    space = _digest(state, b"quick_gelu" if gelu else b"gelu")
    scale = logit_scale(checkpoint.state)
    return TextSource(state, config, scale, space, clip_tokenizer_json())


def _read_merged(checkpoint: Checkpoint) -> TextSource:
    """Take the tower of a merged checkpoint, as its metadata describes it."""
    text = decode_metadata(dict(checkpoint.metadata), checkpoint.path.name).text
    config = None if text is None else text.clip or text.bert
    tokenizer = checkpoint.metadata.get(TOKENIZER_KEY, "").encode() or clip_tokenizer_json()
    if text is None or config is None:
        raise CheckpointError(
            f"{checkpoint.path.name} has text.* weights, and metadata that does not describe them; "
            "save merged checkpoints with samclip.export.families.merged_assembly.save_merged"
        )
    return TextSource(checkpoint.part("text."), config, text.logit_scale, text.space, tokenizer)


def _read_bert(checkpoint: Checkpoint) -> TextSource:
    """Read a sentence encoder, with `config.json` and `tokenizer.json` from beside its weights."""
    config = _beside(checkpoint, "config.json") or {}
    tokenizer = checkpoint.path.with_name("tokenizer.json")
    heads = config.get("num_attention_heads")
    if not isinstance(heads, int) or not tokenizer.is_file():
        raise CheckpointError(
            f"{checkpoint.path.name} is a BERT encoder; expected beside it config.json with "
            "num_attention_heads, and tokenizer.json. Give the whole model folder."
        )
    _check_bert(checkpoint, config)
    state = {
        key: value.float()
        for key, value in checkpoint.state.items()
        if key not in IGNORED_CHECKPOINT_KEYS
    }
    sizes, vocabulary = infer_bert_config(state, heads), tokenizer.read_bytes()
    space = _digest(state, repr(sizes).encode() + vocabulary)
    return TextSource(state, sizes, BERT_LOGIT_SCALE, space, vocabulary)


def _check_bert(checkpoint: Checkpoint, config: Mapping[str, object]) -> None:
    """Refuse encoders that would load and then embed wrongly: other activations, other pooling."""
    activation = config.get("hidden_act", "gelu")
    pooling = _beside(checkpoint, "1_Pooling/config.json") or {}
    if activation != "gelu":
        raise CheckpointError(
            f"{checkpoint.path.name} is a BERT encoder with hidden_act {activation!r}, expected "
            "gelu; give one that has it, such as MiniLM"
        )
    if not pooling.get("pooling_mode_mean_tokens", True):
        raise CheckpointError(
            f"{checkpoint.path.name} does not pool by the mean of its tokens, the only way that is "
            "supported; give a sentence encoder that does, such as MiniLM"
        )


def _quick_gelu(checkpoint: Checkpoint) -> bool:
    """Tell the activation as each family does.

    Hugging Face: `hidden_act` of the `config.json` beside the weights, or that library's default.
    OpenAI's own archives, told by their `input_resolution`: QuickGELU. open_clip's: GELU.
    """
    if not checkpoint.has("text_model."):
        return "input_resolution" in checkpoint.state
    content = _beside(checkpoint, "config.json") or {}
    text = content.get("text_config", content)
    activation = text.get("hidden_act") if isinstance(text, dict) else None
    return (activation or HF_DEFAULT_ACTIVATION) == "quick_gelu"


def _beside(checkpoint: Checkpoint, name: str) -> dict[str, object] | None:
    """Read a JSON object from the weights' folder; None when there is no such file."""
    file = checkpoint.path.parent / name
    if not file.is_file():
        return None
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(
            f"{file} beside the weights is not valid JSON: {error}; download it again"
        ) from error


def _digest(state: Mapping[str, Tensor], beside: bytes) -> str:
    """Hash what makes a text space: the float32 weights in name order, and what stands `beside`."""
    digest = hashlib.sha256(beside)
    for key in sorted(state):
        digest.update(f"{key}{tuple(state[key].shape)}".encode())
        digest.update(state[key].contiguous().numpy().tobytes())
    return digest.hexdigest()
