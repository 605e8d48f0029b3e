import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from samclip.errors import CheckpointError, InputError
from samclip.export.checkpoints.checkpoint import Checkpoint, read_checkpoint
from samclip.export.checkpoints.imagenet_classes import imagenet_names
from samclip.export.checkpoints.text_source import TextSource, read_text
from samclip.merge.data.labels import embed_names
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.teachers import conse as conse_module
from samclip.merge.teachers.base import ClassTeacher
from samclip.merge.teachers.conse import Conse, ConseOptions
from samclip.runtime.assets import packaged_photos
from samclip.runtime.pixels.image import load_image

NAMES = tuple(f"class {number}" for number in range(1000))
OPTIONS = ConseOptions(templates="none")

Make = Callable[..., Conse]


@pytest.fixture(scope="module")
def make(recogniser_checkpoint: Path, text_checkpoint: Path) -> Iterator[Make]:
    """The real classifier with a small random text tower, whose embeddings are computed once."""
    kept: dict[object, Tensor] = {}

    def embed(names: tuple[str, ...], text: TextSource, templates: tuple[str, ...]) -> Tensor:
        key = names, templates
        if key not in kept:
            kept[key] = embed_names(names, text, templates)
        return kept[key]

    def conse(**changes: object) -> Conse:
        options = dataclasses.replace(OPTIONS, **changes)  # type: ignore[arg-type]
        return Conse(recogniser_checkpoint, text_checkpoint, NAMES, options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("samclip.merge.teachers.conse.embed_names", embed)
        yield conse


@pytest.fixture(scope="module")
def conse(make: Make) -> Conse:
    return make()


@pytest.fixture(scope="module")
def photos() -> PixelBatch:
    """The photos that ship with samclip, whole, in one square."""
    images = [load_image(path) for path in sorted(packaged_photos().glob("*.jpg"))]
    return PixelBatch.of([torch.from_numpy(i.copy()).permute(2, 0, 1).float() for i in images])


def test_the_classifier_knows_the_photos(conse: Conse, photos: PixelBatch) -> None:
    assert isinstance(conse, ClassTeacher)
    best = conse.class_logits(photos).topk(5, dim=1).indices
    classes = [{imagenet_names()[index] for index in row} for row in best.tolist()]
    names = sorted(path.stem for path in packaged_photos().glob("*.jpg"))
    by_photo = dict(zip(names, classes, strict=True))
    assert "espresso" in by_photo["coffee"]
    assert by_photo["chelsea"] & {"tabby cat", "Egyptian cat", "tiger cat"}
    assert by_photo["rocket"] & {"missile", "projectile"}


def test_embeddings_are_the_papers_sum(make: Make, photos: PixelBatch) -> None:
    conse = make(top_k=3, temperature=2.0)
    logits = conse.class_logits(photos)
    for row, embed in zip(logits, conse.embed(photos), strict=True):
        p = (row / 2).softmax(0)
        best = sorted(range(1000), key=lambda index: -float(p[index]))[:3]
        total = sum(p[index] * conse.class_embeddings[index] for index in best)
        expected = total / sum(p[index] for index in best)  # equation 2 of the paper
        assert torch.allclose(embed, F.normalize(expected, dim=0), atol=1e-5)  # float32


def test_one_class_alone_gives_its_name(make: Make, photos: PixelBatch) -> None:
    conse = make(top_k=1)
    best = conse.class_logits(photos).argmax(dim=1)
    assert torch.allclose(conse.embed(photos), conse.class_embeddings[best], atol=1e-6)  # float32


def test_all_classes_count_with_none(make: Make) -> None:
    conse = make(top_k=None)
    even = torch.full((1, 1000), 1e-3)
    mean = F.normalize(conse.class_embeddings.mean(dim=0), dim=0)
    assert torch.allclose(conse.embed_classes(even)[0], mean, atol=1e-5)  # float32


def test_centred_names_have_no_mean(make: Make, conse: Conse, photos: PixelBatch) -> None:
    centred = make(centre=True)
    assert float(centred.class_embeddings.mean(dim=0).abs().max()) < 1e-6
    offset = conse.class_embeddings - centred.class_embeddings
    assert torch.allclose(offset, conse.class_embeddings.mean(dim=0).expand(1000, -1), atol=1e-6)
    assert torch.allclose(centred.embed(photos).norm(dim=1), torch.ones(4), atol=1e-6)


def test_the_padding_is_not_seen(conse: Conse, photos: PixelBatch) -> None:
    loose = PixelBatch.of([photos.picture(index) for index in range(4)], photos.size + 100)
    assert torch.allclose(conse.class_logits(loose), conse.class_logits(photos), atol=1e-4)


def test_a_centre_crop_is_another_view(make: Make, conse: Conse, photos: PixelBatch) -> None:
    wide = photos.pick([1])
    side = min(wide.sizes[0].tolist())
    cut = wide.centred(260 / 292)
    assert cut.size == round(side * 260 / 292)
    cropped = make(framing="centre").class_logits(wide)
    assert torch.allclose(cropped, conse.class_logits(cut), atol=1e-4)
    assert not torch.allclose(cropped, conse.class_logits(wide), atol=0.1)


def test_fingerprints_distinguish_options(make: Make, conse: Conse) -> None:
    others = [
        make(top_k=5),
        make(temperature=0.5),
        make(centre=True),
        make(framing="centre"),
        make(templates="the {}"),
    ]
    assert len({conse.fingerprint, *(other.fingerprint for other in others)}) == 6
    assert make(templates=("{}",)).fingerprint == conse.fingerprint  # the same templates, spelt out


def test_fingerprints_go_by_what_was_read_not_by_the_name_of_its_text_space(
    make: Make, conse: Conse, text_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merged checkpoint states its text space in metadata, where anybody can write it."""
    read = conse_module.read_checkpoint

    def other(path: Path) -> Checkpoint:
        found = read(path)
        return dataclasses.replace(found, sha256="0" * 64) if path == text_checkpoint else found

    monkeypatch.setattr(conse_module, "read_checkpoint", other)
    assert make().fingerprint != conse.fingerprint


def test_names_must_be_as_many_as_classes(
    recogniser_checkpoint: Path, text_checkpoint: Path
) -> None:
    with pytest.raises(CheckpointError, match="1000 classes, and 3 class names were given"):
        Conse(recogniser_checkpoint, text_checkpoint, NAMES[:3], OPTIONS)


@pytest.mark.parametrize("change", [{"top_k": 0}, {"temperature": 0.0}, {"temperature": -1.0}])
def test_options_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(InputError, match="expected"):
        dataclasses.replace(OPTIONS, **change)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_real_teacher_names_the_photos(
    recogniser_checkpoint: Path, minilm_checkpoint: Path, photos: PixelBatch
) -> None:
    conse = Conse(recogniser_checkpoint, minilm_checkpoint)
    text = read_text(read_checkpoint(minilm_checkpoint))
    words = ("an astronaut", "a cat", "a cup of coffee", "a rocket launch", "a piano", "a bus")
    cosines = conse.embed(photos) @ embed_names(words, text).T
    named = [words[index] for index in cosines.argmax(dim=1).tolist()]
    assert named[1:] == ["a cat", "a cup of coffee", "a rocket launch"]  # ImageNet has no astronaut
