import msgspec
import pytest
import torch
from photo_sources import ListSource
from tiny_run import SIZE, tiny_model, tiny_student
from torch import Tensor, nn

from samclip.errors import ConfigError
from samclip.export.models.stitched_encoder import Stitch, StitchedEncoder
from samclip.merge.config.stages import HiddenConfig, StitchStage
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.students.merged_student import MergedStudent
from samclip.merge.training import stitching
from samclip.merge.training.stitching import fit_stitch

STAGE = StitchStage(name="seam", photos=24, size=SIZE, ridge=1e-9)


@pytest.fixture(scope="module")
def student() -> MergedStudent:
    return tiny_student(model_type="lite2", pyramid=(1, 2))


def stitch_of(student: MergedStudent) -> tuple[StitchedEncoder, Stitch]:
    encoder = student.model.image_encoder
    assert isinstance(encoder, StitchedEncoder)
    return encoder, encoder.stitch


@torch.no_grad()
def test_a_known_stitch_is_recovered(
    student: MergedStudent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stitch's output is linear in the backbone's maps, so the fit recovers another stitch."""
    encoder, stitch = stitch_of(student)
    torch.manual_seed(3)
    known = Stitch(encoder.backbone.channels, stitch.width)
    known.bias.normal_()
    # Teacher and this student normalise alike, so both see the same image.
    monkeypatch.setattr(stitching, "stitch_target", lambda _, image: known(encoder.backbone(image)))
    reports: list[str] = []
    teacher = tiny_model(1).image_encoder
    fit_stitch(STAGE, student, teacher, ListSource(24, (SIZE, SIZE)), 0, reports.append)
    assert len(reports) == 24
    photo = torch.from_numpy(ListSource(25, (SIZE, SIZE)).photo(24)).permute(2, 0, 1)[None]
    unseen = PixelBatch(photo.float(), torch.tensor([[SIZE, SIZE]]))
    maps = encoder.backbone(unseen.normalised(student.mean, student.std))
    found, expected = stitch(maps), known(maps)
    assert ((found - expected).norm() / expected.norm()).item() < 1e-2


@torch.no_grad()
def test_padding_has_no_influence(student: MergedStudent, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, stitch = stitch_of(student)
    known = Stitch(encoder.backbone.channels, stitch.width)

    def target(_: object, image: Tensor) -> Tensor:
        maps = known(encoder.backbone(image))
        maps[:, :, maps.shape[2] * 40 // SIZE :] = 1e3  # below a picture of 40 rows
        return maps

    monkeypatch.setattr(stitching, "stitch_target", target)
    teacher = tiny_model(1).image_encoder
    fit_stitch(STAGE, student, teacher, ListSource(24, (40, SIZE)), 0, lambda _: None)
    photo = torch.from_numpy(ListSource(1, (40, SIZE)).photo(0)).permute(2, 0, 1)
    seen = PixelBatch.of([photo], SIZE)
    maps = encoder.backbone(seen.normalised(student.mean, student.std))
    found, expected = (each(maps)[:, :, :4] for each in (stitch, known))
    assert ((found - expected).norm() / expected.norm()).item() < 1e-2


def test_with_a_hidden_layer_what_is_not_linear_is_learnt(
    student: MergedStudent, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, stitch = stitch_of(student)
    torch.manual_seed(3)
    known = Stitch(encoder.backbone.channels, stitch.width, hidden=4)
    torch.nn.init.normal_(known.project.weight)
    monkeypatch.setattr(stitching, "stitch_target", lambda _, image: known(encoder.backbone(image)))
    hidden = HiddenConfig(places=64, steps=200, batch=128, learning_rate=1e-2)
    stage = msgspec.structs.replace(STAGE, ridge=1e-2, hidden=hidden)
    reports: list[str] = []
    teacher = tiny_model(1).image_encoder
    fit_stitch(stage, student, teacher, ListSource(24, (SIZE, SIZE)), 0, reports.append)
    assert len(reports) == stage.length == 24 + 200
    first, last = (float(reports[index].removeprefix("error ")) for index in (24, -1))
    assert last < 0.75 * first
    assert stitch.project.weight.abs().max() > 0


def test_other_students_and_teachers_are_refused(student: MergedStudent) -> None:
    photos, teacher = ListSource(1), tiny_model(1).image_encoder
    with pytest.raises(ConfigError, match="stage 'seam' stitches a recogniser to MobileSAM"):
        fit_stitch(STAGE, tiny_student(), teacher, photos, 0, lambda _: None)
    with pytest.raises(ConfigError, match="MobileSAM as the teacher"):
        fit_stitch(STAGE, student, nn.Identity(), photos, 0, lambda _: None)
