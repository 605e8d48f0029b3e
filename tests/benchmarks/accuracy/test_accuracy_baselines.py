from __future__ import annotations

from pathlib import Path

import pytest
from fakes import fake_model
from made_data import NAMES, Made, rectangle, stripes, write_coco

from samclip.baselines.crop_feature import CropFeature
from samclip.baselines.crop_image import CropImage
from samclip.baselines.encoders import BundleEncoder
from samclip.benchmarks.accuracy import baselines
from samclip.benchmarks.accuracy.baselines import Contender, evaluate_baselines
from samclip.benchmarks.data.coco import read_coco


def test_all_contenders_answer_the_same_boxes(tmp_path: Path) -> None:
    objects = [Made("red", rectangle(0, 0, 64, 64)), Made("green", rectangle(160, 0, 224, 64))]
    photos = {name: (stripes(0, 2), objects) for name in ("a.png", "b.png")}
    coco = read_coco(write_coco(tmp_path, photos))
    merged, sam, clip = fake_model(), fake_model(clip=False), fake_model()
    vocabulary = clip.vocabulary(NAMES)
    encoder = BundleEncoder(clip)
    contenders = {
        "merged": Contender(merged, merged.vocabulary(NAMES)),
        "crop-image": Contender(CropImage(sam, encoder, clip.vocabulary), vocabulary),
        "crop-feature": Contender(CropFeature(sam, encoder, clip.vocabulary), vocabulary),
    }
    rows = evaluate_baselines(contenders, coco.photos, NAMES, apart="green")
    found = {(row.model, row.measure, row.subset): row for row in rows}
    for name in contenders:
        assert found[name, "box mIoU", "all objects"].value == pytest.approx(1, abs=0.02)
        assert found[name, "name top-1", "all objects"].value == 0.5  # what is called green is blue
        assert found[name, "name top-1", "all objects, without green"].value == 1.0
        seconds = found[name, "seconds a photo", "all photos"]
        assert seconds.unit == "seconds"
        assert seconds.n == 2
        assert seconds.value is not None
        assert seconds.value > 0
    assert found["merged / crop-image", "name top-1", "all objects"].value == 1.0
    assert found["merged / crop-feature", "seconds a photo", "all photos"].unit == "ratio"
    # the first photo is answered twice
    assert (merged.encoder_passes, sam.encoder_passes) == (3, 6)
    assert clip.encoder_passes == 3 * 2 + 3  # two crops a photo, and a pass over it


def test_models_take_turns() -> None:
    names = ("a", "b", "c")
    assert [baselines._turns(names, number)[0] for number in range(4)] == ["a", "b", "c", "a"]
    assert sorted(baselines._turns(names, 1)) == ["a", "b", "c"]
