"""Models that two reports have in common, by what was measured and never by what it is called.

A run names models by what distinguishes them within it: `tiny` alone becomes `tiny openvino` where
a second backend is measured too, and another run may call another bundle `tiny`. So models are
matched by the hash of their bundle's manifest, or a teacher's fingerprint, together with backend,
precision and what their engines compute in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from samclip.benchmarks.records import Subject
from samclip.errors import InputError, did_you_mean

SHOWN = 12  # digits of a hash
BETWEEN = " / "  # the two models of a ratio

FULL = "fp32"  # what engines computed in where a report does not say it

Key = tuple[str, str | None, str | None, str]


@dataclass(frozen=True)
class Matching:
    """Which models of two reports are the same.

    `names`: names of the first report's models to those of the second's, one to one. `before` and
    `after`: the models of each report. `unmatched`: a line for each model without a partner, which
    says why.
    """

    names: Mapping[str, str]
    before: tuple[str, ...]
    after: tuple[str, ...]
    unmatched: tuple[str, ...]

    def renamed(self, model: str) -> str | None:
        """Return what a row's model of the first report is called in the second; None: not there.

        A row may be of a part of a model (`tiny coarse` of `tiny`), or of two (`a / b`). A row of
        no model at all, as of a way to run several, needs all models of both reports matched.
        """
        return _renamed(model, self.before, self.names, not self.unmatched)

    def kept(self, model: str) -> str | None:
        """Return a row's model of the second report; None where it was not matched."""
        same = {name: name for name in self.names.values()}
        return _renamed(model, self.after, same, not self.unmatched)


def match_models(
    before: Sequence[Subject], after: Sequence[Subject], given: Sequence[str] = ()
) -> Matching:
    """Match models by manifest hash or fingerprint, backend and precision; then by role, too.

    `given`: pairs "BEFORE=AFTER" of names that are compared though they are not the same. Raises
    InputError for a pair that is not of two models of the reports.
    """
    names = _given_pairs(given, before, after)
    for with_role in (False, True):  # one bundle may have two roles in a run
        firsts = [subject for subject in before if subject.name not in names]
        seconds = [subject for subject in after if subject.name not in names.values()]
        for first in firsts:
            twins = [other for other in seconds if _is_same(first, other, with_role)]
            rivals = [other for other in firsts if _is_same(first, other, with_role)]
            if len(twins) == len(rivals) == 1:
                names[first.name] = twins[0].name
    taken = set(names.values())
    lines = [_reason(s, "first", before, after) for s in before if s.name not in names]
    lines += [_reason(s, "second", after, before) for s in after if s.name not in taken]
    return Matching(names, _names(before), _names(after), tuple(lines))


def _names(subjects: Sequence[Subject]) -> tuple[str, ...]:
    return tuple(subject.name for subject in subjects)


def _key(subject: Subject) -> Key | None:
    """Return what identifies a subject; None where its report holds nothing that does."""
    identity = subject.manifest_sha256 or subject.fingerprint
    engine = subject.engine_precision or FULL
    return None if identity is None else (identity, subject.backend, subject.precision, engine)


def _is_same(one: Subject, other: Subject, with_role: bool) -> bool:
    roles_fit = not with_role or one.role == other.role
    return _key(one) is not None and _key(one) == _key(other) and roles_fit


def _is_alone(subject: Subject, others: Sequence[Subject]) -> bool:
    return sum(_key(other) == _key(subject) for other in others) == 1


def _given_pairs(
    given: Sequence[str], before: Sequence[Subject], after: Sequence[Subject]
) -> dict[str, str]:
    firsts, seconds = _names(before), _names(after)
    found: dict[str, str] = {}
    for text in given:
        parts = text.split("=")  # names may hold the sign, too
        ways = [("=".join(parts[:place]), "=".join(parts[place:])) for place in range(len(parts))]
        fitting = [way for way in ways if way[0] in firsts and way[1] in seconds]
        if len(fitting) != 1:
            hint = did_you_mean(parts[0], firsts) or did_you_mean(parts[-1], seconds)
            raise InputError(
                f"{text!r} does not name a model of each report; expected BEFORE=AFTER, with one "
                f"of {', '.join(firsts)}, and one of {', '.join(seconds)}{hint}"
            )
        first, second = fitting[0]
        if first in found or second in found.values():
            raise InputError(f"{text!r} pairs a model a second time; give each model once")
        found[first] = second
    return found


def _reason(subject: Subject, place: str, own: Sequence[Subject], others: Sequence[Subject]) -> str:
    """Return what a model without a partner is, and why it has none."""
    what = f"{subject.name} of the {place} report"
    identity = subject.manifest_sha256 or subject.fingerprint
    if identity is None:
        return f"{what}: the report holds no hash that would identify it"
    kind = "bundle" if subject.manifest_sha256 else "teacher"
    what = f"{what} ({kind} {identity[:SHOWN]}, {_run_as(subject)})"
    if not _is_alone(subject, own):
        return f"{what}: its report holds it more than once"
    alike = [o for o in others if identity in (o.manifest_sha256, o.fingerprint)]
    if not alike:
        return f"{what}: the other report has no {kind} with this hash"
    if any(_key(other) == _key(subject) for other in alike):
        return f"{what}: the other report holds it more than once, or for another model"
    return f"{what}: the other report ran this {kind} as {'; '.join(map(_run_as, alike))}"


def _run_as(subject: Subject) -> str:
    if subject.backend is None and subject.precision is None:
        return "without a backend"
    engine = subject.engine_precision or FULL
    computed = "" if engine == FULL else f", engines in {engine}"
    return f"{subject.backend} in {subject.precision or 'its own precision'}{computed}"


def _renamed(
    model: str, subjects: Sequence[str], names: Mapping[str, str], all_matched: bool
) -> str | None:
    owner = _owner(model, subjects)
    if BETWEEN in model and owner != model:
        parts = [_renamed(part, subjects, names, all_matched) for part in model.split(BETWEEN)]
        return None if None in parts else BETWEEN.join(part for part in parts if part is not None)
    if owner is None:
        return model if all_matched else None
    other = names.get(owner)
    return None if other is None else other + model[len(owner) :]


def _owner(model: str, subjects: Sequence[str]) -> str | None:
    """Return the model that a row, or its part, is of; None where that is not a single one."""
    owners = [name for name in subjects if model == name or model.startswith(f"{name} ")]
    return max(owners, key=len) if owners else None
