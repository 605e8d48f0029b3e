"""Settings of CLIP text towers that leave no trace in their weights.

The activation, the number of heads and the like are read from the files that publishers put next
to the weights: `open_clip_config.json` of open_clip, `config.json` of Hugging Face. What these do
not say is asked for; what they say and is not supported is refused. Nothing is assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from samclip.errors import CheckpointError, InputWarning, warn_caller
from samclip.export.checkpoints.checkpoint import Checkpoint
from samclip.export.checkpoints.model_files import Json, read_json, require_settings, table

OPEN_CLIP_FILE = "open_clip_config.json"
HF_FILE = "config.json"
HF_DEFAULT_ACTIVATION = "quick_gelu"  # of transformers' CLIPTextConfig, which omits defaults
CLIP_VOCABULARY = 49408
CLIP_END = 49407

# Settings with the only values that our towers have. Those that weights show are not listed.
OPEN_CLIP_BLOCKS: Json = {  # of the transformers of both towers
    "final_ln_after_pool": False,
    "act_kwargs": ({},),
    "norm_kwargs": ({}, {"eps": 1e-5}),
    "block_type": ("default", ""),
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
}
OPEN_CLIP_TEXT: Json = {
    "hf_model_name": "",
    "hf_tokenizer_name": "",
    "tokenizer_kwargs": ({}, {"clean": "lower"}),
    "tokenizer_mode": "",
    "embed_cls": False,
    "no_causal_mask": False,
    "pool_type": "argmax",
    "proj_bias": False,
    "proj_type": "linear",
    **OPEN_CLIP_BLOCKS,
}
HF_TEXT: Json = {
    "model_type": ("clip", "clip_text_model"),
    "hidden_act": ("quick_gelu", "gelu"),
    "layer_norm_eps": 1e-5,
    # 2 stands for the token with the highest id, in configurations older than its correction.
    "eos_token_id": (2, CLIP_END),
}
HF_MODEL: Json = {"model_type": ("clip", "clip_text_model")}
TOKENIZER_FILES = ("vocab.json", "tokenizer.json")
ONLY_CLIP = "Give a tower of CLIP's own architecture."


@dataclass(frozen=True)
class ClipSettings:
    """A text tower's activation and its heads; None where the usual number is not contradicted."""

    quick_gelu: bool
    heads: int | None = None


def read_clip_settings(
    checkpoint: Checkpoint, quick_gelu: bool | None = None, usual: bool | None = None
) -> ClipSettings:
    """Read the settings of a CLIP text tower from the files next to its weights.

    `quick_gelu` is what the caller knows, and wins; `usual` what a model of this type has, where
    no file says anything. Raises CheckpointError for settings that are not supported, and where
    nothing says what the activation is.
    """
    folder, name = checkpoint.path.parent, checkpoint.path.name
    stated: dict[str, bool] = {}
    heads: dict[str, object] = {}
    open_clip, hugging_face = read_descriptions(folder)
    if open_clip is not None:
        text = table(open_clip, "text_cfg")
        require_settings(text, OPEN_CLIP_TEXT, f"{OPEN_CLIP_FILE} next to {name}", ONLY_CLIP)
        stated[OPEN_CLIP_FILE] = bool(open_clip.get("quick_gelu", False))
        heads[OPEN_CLIP_FILE] = text.get("heads")
    for place, tower in _hugging_face_tables(hugging_face, folder).items():
        require_settings(tower, HF_TEXT, f"{HF_FILE} next to {name}", ONLY_CLIP)
        stated[place] = (tower.get("hidden_act") or HF_DEFAULT_ACTIVATION) == "quick_gelu"
        heads[place] = tower.get("num_attention_heads")
    if "input_resolution" in checkpoint.state:  # of OpenAI's own archives
        stated["the weights"] = True
    gelu = choose_activation(name, stated, quick_gelu, usual)
    return ClipSettings(gelu, _choose_heads(name, heads))


def choose_activation(
    name: str, stated: Mapping[str, bool], asked: bool | None, usual: bool | None = None
) -> bool:
    """Choose whether a tower of the file `name` has QuickGELU, by all that says something.

    `stated`: what files say, by their names; `asked` wins over it, `usual` is for want of both.
    Raises CheckpointError where files contradict each other, or nothing says anything.
    """
    if asked is not None:
        if stated and asked not in stated.values():
            warn_caller(
                f"{_flag(asked)} is used for {name}, though {' and '.join(stated)} says "
                f"{_flag(not asked)}; names will be wrong if that is right",
                InputWarning,
            )
        return asked
    if len(set(stated.values())) > 1:
        raise CheckpointError(
            f"the activation of {name} is QuickGELU by one and GELU by another of "
            f"{' and '.join(stated)}; give --quick-gelu or --gelu"
        )
    if stated:
        return next(iter(stated.values()))
    if usual is not None:
        return usual
    raise CheckpointError(
        f"{name} does not say whether its towers have QuickGELU or GELU, and its weights cannot "
        f"tell. Put the {HF_FILE} or {OPEN_CLIP_FILE} that was published with it next to it, or "
        "give --quick-gelu (OpenAI's, MetaCLIP's and DFN's weights) or --gelu (LAION's and "
        "DataComp's); in a run's file quick_gelu = true or false."
    )


def _flag(quick_gelu: bool) -> str:
    return "--quick-gelu" if quick_gelu else "--gelu"


def _choose_heads(name: str, stated: Mapping[str, object]) -> int | None:
    found = {value for value in stated.values() if value is not None}
    if not found:
        return None
    heads = found.pop()
    if found or not isinstance(heads, int) or isinstance(heads, bool) or not 0 < heads < 1000:
        raise CheckpointError(
            f"the files next to {name} do not say how many heads its text tower has: "
            f"{', '.join(f'{file} {str(value)[:20]}' for file, value in stated.items())}; download "
            "them again"
        )
    return heads


def read_descriptions(folder: Path) -> tuple[Json | None, Json | None]:
    """Read open_clip's and Hugging Face's description of a model; None for one that is missing.

    open_clip's may be in either of its layouts, and in the file of Hugging Face's name.
    """
    open_clip, hugging_face = read_json(folder, OPEN_CLIP_FILE), read_json(folder, HF_FILE)
    if hugging_face is not None and ("model_cfg" in hugging_face or "text_cfg" in hugging_face):
        open_clip, hugging_face = hugging_face if open_clip is None else open_clip, None
    return table(open_clip, "model_cfg") or open_clip, hugging_face


def _hugging_face_tables(content: Json | None, folder: Path) -> dict[str, Json]:
    """Return Hugging Face's descriptions of a text tower, by the place where each stands.

    Older files of a whole CLIP have two, and transformers takes the second.
    """
    if content is None:
        return {}
    require_settings(content, HF_MODEL, f"{HF_FILE} in {folder}", ONLY_CLIP)
    tables = {HF_FILE: table(content, "text_config") if "text_config" in content else content}
    if second := table(content, "text_config_dict"):
        tables[f"text_config_dict of {HF_FILE}"] = second
    return tables


def require_clip_vocabulary(folder: Path, vocabulary: Callable[[], Mapping[str, int]]) -> None:
    """Refuse a tower with another tokenizer; `vocabulary` makes CLIP's.

    Raises CheckpointError when the files next to the weights have other tokens.
    """
    for name in TOKENIZER_FILES:
        content = read_json(folder, name)
        own = content if name == "vocab.json" else table(content, "model").get("vocab")
        if own is not None and own != vocabulary():
            raise CheckpointError(
                f"{folder / name} has another vocabulary than CLIP's own. {ONLY_CLIP}"
            )
