from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import fake_model
from made_data import NAMES, stripes, write_camvid

from samclip.benchmarks.accuracy.label_maps import Labeller, Part, evaluate_semantic, tally
from samclip.benchmarks.class_names import AskedClasses, ask_classes
from samclip.benchmarks.data.label_folder import IGNORED, LabelFolder, read_label_folder
from samclip.benchmarks.records import Row
from samclip.errors import InputError, InputWarning
from samclip.runtime.model import Model
from samclip.runtime.results.classification import SemanticMap
from samclip.runtime.scene import Scene
from samclip.runtime.text.vocabulary import Vocabulary

VOID = 11


@pytest.fixture
def folder(tmp_path: Path) -> LabelFolder:
    """Half red, half blue; in truth a quarter red, a quarter green, 96 columns blue, 32 void."""
    truth = np.zeros((256, 256), np.uint8)
    truth[:, 64:128] = 1
    truth[:, 128:224] = 2
    truth[:, 224:] = VOID
    return read_label_folder(write_camvid(tmp_path, {"a": (stripes(0, 2), truth)}, void=VOID))


def ask(model: Model, *names: str) -> AskedClasses:
    return ask_classes(model, {place: [name] for place, name in enumerate(names)})


def by_place(rows: list[Row]) -> dict[tuple[str, str, str], Row]:
    return {(row.model, row.measure, row.subset): row for row in rows}


def independent_miou(answers: np.ndarray, truths: np.ndarray) -> float:
    """mIoU by sets of pixels, class by class, over what is labelled."""
    known = truths >= 0
    ious = []
    for label in np.unique(truths[known]):
        here, there = (answers == label) & known, truths == label
        ious.append((here & there).sum() / (here | there).sum())
    return float(np.mean(ious))


def test_miou_by_hand(folder: LabelFolder) -> None:
    model = fake_model()
    labellers = [Labeller("fake", model, ask(model, *NAMES))]
    rows = by_place(evaluate_semantic(labellers, folder.photos, folder.names))
    found = rows["fake", "mIoU", "labelled pixels"]
    assert found.value == pytest.approx((64 / 128 + 0 + 1) / 3)
    assert (found.n, found.photos) == (256 * 224, 1)
    ious = {name: rows["fake", "IoU", name] for name in NAMES}
    assert [ious[name].value for name in NAMES] == [0.5, 0.0, 1.0]
    assert all(row.detail for row in ious.values())
    constant = rows["'blue' everywhere", "mIoU", "labelled pixels"]
    assert constant.value == pytest.approx(96 / 224 / 3)


