"""The ConSE teacher, real classifier and small text tower, through what benchmarks ask of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import fake_model
from numpy.typing import NDArray

from samclip.benchmarks import teachers
from samclip.benchmarks.teacher_settings import TeacherSettings, parse_teacher
from samclip.benchmarks.teachers import ConseTeacher
from samclip.errors import InputError, VocabularyError
from samclip.export.checkpoints.checkpoint import read_checkpoint
from samclip.export.checkpoints.imagenet_classes import imagenet_names
from samclip.export.checkpoints.text_source import read_text
from samclip.merge.data.labels import TEMPLATES, embed_names

DENSE = 256


@pytest.fixture(scope="module")
def teacher(recogniser_checkpoint: Path, text_checkpoint: Path) -> ConseTeacher:
    settings = TeacherSettings(
        classifier=str(recogniser_checkpoint), text=str(text_checkpoint), dense_size=DENSE
    )
    return ConseTeacher(settings)


def test_a_photo_of_coffee_is_seen(teacher: ConseTeacher, photo: NDArray[np.uint8]) -> None:
    (scores,) = teacher.score_images([photo])
    best = [imagenet_names()[index] for index in np.argsort(-scores)[:3]]
    assert any("espresso" in name or "cup" in name for name in best), best


def test_pictures_of_any_size_embed_alone_as_together(
    teacher: ConseTeacher, photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teachers, "AT_ONCE", 2)
    crops = [photo[:90, :200], photo[150:300, 200:300], photo[:120, :120]]
    together = teacher.embed_images(crops)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    alone = np.concatenate([teacher.embed_images([crop]) for crop in crops])
    np.testing.assert_allclose(together, alone, atol=1e-4)  # sums in another order


def test_the_mean_over_the_whole_map_is_the_classifier_s_own_answer(
    teacher: ConseTeacher, photo: NDArray[np.uint8]
) -> None:
    square = np.ascontiguousarray(photo[:DENSE, :DENSE])  # nothing is resized
    dense = teacher.encode_densely(square)
    assert dense.tokens.shape == ((DENSE // 32) ** 2, 1280)
    assert dense.token_mask.all()
    pooled = teacher.embed_pooled(dense.tokens.mean(axis=0, keepdims=True))
    pixels = torch.from_numpy(square.transpose(2, 0, 1)[None].astype(np.float32))
    with torch.no_grad():
        logits = teacher._trunk.classify((pixels - 127) / 128)
    expected = teacher._conse.embed_classes(teacher._conse.class_probabilities(logits))
    np.testing.assert_allclose(pooled, expected.numpy(), atol=1e-4)


def test_padding_has_no_tokens(teacher: ConseTeacher, photo: NDArray[np.uint8]) -> None:
    dense = teacher.encode_densely(photo[:200])  # three times as wide as high
    assert dense.token_mask.sum(axis=0).tolist() == [3.0] * 8  # 86 of 256 rows
    assert dense.letterbox.original_size == (200, 600)


def test_names_are_embedded_by_the_teacher_s_own_tower(
    teacher: ConseTeacher, text_checkpoint: Path
) -> None:
    tower = read_text(read_checkpoint(text_checkpoint))
    asked = teacher.vocabulary(["cup", "cat"], ["a {} here"])
    assert (asked.names, asked.templates) == (("cup", "cat"), ("a {} here",))
    expected = embed_names(["cup", "cat"], tower, ["a {} here"]).numpy()
    np.testing.assert_allclose(asked.embeddings, expected, atol=1e-6)  # the same sums
    assert asked.cosines(teacher.embed_images([np.zeros((9, 9, 3), np.uint8)])).shape == (1, 2)
    assert teacher.vocabulary(asked) is asked
    assert teacher.vocabulary(["cup"]).templates == TEMPLATES
    with pytest.raises(VocabularyError, match="text space"):
        teacher.vocabulary(fake_model().vocabulary(["red"]))


def test_options_are_read_by_their_types() -> None:
    settings = parse_teacher(["top_k=none", "centre=true", "temperature=1.5", "framing=centre"])
    assert (settings.top_k, settings.centre) == (None, True)
    assert (settings.temperature, settings.framing) == (1.5, "centre")
    assert parse_teacher(["top_k=3"]).top_k == 3
    for wrong in ("top_k", "topk=3", "framing=other", "centre=maybe"):
        with pytest.raises(InputError):
            parse_teacher([wrong])


def test_a_size_that_is_no_multiple_of_the_stride_is_refused() -> None:
    with pytest.raises(InputError, match="multiple of 32"):
        ConseTeacher(TeacherSettings(dense_size=1000))
