"""Average precisions as rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from samclip.benchmarks.accuracy.average_precision import AveragePrecision
from samclip.benchmarks.rows import Row, Unit, make_row
from samclip.benchmarks.statistics import Estimate

Place = tuple[str, str]  # model and kind of prompt, such as "box AP"


def precision_rows(
    precisions: Mapping[Place, Sequence[AveragePrecision]], photos: int
) -> Iterator[Row]:
    """Give the precisions of models, kind by kind, and the first model's divided by each other's.

    AP is no mean over photos, and has no interval.
    """
    for kind in dict.fromkeys(kind for _, kind in precisions):
        of_kind = {model: found for (model, other), found in precisions.items() if other == kind}
        first, *others = of_kind
        for model, found in of_kind.items():
            yield from (_row(model, kind, one, one.value, photos) for one in found)
        for other in others:
            for one, base in zip(of_kind[first], of_kind[other], strict=True):
                value = one.value / base.value if base.value else math.nan
                yield _row(f"{first} / {other}", kind, one, value, photos, "ratio")


def _row(
    model: str, kind: str, one: AveragePrecision, value: float, photos: int, unit: Unit = "share"
) -> Row:
    estimate = Estimate(value, math.nan, math.nan, one.objects, photos)
    measure = kind.replace("AP", one.measure)
    return make_row(model, measure, one.subset, estimate, unit)
