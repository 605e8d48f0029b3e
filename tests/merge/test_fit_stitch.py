import pytest
import torch
from photo_sources import ListSource
from tiny_run import SIZE, tiny_model, tiny_student
from torch import Tensor, nn

from samclip.errors import ConfigError, TrainingError
from samclip.export.models.stitch import Stitch
from samclip.export.models.stitched_encoder import StitchedEncoder
from samclip.merge import stitching
from samclip.merge.pixels import PixelBatch
from samclip.merge.stages import StitchStage
from samclip.merge.stitching import NormalEquations, fit_stitch
from samclip.merge.student import Student

STAGE = StitchStage(name="seam", photos=24, size=SIZE, ridge=1e-9)


def rows(count: int, features: int = 5) -> Tensor:
    return torch.randn(count, features, generator=torch.Generator().manual_seed(0))


def test_a_linear_map_is_recovered() -> None:
    x = rows(200)
    weight, bias = torch.randn(5, 3), torch.randn(3)
    equations = NormalEquations(5, 3)
    for part in x.split(70):  # photo by photo is as good as at once
        equations.add(part, part @ weight + bias)
    found, offset = equations.solve(0.0)
    assert equations.rows == 200
    # float64 sums of float32 rows
    torch.testing.assert_close(found, weight, rtol=0, atol=1e-5)
    torch.testing.assert_close(offset, bias, rtol=0, atol=1e-5)


def test_noise_is_averaged_as_least_squares_do() -> None:
    x = rows(500)
    y = x @ torch.randn(5, 2) + torch.randn(500, 2)
    equations = NormalEquations(5, 2)
    equations.add(x, y)
    weight, bias = equations.solve(0.0)
    design = torch.cat([x, torch.ones(500, 1)], dim=1).double()
    expected = torch.linalg.lstsq(design, y.double()).solution
    torch.testing.assert_close(
        torch.cat([weight, bias[None]]).double(), expected, rtol=0, atol=1e-5
    )


def test_a_ridge_shrinks_the_weights_and_not_the_bias() -> None:
    x = rows(200) - rows(200).mean(dim=0)
    equations = NormalEquations(5, 1)
    equations.add(x, x @ torch.ones(5, 1) + 7)
    free, strict = equations.solve(0.0), equations.solve(10.0)
    assert strict[0].norm() < 0.2 * free[0].norm()
    assert strict[1].item() == pytest.approx(7, abs=1e-4)


def test_equations_without_a_solution() -> None:
    with pytest.raises(TrainingError, match="no photos"):
        NormalEquations(2, 1).solve(0.0)
    twice = NormalEquations(2, 1)
    twice.add(torch.ones(4, 2), torch.ones(4, 1))
    with pytest.raises(TrainingError, match="more photos or a larger ridge"):
        twice.solve(0.0)


@pytest.fixture(scope="module")
def student() -> Student:
    return tiny_student(model_type="lite2", pyramid=(1, 2))


def stitch_of(student: Student) -> tuple[StitchedEncoder, Stitch]:
    encoder = student.model.image_encoder
    assert isinstance(encoder, StitchedEncoder)
    return encoder, encoder.stitch


@torch.no_grad()
def test_a_known_stitch_is_recovered(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another stitch makes of the backbone's maps is linear in them: the fit finds it."""
    encoder, stitch = stitch_of(student)
    torch.manual_seed(3)
    known = Stitch(encoder.backbone.channels, len(stitch.bias))
    known.bias.normal_()
    # Teacher and this student normalise alike, so both see the same image.
    monkeypatch.setattr(stitching, "stitch_target", lambda _, image: known(encoder.backbone(image)))
    told: list[str] = []
    teacher = tiny_model(1).image_encoder
    fit_stitch(STAGE, student, teacher, ListSource(24, (SIZE, SIZE)), 0, told.append)
    assert len(told) == 24
    photo = torch.from_numpy(ListSource(25, (SIZE, SIZE)).photo(24)).permute(2, 0, 1)[None]
    unseen = PixelBatch(photo.float(), torch.tensor([[SIZE, SIZE]]))
    maps = encoder.backbone(unseen.normalised(student.mean, student.std))
    found, expected = stitch(maps), known(maps)
    assert ((found - expected).norm() / expected.norm()).item() < 1e-2


@torch.no_grad()
def test_padding_has_no_say(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, stitch = stitch_of(student)
    known = Stitch(encoder.backbone.channels, len(stitch.bias))

    def target(_: object, image: Tensor) -> Tensor:
        told = known(encoder.backbone(image))
        told[:, :, told.shape[2] * 40 // SIZE :] = 1e3  # below a picture of 40 rows
        return told

    monkeypatch.setattr(stitching, "stitch_target", target)
    teacher = tiny_model(1).image_encoder
    fit_stitch(STAGE, student, teacher, ListSource(24, (40, SIZE)), 0, lambda _: None)
    photo = torch.from_numpy(ListSource(1, (40, SIZE)).photo(0)).permute(2, 0, 1)
    seen = PixelBatch.of([photo], SIZE)
    maps = encoder.backbone(seen.normalised(student.mean, student.std))
    found, expected = (each(maps)[:, :, :4] for each in (stitch, known))
    assert ((found - expected).norm() / expected.norm()).item() < 1e-2


def test_others_cannot_be_stitched(student: Student) -> None:
    photos, teacher = ListSource(1), tiny_model(1).image_encoder
    with pytest.raises(ConfigError, match="stage 'seam' stitches a recogniser to MobileSAM"):
        fit_stitch(STAGE, tiny_student(), teacher, photos, 0, lambda _: None)
    with pytest.raises(ConfigError, match="MobileSAM as the teacher"):
        fit_stitch(STAGE, student, nn.Identity(), photos, 0, lambda _: None)
