"""SigLIP 2 folders as transformers saves them: random weights, and a tokenizer of Gemma's kind.

The tokenizer is byte-pair encoding with a fallback to bytes, as SentencePiece's. Its merges are
learned from this project's own corpus of texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tests.support.text_corpus import corpus

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
SURROGATES = re.compile("[\ud800-\udfff]")
SPACE = "\u2581"
SIZES = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 56,
    "projection_size": 48,
    "max_position_embeddings": 64,
}


def whole_texts() -> list[str]:
    """Return the corpus without surrogates, which only samclip takes, in pairs."""
    return [text for text in corpus() if text.isascii() or not SURROGATES.search(text)]


def gemma_like_json(merges: int = 900) -> bytes:
    """Make a `tokenizer.json` with Gemma's components, and `merges` merges of its own."""
    texts = [text.replace(" ", SPACE) for text in whole_texts()]
    learned = Tokenizer(models.BPE(unk_token="<unk>"))
    learned.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=merges, special_tokens=["<unk>"], show_progress=False, max_token_length=16
        ),
    )
    own = json.loads(learned.to_str())["model"]
    pieces = sorted(own["vocab"], key=own["vocab"].__getitem__)
    names = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    vocabulary = {name: number for number, name in enumerate(dict.fromkeys(names))}
    model = models.BPE(
        vocabulary,
        [tuple(each) for each in own["merges"]],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    made = Tokenizer(model)
    made.add_special_tokens(list(SPECIAL))
    made.normalizer = normalizers.Replace(" ", SPACE)
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.post_processor = processors.TemplateProcessing(
        single="$A <eos>", pair="$A <eos> $B:1 <eos>:1", special_tokens=[("<eos>", 1)]
    )
    made.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return made.to_str(pretty=True).encode()


def write_tokenizer(folder: Path, data: bytes) -> int:
    """Write a tokenizer as a folder of SigLIP 2 has it; return the number of its tokens."""
    (folder / "tokenizer.json").write_bytes(data)
    settings = {
        "add_bos_token": False,
        "add_eos_token": True,
        "eos_token": "<eos>",
        "pad_token": {"__type": "AddedToken", "content": "<pad>", "special": True},
        "padding_side": "right",
        "tokenizer_class": "GemmaTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return len(json.loads(data)["model"]["vocab"])


def save_siglip(
    folder: Path, *, shards: str = "5GB", sizes: Mapping[str, int] | None = None
) -> Any:
    """Save a random SigLIP 2 with its tokenizer; return the whole model of transformers."""
    from transformers import SiglipConfig, SiglipModel

    folder.mkdir(exist_ok=True)
    count = write_tokenizer(folder, gemma_like_json())
    torch.manual_seed(5)
    vision = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1}
    vision |= {"intermediate_size": 40, "image_size": 32}
    text = {**SIZES, **(sizes or {}), "vocab_size": count}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms that matter
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.logit_scale.fill_(4.7)
    model.save_pretrained(folder, max_shard_size=shards)
    return model
