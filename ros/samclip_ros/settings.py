"""The parameters of the node: each declared once, with its meaning and limits, and checked.

Needs no ROS. `read` makes `Settings` of what a parameter server has; `ros` and `config` hold the
same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from samclip import InputError

UNLABELLED = 255  # of a mask's pixels without a name, as vision_msgs/LabelInfo reserves it
MOST_NAMES = 255  # the values 0 to 254
CHOICES = {"image_transport": ("raw", "compressed"), "class_ids": ("number", "name")}
Value = bool | int | float | str | tuple[str, ...]


def _parameter(default: Value, about: str, *, live: bool = False, **limits: float) -> Any:
    return field(default=default, metadata={"about": about, "live": live, "limits": limits})


@dataclass(frozen=True)
class Settings:
    """What the node was asked to do; each field is a parameter of the same name."""

    names: tuple[str, ...] = _parameter(
        (), "The names to choose from, at least one; blank ones are left out.", live=True
    )
    unlabelled: str = _parameter(
        "", "What label_info calls pixels without a name (255); empty leaves them out.", live=True
    )
    background: float = _parameter(
        0.5,
        "Pixels whose best name is less probable get no name; 0 names all.",
        live=True,
        least=0.0,
        most=1.0,
    )
    refine: bool = _parameter(False, "Let SAM's decoder draw the map's borders.", live=True)
    detections: bool = _parameter(True, "Find and track objects too.", live=True)
    points_per_side: int = _parameter(
        16, "Objects are searched by a grid of so many points a side.", live=True, least=1, most=64
    )
    class_ids: str = _parameter(
        "number", 'class_id of a detection: its "number" in the mask, or its "name".', live=True
    )
    templates: str = _parameter("", 'Prompt templates, as "openai"; empty for the bundle\'s.')
    max_fps: float = _parameter(
        0.0, "Answer at most so many frames a second; 0 for no limit.", least=0.0, most=1000.0
    )
    skip_still: float = _parameter(
        0.0,
        "Reuse the answer where nothing differs by so many grey levels; 0 never does.",
        least=0.0,
        most=255.0,
    )
    image_transport: str = _parameter(
        "raw", '"raw" subscribes to image, "compressed" to image/compressed.'
    )
    silent_after: float = _parameter(
        5.0, "Seconds without an image after which diagnostics warn.", least=0.1, most=3600.0
    )
    bundle: str = _parameter("", "The bundle, by name or folder; empty for samclip-tiny.")
    backend: str = _parameter("auto", "onnxruntime, openvino, tensorrt, ...; auto: the fastest.")
    device: str = _parameter("", "cpu, cuda or cuda:1; empty for the fastest.")
    precision: str = _parameter("", "fp32, fp16 or int8; empty for the bundle's preference.")
    threads: int = _parameter(0, "Threads on a CPU; 0 for all cores.", least=0, most=1024)
    autostart: bool = _parameter(False, "Configure and activate when the node starts.")

    def floor(self) -> float | None:
        """Return the probability that a pixel's name needs, None where each pixel has a name.

        The best of K names has at least 1 / K: a floor up to that leaves nothing out.
        """
        return self.background if self.background > 1 / len(self.names) else None


@dataclass(frozen=True)
class Declared:
    """A parameter: its name and default, its meaning, whether it changes live, its limits."""

    name: str
    default: Value
    about: str
    live: bool
    limits: Mapping[str, float]


PARAMETERS = tuple(
    Declared(each.name, each.default, **each.metadata)
    for each in fields(Settings)
    if each.default is not MISSING  # for the checker of types: each has one
)
LIVE = frozenset(each.name for each in PARAMETERS if each.live)


def read(values: Mapping[str, Any]) -> Settings:
    """Return the settings of a parameter server's values; raises InputError.

    Blank names are left out, and spaces around names: an empty list cannot be told in YAML.
    """
    given = dict(values)
    names = tuple(name.strip() for name in given.get("names") or () if name.strip())
    given["names"] = names
    if not names:
        raise InputError(
            'the parameter names has no names. Give some: names: ["floor", "wall", "person"].'
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"the parameter names has {twice[0]!r} twice. Give each name once.")
    if len(names) > MOST_NAMES:
        raise InputError(
            f"a mono8 mask has room for {MOST_NAMES} names; got {len(names)}. Leave some out."
        )
    for name, known in CHOICES.items():
        if given[name] not in known:
            raise InputError(
                f"the parameter {name} is one of {', '.join(known)}; got {given[name]!r}."
            )
    return Settings(**given)