def test_miou_of_many_photos_is_that_of_an_independent_count(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    photos = {
        f"{number}": (stripes(*random.integers(0, 3, 4)), random.integers(0, 4, (256, 256)))
        for number in range(4)
    }
    folder = read_label_folder(write_camvid(tmp_path, photos, void=3))
    model = fake_model()
    rows = evaluate_semantic(
        [Labeller("fake", model, ask(model, *NAMES))], folder.photos, folder.names
    )
    answers = np.stack([model.encode(p.pixels()).semantic(NAMES).labels for p in folder.photos])
    truths = np.stack([photo.labels() for photo in folder.photos])
    value = by_place(rows)["fake", "mIoU", "labelled pixels"].value
    assert value == pytest.approx(independent_miou(answers, truths), abs=1e-12)
    assert 0 < value < 1


def test_classes_that_occur_nowhere_do_not_count(folder: LabelFolder) -> None:
    model = fake_model()
    names = ("red", "green", "blue", "red")  # the fourth is in no truth and in no answer
    with pytest.warns(InputWarning, match="'red' and 'red'"):
        labellers = [Labeller("fake", model, ask(model, *names))]
    rows = by_place(evaluate_semantic(labellers, folder.photos, names))
    assert rows["fake", "mIoU", "labelled pixels"].value == pytest.approx(0.5)
    assert len([row for row in rows.values() if row.detail]) == 3


def test_the_best_of_a_class_s_texts_speaks_for_it(folder: LabelFolder) -> None:
    model = fake_model()
    asked = ask_classes(model, {0: ["blue", "red"], 1: ["green"]})
    labels = Labeller("fake", model, asked).label(model.encode(folder.photos[0].pixels()))
    assert (labels == 0).all()  # red pixels by the second text, blue ones by the first


def test_a_labeller_asks_for_its_kind_of_map(
    folder: LabelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, given = fake_model(), []
    plain = Scene.semantic

    def note(scene: Scene, names: Vocabulary, **options: Any) -> SemanticMap:
        given.append(options)
        return plain(scene, names, **options)

    monkeypatch.setattr(Scene, "semantic", note)
    asked = ask(model, *NAMES)
    with model.encode(folder.photos[0].pixels()) as scene:
        Labeller("fake", model, asked, Part(threshold=0.25), refine=True, denoise=0.5).label(scene)
        Labeller("fake", model, asked).label(scene)
    assert given[0] == {"refine": True, "background": 0.25, "denoise": 0.5}
    assert given[1] == {"refine": False, "background": None, "denoise": None}


def test_background_counts_only_where_it_is_asked_for(folder: LabelFolder) -> None:
    model = fake_model()
    without = Part("without", ignored=0)
    asked = ask_classes(model, {1: ["green"], 2: ["blue"]})
    labellers = [
        Labeller("fake", model, ask(model, *NAMES), Part("with")),
        Labeller("fake", model, asked, without),
    ]
    rows = by_place(evaluate_semantic(labellers, folder.photos, folder.names))
    assert rows["fake", "mIoU", "with"].value == pytest.approx((64 / 128 + 0 + 1) / 3)
    found = rows["fake", "mIoU", "without"]
    assert found.n == 256 * (64 + 96)
    # where the truth is green it looks red, as near to green as to blue; the first of equal
    # names wins, but for the 8 columns on which upscaling lays the blue next to them
    assert found.value == pytest.approx((56 / 64 + 96 / (96 + 8)) / 2)
    assert ("fake", "IoU", "red, without") not in rows
    assert rows["'blue' everywhere", "mIoU", "without"].value == pytest.approx(96 / 160 / 2)


def test_unsure_pixels_are_background(folder: LabelFolder) -> None:
    model = fake_model()
    asked = ask_classes(model, {1: ["green"], 2: ["blue"]})
    part = Part(fallback=0, threshold=0.9)  # red is as near to green as to blue: 0.5
    rows = by_place(
        evaluate_semantic([Labeller("fake", model, asked, part)], folder.photos, folder.names)
    )
    assert rows["fake", "IoU", "red"].value == pytest.approx(0.5, abs=0.05)  # borders are soft
    assert rows["fake", "IoU", "blue"].value == pytest.approx(1, abs=0.1)


def test_coarse_and_refined_share_a_pass(folder: LabelFolder) -> None:
    model, other = fake_model(), fake_model()
    asked = ask(model, *NAMES)
    labellers = [
        Labeller("coarse", model, asked),
        Labeller("refined", model, asked, refine=True),
        Labeller("other", other, ask(other, *NAMES)),
    ]
    rows = by_place(evaluate_semantic(labellers, folder.photos, folder.names))
    assert {"coarse", "refined", "other"} <= {model for model, _, _ in rows}
    assert (model.encoder_passes, other.encoder_passes) == (1, 1)
    coarse, other_coarse = (rows[n, "mIoU", "labelled pixels"].value for n in ("coarse", "other"))
    assert coarse == other_coarse


def test_labels_of_another_photo_are_refused(tmp_path: Path) -> None:
    truth = np.zeros((100, 256), np.uint8)
    folder = read_label_folder(write_camvid(tmp_path, {"a": (stripes(0), truth)}))
    model = fake_model()
    with pytest.raises(InputError, match=r"\(256, 256\) pixels, its labels \(100, 256\)"):
        evaluate_semantic(
            [Labeller("fake", model, ask(model, *NAMES))], folder.photos, folder.names
        )


def test_a_tally_by_hand() -> None:
    truth = np.array([[0, 0, 1, IGNORED], [2, 2, 1, IGNORED]])
    answer = np.array([[0, 1, 1, 0], [-1, 2, 0, 2]])
    assert tally(answer, truth, 4).tolist() == [[1, 1, 1, 0], [2, 2, 2, 0], [2, 2, 1, 0]]
