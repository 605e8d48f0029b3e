"""Text towers read from checkpoints: weights, sizes, temperature, tokenizer, name of their space.

CLIP's towers of two families are read, and BERT sentence encoders (MiniLM) and SigLIP 2's towers
in Hugging Face's layout. CLIP's checkpoints bring no tokenizer; its `tokenizer.json` is built from
the byte-pair merges of OpenAI's CLIP (MIT licence, `bpe_simple_vocab_16e6.txt`): of the 262,144
published there, the 48,894 that CLIP uses are kept.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor

from samclip.errors import CheckpointError, InputWarning, error_context, warn_caller
from samclip.export.checkpoints.checkpoint import Checkpoint, StateDict
from samclip.export.checkpoints.clip_settings import (
    CLIP_VOCABULARY,
    read_clip_settings,
    require_clip_vocabulary,
)
from samclip.export.checkpoints.metadata import HEAD, TOKENIZER_KEY, TextMetadata, decode_metadata
from samclip.export.checkpoints.sentence_encoder import read_sentence_encoder
from samclip.export.checkpoints.siglip_text import is_siglip, read_siglip_text
from samclip.export.checkpoints.text_checkpoint import (
    has_logit_scale,
    infer_text_config,
    logit_scale,
    text_state,
    usual_heads,
)
from samclip.export.models.bert_tower import BertTowerConfig, infer_bert_config, is_bert
from samclip.export.models.merged import TextConfig
from samclip.export.models.siglip_tower import SiglipTowerConfig, infer_siglip_config
from samclip.export.models.text_tower import TextTowerConfig
from samclip.runtime.text.tokenizer_file import CLIP_WORDS, END, START

TEXT_KEYS = ("text.", "text_model.", "token_embedding.")
BERT_LOGIT_SCALE = 20.0  # the factor on cosines in Sentence-BERT's contrastive training

MAX_PADDING = 1024  # rows of a table of tokens that no token has

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
        if isinstance(c, SiglipTowerConfig):
            return f"SigLIP text transformer {c.width}x{c.layers} -> {c.embed_dim}"
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
            siglip=self.config if isinstance(self.config, SiglipTowerConfig) else None,
            canonical=isinstance(self.config, SiglipTowerConfig),
        )


def has_text(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint holds a text tower of a family we know."""
    state = checkpoint.state
    return is_bert(state) or is_siglip(state) or any(checkpoint.has(prefix) for prefix in TEXT_KEYS)


def read_text(
    checkpoint: Checkpoint, quick_gelu: bool | None = None, usual: bool | None = None
) -> TextSource:
    """Take the text tower out of a checkpoint; raises CheckpointError when there is none.

    `quick_gelu` None takes a CLIP's activation from the files next to the weights, which do not
    show it, then `usual`; CheckpointError where both say nothing.
    """
    with error_context(checkpoint.path.name):
        if checkpoint.has(HEAD):
            return _read_merged(checkpoint)
        if is_bert(checkpoint.state):
            return _read_bert(checkpoint)
        if is_siglip(checkpoint.state):
            return _read_siglip(checkpoint)
        return _read_clip(checkpoint, quick_gelu, usual)


def read_tower(
    checkpoint: Checkpoint, quick_gelu: bool | None = None, usual: bool | None = None
) -> TextSource:
    """Take a text tower out of a checkpoint, to be exported with a model that names in its space.

    The parameters are those of `read_text`. Warns where a contrastive tower's temperature is
    missing. Raises CheckpointError when there is no tower, or its tokens are not its family's.
    """
    source = read_text(checkpoint, quick_gelu, usual)
    require_clip_tokens(source, checkpoint.path.name)
    is_contrastive = not isinstance(source.config, BertTowerConfig) and not checkpoint.has(HEAD)
    if is_contrastive and not has_logit_scale(checkpoint.state):
        warn_caller(
            f"{checkpoint.path.name} has no logit_scale, by which CLIP multiplies cosines: "
            f"{source.logit_scale:g} is taken, where CLIP's training ends. The order of names is "
            "right; their shares in per cent may not be",
            InputWarning,
        )
    return source


