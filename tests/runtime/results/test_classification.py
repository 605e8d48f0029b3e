from __future__ import annotations

import json

import numpy as np
import pytest
from fakes import fake_model, flag

from samclip.errors import ImageError, VocabularyError
from samclip.runtime.results.classification import Classification, SemanticMap

ALL = ["red", "green", "blue"]


def classification(trained: bool = True) -> Classification:
    logits = np.array([1.0, 3.0, 2.0], np.float32)
    powers = np.exp(logits)
    return Classification(
        names=("a", "b", "c"),
        probabilities=powers / powers.sum(),
        logits=logits,
        trained_head=trained,
        image=flag(),
    )


def test_best_and_top() -> None:
    answer = classification()
    assert answer.best == "b"
    assert [name for name, _ in answer.top(2)] == ["b", "c"]
    assert answer.top(99)[0][1] == pytest.approx(0.6652, abs=1e-3)
    assert answer.top(0) == answer.top(-1) == []


def test_classification_as_plain_values() -> None:
    plain = json.loads(json.dumps(classification().to_dict()))
    assert plain["best"] == "b"
    assert plain["names"] == ["b", "c", "a"]
    assert sum(plain["probabilities"]) == pytest.approx(1)


def test_the_whole_image_is_classified() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[..., 2] = 255
    answer = fake_model().encode(image).classify(ALL)
    assert answer.best == "blue"
    assert answer.logits.tolist() == pytest.approx([0, 0, 10])
    assert answer.probabilities.sum() == pytest.approx(1)


def test_padding_takes_no_part_in_the_image_embedding() -> None:
    image = np.full((16, 256, 3), 100, np.uint8)  # the padding below is darker: 0
    scene = fake_model().encode(image - np.uint8(90))
    np.testing.assert_allclose(scene.image_embed, 10 / 255, atol=0.01)


def semantic_map() -> SemanticMap:
    labels = np.array([[0, 0, 2], [-1, 0, 2]], np.int32)
    return SemanticMap(
        labels=labels,
        names=("road", "car", "sky"),
        scores=np.full((2, 3), 0.5, np.float32),
        refined=False,
        trained_head=True,
        image=np.zeros((2, 3, 3), np.uint8),
    )


def test_areas_and_masks_of_a_map() -> None:
    answer = semantic_map()
    assert answer.areas.tolist() == [3, 0, 2]
    assert answer.present == ("road", "sky")
    assert answer.mask("sky").tolist() == [[False, False, True], [False, False, True]]
    assert not answer.mask("car").any()
    with pytest.raises(VocabularyError, match="did you mean 'road'"):
        answer.mask("rod")


def test_a_map_as_plain_values() -> None:
    plain = json.loads(json.dumps(semantic_map().to_dict()))
    assert plain["size"] == [2, 3]
    assert [entry["name"] for entry in plain["classes"]] == ["road", "sky"]
    assert plain["classes"][0] == {
        "name": "road",
        "index": 0,
        "area": 3,
        "fraction": 0.5,
        "mean_score": 0.5,
    }
    assert plain["unlabelled_area"] == 1


def test_drawing_leaves_the_image_alone() -> None:
    answer = classification()
    picture = answer.draw()
    assert picture.shape == answer.image.shape
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(answer.image, flag())
    assert (picture != answer.image).any()
    assert (answer.draw(np.zeros_like(answer.image)) != picture).any()


def test_an_untrained_head_shows_in_pictures_and_values() -> None:
    assert classification(trained=False).to_dict()["trained_head"] is False
    difference = classification(trained=False).draw() != classification().draw()
    assert difference[-10:].any()  # a band along the lower edge
    assert not difference[:60].any()


@pytest.mark.parametrize(
    "image", [np.zeros((3, 3, 3), np.uint8), np.zeros((128, 200)), np.zeros((128, 200, 3))]
)
def test_an_image_of_another_size_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ImageError, match="draw on"):
        classification().draw(image)
