import torch
from photo_sources import ListSource

from samclip.merge.config.stages import ViewConfig
from samclip.merge.data.batches import ViewStream
from samclip.merge.data.sampler import Sampler, Sampling
from samclip.merge.data.views import draw_view, render


def stream_of(source: ListSource, batch: int = 3) -> ViewStream:
    return ViewStream(
        source, Sampler(source, Sampling(0, "head", "names", batch)), ViewConfig(), 32
    )


def test_a_batch_shows_the_views_that_were_drawn() -> None:
    source = ListSource(5)
    stream = stream_of(source)
    batch = stream.batch(2)
    for draw, sample, square in zip(
        stream.sampler.draws(2), batch.samples, batch.pixels.pixels, strict=True
    ):
        view = draw_view(stream.config, 32, (24, 32), draw.view_seed)
        assert sample.photo == source.key(draw.index)
        assert sample.view == view
        assert torch.equal(square, render(view, source.photo(draw.index))[0])
    assert batch.pixels.sizes.tolist() == [list(s.view.shown_size) for s in batch.samples]


def test_batches_are_pure_functions_of_the_step() -> None:
    one, two = (stream_of(ListSource(5)).batch(7) for _ in range(2))
    assert one.samples == two.samples
    assert torch.equal(one.pixels.pixels, two.pixels.pixels)


def test_pick_keeps_samples_and_pixels_together() -> None:
    batch = stream_of(ListSource(5)).batch(0)
    picked = batch.pick([2, 0])
    assert picked.samples == (batch.samples[2], batch.samples[0])
    assert torch.equal(picked.pixels.pixels, batch.pixels.pixels[[2, 0]])