def _read_clip(checkpoint: Checkpoint, quick_gelu: bool | None, usual: bool | None) -> TextSource:
    """Read the text tower of a CLIP checkpoint, from open_clip or Hugging Face."""
    state = {key: value.float() for key, value in text_state(checkpoint.state).items()}
    settings = read_clip_settings(checkpoint, quick_gelu, usual)
    config = infer_text_config(state, quick_gelu=settings.quick_gelu, heads=settings.heads)
    require_clip_vocabulary(checkpoint.path.parent, lambda: clip_vocabulary(read_merges()))
    described = b"quick_gelu" if config.quick_gelu else b"gelu"
    if config.heads != usual_heads(config.width):
        described += b" %d heads" % config.heads
    return TextSource(
        state=state,
        config=config,
        logit_scale=logit_scale(checkpoint.state),
        space=_space_name(state, described),
        tokenizer=clip_tokenizer_json(),
    )


def _read_merged(checkpoint: Checkpoint) -> TextSource:
    """Read the tower of a merged checkpoint, as its metadata describes it."""
    name = checkpoint.path.name
    text = decode_metadata(dict(checkpoint.metadata), name).text
    config = None if text is None else text.tower
    tokenizer = checkpoint.metadata.get(TOKENIZER_KEY, "").encode() or clip_tokenizer_json()
    if text is None or config is None:
        raise CheckpointError(
            f"{name} has text.* weights, and metadata that does not describe them; "
            "save merged checkpoints with samclip.export.families.merged_assembly.save_merged"
        )
    state = checkpoint.part("text.")
    require_declared_tower(config, state, name)
    return TextSource(
        state=state,
        config=config,
        logit_scale=text.logit_scale,
        space=text.space,
        tokenizer=tokenizer,
    )


def require_declared_tower(config: TextConfig, state: Mapping[str, Tensor], name: str) -> None:
    """Check the sizes that metadata declares of a tower against its weights.

    Raises CheckpointError where they differ.
    """
    found: TextConfig
    if isinstance(config, BertTowerConfig):
        sizes = infer_bert_config(state, config.heads)
        found = replace(sizes, context_length=config.context_length, pad=config.pad)
        fits = 2 <= config.context_length <= sizes.positions and 0 <= config.pad < sizes.vocab_size
    elif isinstance(config, SiglipTowerConfig):
        found, fits = infer_siglip_config(state, config.heads), True
    else:
        found = infer_text_config(state, quick_gelu=config.quick_gelu, heads=config.heads)
        fits = True
    if found != config or not fits:
        raise CheckpointError(
            f"the metadata of {name} declares a text tower of other sizes ({config}) than its "
            f"weights have ({found}); save it again"
        )


def require_clip_tokens(source: TextSource, name: str) -> None:
    """Refuse a CLIP tower whose vocabulary is not that of CLIP's tokenizer.

    Tables are sometimes padded to a round number, which does no harm. Raises CheckpointError.
    """
    size = source.config.vocab_size
    padded = range(CLIP_VOCABULARY, CLIP_VOCABULARY + MAX_PADDING)
    if isinstance(source.config, TextTowerConfig) and size not in padded:
        raise CheckpointError(
            f"the text tower of {name} has {size:,} tokens, and CLIP's tokenizer "
            f"{CLIP_VOCABULARY:,}; only towers with CLIP's own tokenizer are supported"
        )


def _read_bert(checkpoint: Checkpoint) -> TextSource:
    """Read a sentence encoder, as the files next to its weights describe it."""
    encoder = read_sentence_encoder(checkpoint)
    return TextSource(
        state=encoder.state,
        config=encoder.config,
        logit_scale=BERT_LOGIT_SCALE,
        space=_space_name(encoder.state, repr(encoder.config).encode() + encoder.tokenizer),
        tokenizer=encoder.tokenizer,
    )


def _read_siglip(checkpoint: Checkpoint) -> TextSource:
    """Read a SigLIP 2 tower, as the files next to its weights describe it."""
    tower = read_siglip_text(checkpoint)
    return TextSource(
        state=tower.state,
        config=tower.config,
        logit_scale=logit_scale(checkpoint.state),
        space=_space_name(tower.state, repr(tower.config).encode() + tower.tokenizer),
        tokenizer=tower.tokenizer,
    )


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
