from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fakes import fake_model

from samclip.benchmarks.class_names import class_vocabulary, read_synonyms
from samclip.errors import InputError, InputWarning, VocabularyError


def test_a_class_is_its_name_or_the_mean_of_its_synonyms() -> None:
    model = fake_model()
    found = class_vocabulary(model, ["purple", "green"], {"purple": ["red", "blue"]})
    assert found.names == ("purple", "green")
    half = 0.5**0.5
    np.testing.assert_allclose(found.embeddings, [[half, 0, half], [0, 1, 0]], atol=1e-6)
    assert found.logit_scale == model.vocabulary(["red"]).logit_scale


def test_without_synonyms_it_is_the_model_s_own() -> None:
    model = fake_model()
    names = ["blue", "red", "blue"]  # two classes of one name are two classes
    with pytest.warns(InputWarning, match="'blue' and 'blue'"):
        found, own = class_vocabulary(model, names, {}), model.vocabulary(names)
    np.testing.assert_allclose(found.embeddings, own.embeddings, atol=1e-6)


@pytest.mark.parametrize(
    ("synonyms", "message"), [({"gren": ["red"]}, "did you mean 'green'"), ({"green": []}, "empty")]
)
def test_synonyms_of_nothing_are_refused(synonyms: dict[str, list[str]], message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        class_vocabulary(fake_model(), ["green"], synonyms)


def test_the_file_of_synonyms(tmp_path: Path) -> None:
    path = tmp_path / "synonyms.json"
    assert read_synonyms(None) == {}
    path.write_text(json.dumps({"car": ["a car", "an automobile"]}))
    assert read_synonyms(path) == {"car": ["a car", "an automobile"]}
    path.write_text('{"car": "a car"}')
    with pytest.raises(InputError, match="class: "):
        read_synonyms(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_synonyms(tmp_path / "nowhere.json")
