"""Examples of names on the fake model, whose embeddings are colours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fakes import FakeBundle, fake_model, flag
from numpy.typing import NDArray
from region_fakes import region_model

import samclip
from samclip.errors import (
    CapabilityError,
    ClosedError,
    InputError,
    PromptError,
    SamclipError,
    VocabularyError,
)
from samclip.runtime.example_regions import MAX_EXAMPLES, picture_space
from samclip.runtime.model import Model
from samclip.runtime.scene import Scene
from samclip.runtime.text.examples import WEIGHT

GREEN_BOX = (64.0, 0.0, 136.0, 128.0)


@pytest.fixture
def model() -> Model:
    return fake_model()


@pytest.fixture
def scene(model: Model) -> Scene:
    return model.encode(flag())


def band(first: int, last: int) -> NDArray[np.bool_]:
    mask = np.zeros((128, 200), np.bool_)
    mask[:, first:last] = True
    return mask


def test_a_name_is_turned_to_what_is_shown(model: Model, scene: Scene) -> None:
    plain = model.vocabulary(["red", "blue"])
    assert scene.name(band(70, 130), plain).names == ("red",)  # of two equal ones, the first
    taught = model.vocabulary(["red", "blue"], examples={"blue": [(scene, band(70, 130))]})
    assert scene.name(band(70, 130), taught).names == ("blue",)
    assert scene.name(band(0, 60), taught).names == ("red",)
    assert scene.name(band(140, 200), taught).names == ("blue",)
    assert taught.examples is not None and taught.examples.counts.tolist() == [0, 1]
    assert taught.examples.weights[1] == pytest.approx(WEIGHT / 2)
    np.testing.assert_array_equal(taught.embeddings[0], plain.embeddings[0])


def test_every_task_takes_it(model: Model, scene: Scene) -> None:
    taught = model.vocabulary(["red", "blue"], examples={"blue": [(scene, GREEN_BOX)] * 4})
    assert scene.segment(boxes=[GREEN_BOX], names=taught).names == ("blue",)
    labels = scene.semantic(taught).labels
    assert {labels[64, 10], labels[64, 100], labels[64, 190]} == {0, 1}
    assert labels[64, 100] == 1
    assert set(scene.everything(taught, points_per_side=4).names or ()) <= {"red", "blue"}
    assert scene.classify(taught).names == ("red", "blue")
    with model.watch([flag()] * 2, taught, boxes=[GREEN_BOX]) as watch:
        assert [result.names for result in watch] == [("blue",)] * 2


def test_mask_box_masks_and_photo_are_regions(model: Model, scene: Scene) -> None:
    drawn = scene.segment(boxes=[GREEN_BOX])
    regions: dict[str, Any] = {
        "mask": drawn.masks[0],
        "box": GREEN_BOX,
        "box of numpy": np.asarray(GREEN_BOX),
        "masks": drawn,
        "masks of a tuple": drawn.masks,
    }
    made = {
        kind: model.vocabulary(["red"], examples={"red": [(scene, region)]}).embeddings
        for kind, region in regions.items()
    }
    for kind, embeddings in made.items():
        np.testing.assert_allclose(embeddings, made["mask"], atol=1e-6, err_msg=kind)
    two = scene.segment(boxes=[GREEN_BOX, (0, 0, 60, 128)])
    counted = model.vocabulary(["red"], examples={"red": [(scene, two), (scene, None)]})
    assert counted.examples is not None
    assert counted.examples.counts.tolist() == [3]
    assert counted.examples.photos == 1


def test_examples_come_bit_by_bit_and_names_are_joined(
    model: Model, scene: Scene, tmp_path: Path
) -> None:
    first = model.vocabulary(["red"], examples={"red": [(scene, band(70, 130))]})
    stored = samclip.load_vocabulary(first.save(tmp_path / "red.safetensors"))
    joined = model.vocabulary([stored, "blue", "red"])
    assert joined.names == ("red", "blue")
    np.testing.assert_array_equal(joined.embeddings[:1], first.embeddings)
    later = model.vocabulary(joined, examples={"red": [(scene, None)], "blue": [(scene, None)]})
    other = model.encode(flag())
    at_once = model.vocabulary(
        ["red", "blue"],
        examples={"red": [(scene, band(70, 130)), (other, None)], "blue": [(other, None)]},
    )
    assert later.examples is not None and later.examples.counts.tolist() == [2, 1]
    np.testing.assert_allclose(later.embeddings, at_once.embeddings, atol=1e-6)
    two = model.vocabulary([first, model.vocabulary(["green"], synonyms={"green": ["blue"]})])
    assert two.names == ("red", "green")
    assert two.first_rows is not None and two.first_rows.tolist() == [0, 1]
    assert two.embeddings.shape == (3, 3)
    with pytest.raises(VocabularyError, match="two vocabularies have the name 'red'"):
        model.vocabulary([first, first])


def test_synonyms_are_all_turned(model: Model, scene: Scene) -> None:
    taught = model.vocabulary(
        ["red", "green"], synonyms={"red": ["blue"]}, examples={"red": [(scene, GREEN_BOX)]}
    )
    plain = model.vocabulary(["red", "green"], synonyms={"red": ["blue"]})
    green = np.asarray([0, 1, 0])
    assert (taught.embeddings[:2] @ green > plain.embeddings[:2] @ green + 0.02).all()
    np.testing.assert_array_equal(taught.embeddings[2], plain.embeddings[2])


def damaged(scene: Scene, tmp_path: Path) -> dict[str, tuple[Any, type[SamclipError], str]]:
    closed = fake_model().encode(flag())
    closed.close()
    return {
        "not a mapping": ([(scene, None)], VocabularyError, "examples must be"),
        "an unknown name": ({"bleu": [(scene, None)]}, VocabularyError, "did you mean 'blue'"),
        "no list": ({"red": (scene)}, VocabularyError, "must be a list"),
        "text": ({"red": "street.jpg"}, VocabularyError, "must be a list"),
        "no pair": ({"red": [scene]}, VocabularyError, "pair"),
        "a path for a scene": ({"red": [("a.jpg", None)]}, VocabularyError, "model.encode"),
        "a mask of another size": (
            {"red": [(scene, np.ones((12, 20), np.bool_))]},
            PromptError,
            r"example of 'red'.*\(128, 200\)",
        ),
        "a mask of numbers": ({"red": [(scene, np.ones((128, 200)))]}, PromptError, "bool"),
        "an empty mask": ({"red": [(scene, band(0, 0))]}, PromptError, "empty"),
        "no masks": ({"red": [(scene, scene.segment(boxes=[]))]}, PromptError, "empty"),
        "a box outside": ({"red": [(scene, (300, 0, 400, 90))]}, PromptError, "outside"),
        "a box of NaN": ({"red": [(scene, (0, 0, np.nan, 9))]}, PromptError, "finite"),
        "an inverted box": ({"red": [(scene, (90, 0, 10, 9))]}, PromptError, "inverted"),
        "a box of five": ({"red": [(scene, (0, 0, 9, 9, 1))]}, PromptError, "bool"),
        "a ragged region": ({"red": [(scene, [[1], [2, 3]])]}, InputError, "example of 'red'"),
        "a region of text": ({"red": [(scene, "left")]}, InputError, "example of 'red'"),
        "a closed scene": ({"red": [(closed, None)]}, ClosedError, "closed"),
        "10,000": ({"red": [(scene, None)] * 10_000}, VocabularyError, f"{MAX_EXAMPLES:,}"),
    }


def test_damaged_examples_are_typed_errors(model: Model, scene: Scene, tmp_path: Path) -> None:
    before = model.vocabulary(["red", "blue"]).embeddings
    for kind, (given, error, words) in damaged(scene, tmp_path).items():
        with pytest.raises(error, match=words):
            model.vocabulary(["red", "blue"], examples=given)
            pytest.fail(f"{kind} was taken")
    np.testing.assert_array_equal(model.vocabulary(["red", "blue"]).embeddings, before)
    assert model.vocabulary(["red"], examples={}).examples is None
    assert model.vocabulary(["red"], examples={"red": []}).examples is None


def other_model() -> Model:
    """The fake model with other files, so that its pictures are embedded otherwise."""
    model = fake_model()
    files = {
        name: msgspec.structs.replace(entry, sha256="1" * 64)
        for name, entry in model.manifest.files.items()
    }
    made = msgspec.structs.replace(model.manifest, files=files, name="other")
    model.bundle = FakeBundle(made)
    model._pool.bundle = model.bundle
    return model


def test_examples_belong_to_the_bundle_of_their_pictures(model: Model, scene: Scene) -> None:
    other = other_model()
    assert picture_space(other.bundle) != picture_space(model.bundle)
    taught = model.vocabulary(["red"], examples={"red": [(scene, None)]})
    assert other.vocabulary(["red"]).space == taught.space  # texts would compare
    with pytest.raises(VocabularyError, match=r"examples of this vocabulary.*do not compare"):
        other.encode(flag()).classify([taught, "blue"])
    with pytest.raises(VocabularyError, match=r"scene is of bundle 'fake'.*this is 'other'"):
        other.vocabulary(["red"], examples={"red": [(scene, None)]})
    foreign = replace(taught, space="f" * 64)
    with pytest.raises(VocabularyError, match=r"made in the text space ffff.*model's is"):
        scene.classify(foreign)
    same = fake_model()
    assert same.encode(flag()).classify([taught, "blue"]).names == ("red", "blue")


def test_bundles_with_classifiers_of_regions_say_why_not() -> None:
    model = region_model()
    scene = model.encode(flag())
    with pytest.raises(CapabilityError, match="no embeddings of pictures"):
        model.vocabulary(["red"], examples={"red": [(scene, None)]})
    with pytest.raises(CapabilityError, match="no embeddings of masks"):
        scene.embed_masks(band(0, 9))
    assert picture_space(model.bundle) == ""
