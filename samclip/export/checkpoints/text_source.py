"""Text towers read from checkpoints: weights, sizes, temperature, tokenizer, name of their space.

CLIP's towers of two families are read, and BERT sentence encoders (MiniLM) in Hugging Face's
layout. CLIP's checkpoints bring no tokenizer; its `tokenizer.json` is built from the byte-pair
merges of OpenAI's CLIP (MIT licence, `bpe_simple_vocab_16e6.txt`): of the 262,144 published there,
the 48,894 that CLIP uses are kept.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor

from samclip.errors import CheckpointError, error_context
from samclip.export.checkpoints.checkpoint import Checkpoint, StateDict
from samclip.export.checkpoints.metadata import HEAD, TOKENIZER_KEY, TextMetadata, decode_metadata
from samclip.export.checkpoints.text_checkpoint import infer_text_config, logit_scale, text_state
from samclip.export.models.bert_tower import (
    IGNORED_CHECKPOINT_KEYS,
    BertTowerConfig,
    infer_bert_config,
    is_bert,
)
from samclip.export.models.merged import TextConfig
from samclip.export.models.text_tower import TextTowerConfig
from samclip.runtime.text.tokenizer_file import CLIP_WORDS, END, START

TEXT_KEYS = ("text.", "text_model.", "token_embedding.")
HF_DEFAULT_ACTIVATION = "quick_gelu"  # the default of transformers' CLIPTextConfig
BERT_LOGIT_SCALE = 20.0  # the factor on cosines in Sentence-BERT's contrastive training

MERGES_FILE = Path(__file__).parents[1] / "assets" / "clip_bpe_merges.txt.gz"
MERGE_COUNT = 49152 - 256 - 2
END_OF_WORD = "</w>"


@dataclass(frozen=True)
class TextSource:
    """A text tower's weights under our names.

    `logit_scale` multiplies cosines; `tokenizer` is the content of `tokenizer.json`. `space` is the
    SHA-256 of the weights: embeddings from different spaces do not compare.
    """

    state: StateDict
    config: TextConfig
    logit_scale: float
    space: str
    tokenizer: bytes

    @property
    def model(self) -> str:
        """A short description for people."""
        c = self.config
        if isinstance(c, BertTowerConfig):
            return f"BERT sentence encoder {c.width}x{c.layers} -> {c.embed_dim}"
        gelu = ", QuickGELU" if c.quick_gelu else ""
        return f"CLIP text transformer {c.width}x{c.layers} -> {c.embed_dim}{gelu}"

    @property
    def metadata(self) -> TextMetadata:
        """The description that goes into a checkpoint with this tower."""
        return TextMetadata(
            model=self.model,
            logit_scale=self.logit_scale,
            space=self.space,
            clip=self.config if isinstance(self.config, TextTowerConfig) else None,
            bert=self.config if isinstance(self.config, BertTowerConfig) else None,
        )


def has_text(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint holds a text tower of a family we know."""
    return is_bert(checkpoint.state) or any(checkpoint.has(prefix) for prefix in TEXT_KEYS)


def read_text(checkpoint: Checkpoint, quick_gelu: bool | None = None) -> TextSource:
    """Take the text tower out of a checkpoint; raises CheckpointError when there is none.

    `quick_gelu` None decides by the checkpoint's family, since weights do not tell the activation.
    """
    with error_context(checkpoint.path.name):
        if checkpoint.has(HEAD):
            return _read_merged(checkpoint)
        if is_bert(checkpoint.state):
            return _read_bert(checkpoint)
        return _read_clip(checkpoint, quick_gelu)


def _read_clip(checkpoint: Checkpoint, quick_gelu: bool | None) -> TextSource:
    """Read the text tower of a CLIP checkpoint, from open_clip or Hugging Face."""
    state = {key: value.float() for key, value in text_state(checkpoint.state).items()}
    gelu = _quick_gelu(checkpoint) if quick_gelu is None else quick_gelu
    config = infer_text_config(state, quick_gelu=gelu)
    return TextSource(
        state=state,
        config=config,
        logit_scale=logit_scale(checkpoint.state),
        space=_space_name(state, b"quick_gelu" if gelu else b"gelu"),
        tokenizer=clip_tokenizer_json(),
    )


def _read_merged(checkpoint: Checkpoint) -> TextSource:
    """Read the tower of a merged checkpoint, as its metadata describes it."""
    text = decode_metadata(dict(checkpoint.metadata), checkpoint.path.name).text
    config = None if text is None else text.clip or text.bert
    tokenizer = checkpoint.metadata.get(TOKENIZER_KEY, "").encode() or clip_tokenizer_json()
    if text is None or config is None:
        raise CheckpointError(
            f"{checkpoint.path.name} has text.* weights, and metadata that does not describe them; "
            "save merged checkpoints with samclip.export.families.merged_assembly.save_merged"
        )
    return TextSource(
        state=checkpoint.part("text."),
        config=config,
        logit_scale=text.logit_scale,
        space=text.space,
        tokenizer=tokenizer,
    )


