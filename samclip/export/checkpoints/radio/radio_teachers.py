"""The teachers of a C-RADIO, as the `args` inside its checkpoint describe them.

Their names, order and settings differ from file to file, so nothing is assumed of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from samclip.errors import CheckpointError
from samclip.export.checkpoints.pickles import Arguments

VERSIONS = ("v1", "v2", "attn")
TEXT_TYPES = ("siglip", "siglip2", "open_clip", "clip")  # teachers with a text tower
SIGLIP = "siglip"  # in the type or the model's name of those whose tower is SigLIP's
QUICK_GELU = "quickgelu"  # in open_clip's names of models with that activation
SAM_TYPE = "sam"
MODEL_KEYS = ("model", "version")  # of a teacher's own model


@dataclass(frozen=True)
class Teacher:
    """One teacher: its `name`, its `kind` ("siglip2", "sam"), and its `index` among the teachers.

    `model` is what the file calls the teacher's own model, such as open_clip's
    "ViT-H-14-378-quickgelu" or "siglip2-g-384"; empty where it does not say. `slot` is its place
    among the prefix tokens. `summary` and `spatial` are the forms of its heads, None where the file
    leaves them open; `upsample` is how much finer its features are than the patches. `use_summary`
    False means that it has no head for the summary token.
    """

    name: str
    kind: str
    index: int
    slot: int
    summary: str | None = None
    spatial: str | None = None
    upsample: int = 1
    use_summary: bool = True
    model: str = ""

    @property
    def has_text(self) -> bool:
        """Whether its summary is in a space that a text tower leads to."""
        return self.use_summary and self.kind in TEXT_TYPES

    @property
    def is_siglip(self) -> bool:
        """Whether its text tower is a SigLIP's, rather than a CLIP's."""
        return SIGLIP in self.kind or SIGLIP in self.model.lower()

    @property
    def quick_gelu(self) -> bool | None:
        """Whether its CLIP has QuickGELU, as its model's name says; None without a name."""
        return QUICK_GELU in self.model.lower() if self.model and not self.is_siglip else None

    @property
    def is_sam(self) -> bool:
        """Whether its features are those of SAM's encoder, of the first SAM alone."""
        return self.kind == SAM_TYPE


@dataclass(frozen=True)
class Teachers:
    """All teachers; before the patches come `cls_tokens`, then `registers`."""

    all: tuple[Teacher, ...]
    cls_tokens: int
    registers: int

    @property
    def names(self) -> str:
        """The teachers' names for a message, with their types where these differ."""
        return ", ".join(
            each.name if each.name == each.kind else f"{each.name} ({each.kind})"
            for each in self.all
        )


def read_teachers(arguments: Mapping[str, Any], what: str) -> Teachers:
    """Read the teachers out of a checkpoint's `args`; `what` is the file's name.

    Raises CheckpointError when they are missing, or are not what they should be.
    """
    given = arguments.get("teachers")
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise CheckpointError(
            f"the args of {what} list no teachers, which say what its heads are for; give the "
            ".pth.tar as it was published"
        )
    if _flag(arguments, "model_norm", False, what):
        raise CheckpointError(
            f"the args of {what} set model_norm, a norm behind the last block that no published "
            "C-RADIO has; it is not supported"
        )
    per_teacher = _flag(arguments, "cls_token_per_teacher", False, what)
    found: dict[str, Teacher] = {}
    for each in given:
        settings = each.values if isinstance(each, Arguments) else each
        if not isinstance(settings, dict):
            raise CheckpointError(
                f"the args of {what} have a teacher that is not a dictionary of settings; give "
                "the .pth.tar as it was published"
            )
        teacher = _read_one(settings, len(found), arguments, per_teacher, what)
        found.setdefault(teacher.name, teacher)
    count = len(found) if per_teacher else 1
    teachers = Teachers(tuple(found.values()), count, _registers(arguments, count, what))
    for teacher in teachers.all:
        if not 0 <= teacher.slot < count:
            raise CheckpointError(
                f"the args of {what} give the teacher {teacher.name} the token {teacher.slot}, of "
                f"{count}; the file is damaged or of an unknown version"
            )
    return teachers


def _read_one(
    settings: dict[str, Any],
    index: int,
    arguments: Mapping[str, Any],
    per_teacher: bool,
    what: str,
) -> Teacher:
    name = settings.get("name")
    if not isinstance(name, str) or not name or len(name) > 100 or not name.isprintable():
        raise CheckpointError(
            f"the args of {what} have a teacher without a name; give the .pth.tar as it was "
            "published"
        )
    common = _version(arguments, "mlp_version", what)
    spatial = _version(arguments, "spatial_mlp_version", what)
    return Teacher(
        name=name,
        kind=_kind(settings.get("type"), name),
        index=index,
        slot=_number(settings, "token_slot", index, what) if per_teacher else 0,
        summary=_version(settings, "mlp_version", what) or common,
        spatial=_version(settings, "spatial_mlp_version", what) or spatial or common,
        upsample=_number(settings, "fd_upsample_factor", 1, what),
        use_summary=_flag(settings, "use_summary", True, what),
        model=next((v for v in map(settings.get, MODEL_KEYS) if isinstance(v, str)), ""),
    )


def _kind(given: object, name: str) -> str:
    """Return a teacher's type; where there is none, the one that its name begins with."""
    if isinstance(given, str) and given:
        return given.lower()
    known = sorted((*TEXT_TYPES, "sam3", "sam2", SAM_TYPE), key=len, reverse=True)
    return next((kind for kind in known if name.lower().startswith(kind)), name)


def _registers(arguments: Mapping[str, Any], count: int, what: str) -> int:
    registers = _number(arguments, "cpe_num_registers", -1, what)
    if registers >= 0:
        return registers
    multiple = _number(arguments, "register_multiple", 0, what)
    return multiple - count % multiple if multiple > 0 else 0


def _number(settings: Mapping[str, Any], key: str, default: int, what: str) -> int:
    value = settings.get(key)
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool) or value != int(value):
        raise _unexpected(what, key, value, "a whole number")
    return int(value)


def _flag(settings: Mapping[str, Any], key: str, default: bool, what: str) -> bool:
    value = settings.get(key)
    if value is None:
        return default
    if value not in (0, 1):
        raise _unexpected(what, key, value, "true or false")
    return bool(value)


def _version(settings: Mapping[str, Any], key: str, what: str) -> str | None:
    value = settings.get(key)
    if value is None or value in VERSIONS:
        return value
    raise _unexpected(what, key, value, f"one of {', '.join(VERSIONS)}")


def _unexpected(what: str, key: str, value: object, expected: str) -> CheckpointError:
    return CheckpointError(
        f"the args of {what} have {key}={value!r:.60}, expected {expected}; this version of "
        "C-RADIO is not supported"
    )
