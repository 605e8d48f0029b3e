from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import fake_model
from made_data import NAMES, stripes, write_camvid

from samclip.benchmarks.accuracy.semantic import Labeller, evaluate_semantic, tally
from samclip.benchmarks.data.label_maps import IGNORED, LabelFolder, read_label_folder
from samclip.benchmarks.rows import Row

VOID = 11


@pytest.fixture
def folder(tmp_path: Path) -> LabelFolder:
    """Half red, half blue; in truth a quarter red, a quarter green, 96 columns blue, 32 void."""
    truth = np.zeros((256, 256), np.uint8)
    truth[:, 64:128] = 1
    truth[:, 128:224] = 2
    truth[:, 224:] = VOID
    return read_label_folder(write_camvid(tmp_path, {"a": (stripes(0, 2), truth)}, void=VOID))


def by_place(rows: list[Row]) -> dict[tuple[str, str, str], Row]:
    return {(row.model, row.measure, row.subset): row for row in rows}


def test_miou_by_hand(folder: LabelFolder) -> None:
    model = fake_model()
    labellers = {"fake": Labeller(model, model.vocabulary(NAMES))}
    rows = by_place(evaluate_semantic(labellers, folder.photos, folder.names))
    found = rows["fake", "mIoU", "labelled pixels"]
    assert found.value == pytest.approx((64 / 128 + 0 + 1) / 3)
    assert (found.n, found.photos) == (256 * 224, 1)
    ious = {name: rows["fake", "IoU", name] for name in NAMES}
    assert [ious[name].value for name in NAMES] == [0.5, 0.0, 1.0]
    assert all(row.detail for row in ious.values())
    constant = rows["'blue' everywhere", "mIoU", "labelled pixels"]
    assert constant.value == pytest.approx(96 / 224 / 3)


def test_classes_that_occur_nowhere_do_not_count(folder: LabelFolder) -> None:
    model = fake_model()
    names = ("red", "green", "blue", "red")  # the fourth is in no truth and in no answer
    labellers = {"fake": Labeller(model, model.vocabulary(names))}
    rows = by_place(evaluate_semantic(labellers, folder.photos, names))
    assert rows["fake", "mIoU", "labelled pixels"].value == pytest.approx(0.5)
    assert len([row for row in rows.values() if row.detail]) == 3


def test_coarse_and_refined_share_a_pass(folder: LabelFolder) -> None:
    model, other = fake_model(), fake_model()
    vocabulary = model.vocabulary(NAMES)
    labellers = {
        "coarse": Labeller(model, vocabulary),
        "refined": Labeller(model, vocabulary, refine=True),
        "other": Labeller(other, other.vocabulary(NAMES)),
    }
    rows = by_place(evaluate_semantic(labellers, folder.photos, folder.names))
    assert {"coarse", "refined", "other"} <= {model for model, _, _ in rows}
    assert (model.encoder_passes, other.encoder_passes) == (1, 1)
    coarse, other_coarse = (rows[n, "mIoU", "labelled pixels"].value for n in ("coarse", "other"))
    assert coarse == other_coarse


def test_a_tally_by_hand() -> None:
    truth = np.array([[0, 0, 1, IGNORED], [2, 2, 1, IGNORED]])
    answer = np.array([[0, 1, 1, 0], [-1, 2, 0, 2]])
    assert tally(answer, truth, 4).tolist() == [[1, 1, 1, 0], [2, 2, 2, 0], [2, 2, 1, 0]]
