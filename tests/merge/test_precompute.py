from pathlib import Path

import pytest
import torch
from photo_sources import ListSource
from torch import Tensor, nn

from samclip.merge.config.stages import Batch, Losses, MaskBatch, Stage, StitchStage, TrainStage
from samclip.merge.data.batches import Processes
from samclip.merge.data.mask_prompts import Prompts
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.precompute import StreamWork, plan_work, precompute
from samclip.merge.teachers.base import MaskAnswer
from samclip.merge.teachers.cached_teachers import Teachers


class Names:
    """A name teacher that counts the pictures that it embeds."""

    fingerprint, embed_dim = "names", 2

    def __init__(self) -> None:
        self.shown = 0

    def embed(self, batch: PixelBatch) -> Tensor:
        self.shown += len(batch)
        return torch.ones(len(batch), 2) / 2**0.5


class Masks:
    """A mask teacher that counts the pictures that it encodes and finds nothing in them."""

    fingerprint = "masks"

    def __init__(self, image_size: int) -> None:
        self.image_size, self.shown = image_size, 0

    def encode(self, batch: PixelBatch) -> Tensor:
        self.shown += len(batch)
        grid = self.image_size // 16
        return torch.zeros(len(batch), 256, grid, grid)

    def masks(self, embeddings: Tensor, prompts: Prompts) -> MaskAnswer:
        side = embeddings.shape[-1] * 4
        return MaskAnswer(torch.zeros(len(prompts), 4, side, side), torch.zeros(len(prompts), 4))


def stage(**changes: object) -> TrainStage:
    names = Batch(batch=2, size=(64, 128), views=3)
    masks = MaskBatch(batch=2, size=64, views=2)
    given: dict[str, object] = {
        "name": "joint",
        "steps": 1,
        "learning_rate": 1e-3,
        "train": {"clip_head": 1.0},
        "losses": Losses(clip=1, embed=1),
        "names": names,
        "masks": masks,
    }
    return TrainStage(**{**given, **changes})  # type: ignore[arg-type]


class Setting:
    """Teachers that count their pictures, and five photos for names and three for masks."""

    def __init__(self, cache: Path) -> None:
        self.names, self.masks = Names(), {64: Masks(64), 128: Masks(128)}
        self.sources = {"names": ListSource(5), "masks": ListSource(3)}
        device = torch.device("cpu")
        self.teachers = Teachers(
            self.names, lambda size: self.masks[size], nn.Identity, cache, device
        )

    def work(self, *stages: Stage) -> list[StreamWork]:
        return plan_work(stages, self.sources, self.teachers, seed=0)  # type: ignore[arg-type]


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def run(setting: Setting, *stages: Stage, rank: int = 0, world: int = 1) -> list[int]:
    processes = Processes(rank, world)
    return [precompute(work, processes, lambda _: None) for work in setting.work(*stages)]


def test_every_fixed_view_is_asked_about_once(setting: Setting) -> None:
    assert run(setting, stage()) == [15, 15, 6]
    assert (setting.names.shown, setting.masks[64].shown) == (30, 6)
    assert run(setting, stage()) == [15, 15, 6]  # and then no more
    assert (setting.names.shown, setting.masks[64].shown) == (30, 6)


def test_what_a_stage_will_draw_is_what_was_kept(setting: Setting) -> None:
    run(setting, stage())
    work = setting.work(stage(name="later"))[0]
    for step in range(10):
        setting.teachers.embeds(work.stream.batch(step), keep=True)
    assert setting.names.shown == 30


def test_stopped_work_goes_on(setting: Setting) -> None:
    def stop(report: str) -> None:
        if report == "2 photos":
            raise KeyboardInterrupt

    work = setting.work(stage())[0]
    with pytest.raises(KeyboardInterrupt):
        precompute(work, Processes(), stop)
    begun = setting.names.shown
    assert 6 <= begun < 15
    precompute(work, Processes(), lambda _: None)
    assert setting.names.shown == 15


def test_processes_divide_the_photos(setting: Setting) -> None:
    assert run(setting, stage(), rank=0, world=2) == [9, 9, 4]
    assert run(setting, stage(), rank=1, world=2) == [6, 6, 2]
    assert (setting.names.shown, setting.masks[64].shown) == (30, 6)


def test_every_photo_is_reported(setting: Setting) -> None:
    reports: list[str] = []
    precompute(setting.work(stage())[0], Processes(), reports.append, views_at_once=4)
    assert reports == [f"{photo} photos" for photo in range(1, 6)]


def test_only_what_a_loss_wants_is_asked(setting: Setting) -> None:
    run(setting, stage(losses=Losses(clip=1)))
    assert setting.masks[64].shown == 0
    regions = MaskBatch(batch=2, size=64, views=2, regions=4)
    run(setting, stage(losses=Losses(region=1), masks=regions, names=None))
    assert setting.masks[64].shown == 6  # once each: the names' teacher sees their regions
    assert setting.names.shown == 30


def test_streams_without_fixed_views_and_other_stages_keep_nothing(setting: Setting) -> None:
    fresh = stage(names=Batch(batch=2, size=64), masks=None)
    assert setting.work(fresh, StitchStage(name="stitch")) == []


def test_titles_name_stage_stream_and_size(setting: Setting) -> None:
    assert [work.title for work in setting.work(stage())] == [
        "joint: names at 64 px",
        "joint: names at 128 px",
        "joint: masks at 64 px",
    ]
