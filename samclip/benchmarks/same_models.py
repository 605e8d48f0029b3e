"""Models of two reports that are the same, though another run called them otherwise.

A run names models by what distinguishes them within it: `tiny` alone becomes `tiny openvino` where
a second backend is measured too.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from samclip.benchmarks.records import Subject

# What makes two subjects the same, from the closest likeness to the remotest.
LIKENESSES = (
    ("name",),
    ("manifest_sha256", "backend", "precision"),
    ("manifest_sha256", "backend"),
    ("manifest_sha256",),
    ("fingerprint",),
)


def match_models(before: Sequence[Subject], after: Sequence[Subject]) -> dict[str, str]:
    """Map names of the first report's models to those of the second's, each to one at most.

    By name; then by the bundle's digest, with backend and precision as far as they are unique; and
    by being the only model of both.
    """
    matched: dict[str, str] = {}
    firsts, seconds = list(before), list(after)
    for fields in LIKENESSES:
        left, right = _by_likeness(firsts, fields), _by_likeness(seconds, fields)
        for likeness in left.keys() & right.keys():
            if len(left[likeness]) == len(right[likeness]) == 1:
                (first,), (second,) = left[likeness], right[likeness]
                matched[first.name] = second.name
        firsts = [subject for subject in firsts if subject.name not in matched]
        seconds = [subject for subject in seconds if subject.name not in matched.values()]
    if len(before) == len(after) == 1:
        matched[before[0].name] = after[0].name
    return matched


def _by_likeness(
    subjects: Sequence[Subject], fields: Sequence[str]
) -> dict[Hashable, list[Subject]]:
    found: dict[Hashable, list[Subject]] = {}
    for subject in subjects:
        if getattr(subject, fields[0]) is not None:
            values = tuple(getattr(subject, field) for field in fields)
            found.setdefault(values, []).append(subject)
    return found


def renamed(model: str, names: Mapping[str, str]) -> str:
    """Return what a row's model is called in the other report.

    A row may be of a part of a model: `tiny coarse` is of `tiny`.
    """
    owners = [name for name in names if model == name or model.startswith(f"{name} ")]
    if not owners:
        return model
    owner = max(owners, key=len)
    return names[owner] + model[len(owner) :]