def _read_bert(checkpoint: Checkpoint) -> TextSource:
    """Read a sentence encoder; `config.json` and `tokenizer.json` lie next to its weights."""
    config = _read_json(checkpoint, "config.json") or {}
    tokenizer = checkpoint.path.with_name("tokenizer.json")
    heads = config.get("num_attention_heads")
    if not isinstance(heads, int) or not tokenizer.is_file():
        raise CheckpointError(
            f"{checkpoint.path.name} is a BERT encoder; expected next to it config.json with "
            "num_attention_heads, and tokenizer.json. Give the whole model folder."
        )
    _check_bert(checkpoint, config)
    state = {
        key: value.float()
        for key, value in checkpoint.state.items()
        if key not in IGNORED_CHECKPOINT_KEYS
    }
    sizes = infer_bert_config(state, heads)
    vocabulary = tokenizer.read_bytes()
    return TextSource(
        state=state,
        config=sizes,
        logit_scale=BERT_LOGIT_SCALE,
        space=_space_name(state, repr(sizes).encode() + vocabulary),
        tokenizer=vocabulary,
    )


def _check_bert(checkpoint: Checkpoint, config: Mapping[str, object]) -> None:
    """Refuse encoders that would load but embed wrongly: other activations, other pooling."""
    activation = config.get("hidden_act", "gelu")
    pooling = _read_json(checkpoint, "1_Pooling/config.json") or {}
    if activation != "gelu":
        raise CheckpointError(
            f"{checkpoint.path.name} is a BERT encoder with hidden_act {activation!r}, expected "
            "gelu; give an encoder that has it, such as MiniLM"
        )
    if not pooling.get("pooling_mode_mean_tokens", True):
        raise CheckpointError(
            f"{checkpoint.path.name} does not pool by the mean of its tokens, the only way that is "
            "supported; give a sentence encoder that does, such as MiniLM"
        )


def _quick_gelu(checkpoint: Checkpoint) -> bool:
    """Whether the activation is QuickGELU, as each family states it.

    Hugging Face: `hidden_act` of the `config.json` next to the weights, or that library's default.
    OpenAI's own archives, which have `input_resolution`: yes. open_clip's: no.
    """
    if not checkpoint.has("text_model."):
        return "input_resolution" in checkpoint.state
    content = _read_json(checkpoint, "config.json") or {}
    text = content.get("text_config", content)
    activation = text.get("hidden_act") if isinstance(text, dict) else None
    return (activation or HF_DEFAULT_ACTIVATION) == "quick_gelu"


def _read_json(checkpoint: Checkpoint, name: str) -> dict[str, object] | None:
    """Read a JSON object from the weights' folder; None if the file is missing."""
    file = checkpoint.path.parent / name
    if not file.is_file():
        return None
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(
            f"{file} next to the weights is not valid JSON: {error}; download it again"
        ) from error


def _space_name(state: Mapping[str, Tensor], settings: bytes) -> str:
    """Hash all that decides a text space: `settings`, and the float32 weights in name order."""
    digest = hashlib.sha256(settings)
    for key in sorted(state):
        digest.update(f"{key}{tuple(state[key].shape)}".encode())
        digest.update(state[key].contiguous().numpy().tobytes())
    return digest.hexdigest()


def clip_tokenizer_json() -> bytes:
    """Build CLIP's `tokenizer.json`, in the format of the `tokenizers` library.

    It is for texts that the runtime has cleaned (its tokenizer's `clean_text`). Start and end
    tokens are added when the library is asked for special tokens.
    """
    merges = read_merges()
    vocabulary = clip_vocabulary(merges)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix=END_OF_WORD))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(name, vocabulary[name]) for name in (START, END)],
    )
    return tokenizer.to_str().encode("utf-8")


def read_merges(file: Path = MERGES_FILE) -> list[tuple[str, str]]:
    """Return the merges, the most frequent first."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        pairs = [line.split() for line in lines]
    return [(left, right) for left, right in pairs]


def clip_vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    """Return CLIP's id of each token: bytes, bytes that end a word, merges, special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [
        *alphabet,
        *(byte + END_OF_WORD for byte in alphabet),
        *(left + right for left, right in merges),
        START,
        END,
    ]
    return {token: number for number, token in enumerate(tokens)}
