from __future__ import annotations

import itertools
import logging
import os
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
import torch
from fakes import FakeBackend, FakeBundle, fake_manifest, fake_model, flag
from PIL import Image

import samclip
from samclip.engines import registry
from samclip.engines.base import Engine, EngineOptions, GraphKey, GraphSource, Probe
from samclip.engines.onnxruntime.backend import CPU
from samclip.engines.openvino import backend as ov_backend
from samclip.engines.steps import BuildPlans
from samclip.errors import (
    BackendUnavailableError,
    CapabilityError,
    ClosedError,
    EngineRunError,
    ImageError,
    InputError,
    InputWarning,
    PlanMissingError,
    PromptError,
    UnknownBackendError,
    UntrainedHeadWarning,
    VocabularyError,
)
from samclip.runtime import loading as loading_module
from samclip.runtime.backend_choice import fastest_first

ALL = ["red", "green", "blue"]


def test_only_the_encoder_is_loaded_at_first() -> None:
    model = fake_model()
    backend = model._pool.backend
    assert isinstance(backend, FakeBackend)
    assert set(backend.engines) == {"encoder"}
    scene = model.encode(flag())
    scene.classify(ALL)
    assert set(backend.engines) == {"encoder", "clip_head"}
    scene.segment(points=[(5, 5)])
    assert set(backend.engines) == {"encoder", "clip_head", "mask_decoder"}


def test_one_pass_serves_all_tasks() -> None:
    model = fake_model()
    scene = model.encode(flag())
    scene.classify(ALL)
    scene.segment(points=[(5, 5)], names=ALL)
    scene.semantic(ALL, refine=True)
    scene.everything(points_per_side=2, names=ALL)
    assert scene.image_embed.shape == (3,)
    assert scene.patch_embeds.shape == (3, 16, 16)
    assert scene.image_embeddings.shape == (1, 3, 16, 16)
    backend = model._pool.backend
    assert isinstance(backend, FakeBackend)
    assert model.encoder_passes == 1
    assert len(backend.engines["encoder"].batches) == 1
    assert len(backend.engines["clip_head"].batches) == 1


def test_images_come_as_array_path_bytes_or_pil(tmp_path: Path) -> None:
    path = tmp_path / "flag.png"
    Image.fromarray(flag()).save(path)
    model = fake_model()
    for source in (flag(), path, str(path), path.read_bytes(), Image.open(path)):
        np.testing.assert_array_equal(model.encode(source).image, flag())
    with pytest.raises(ImageError):
        model.encode(np.zeros((4, 4), np.float32))


class OnGpu:
    """An array that only says that it is on a GPU, and copies itself to the host."""

    __cuda_array_interface__: ClassVar[dict[str, Any]] = {
        "shape": (128, 200, 3),
        "typestr": "|u1",
        "data": (4096, False),
        "version": 3,
    }

    def get(self) -> np.ndarray:
        return flag()


def test_images_come_from_other_libraries(caplog: pytest.LogCaptureFixture) -> None:
    model = fake_model()
    given = torch.from_numpy(flag())
    chw = given.permute(2, 0, 1).contiguous()
    with caplog.at_level(logging.INFO, "samclip"):
        for source in (given, chw, chw.permute(1, 2, 0)):
            scene = model.encode(source)
            np.testing.assert_array_equal(scene.image, flag())
        given.fill_(7)
        np.testing.assert_array_equal(scene.image, flag())
        assert not any("GPU" in said for said in caplog.messages)
        for scene in model.encode_all([OnGpu(), OnGpu()]):
            np.testing.assert_array_equal(scene.image, flag())
    assert len([said for said in caplog.messages if "GPU is copied to the host" in said]) == 1
    for tensor, advice in (
        (given.float(), r"float32.*image\.round\(\)\.clamp\(0, 255\)\.to\(torch\.uint8\)"),
        (chw / 255, r"\(image \* 255\)\.round\(\)\.to\(torch\.uint8\)"),
        ((chw / 255 - 0.5) / 0.2, "undo the normalisation"),
        (chw[None], r"images\[0\]"),
        (chw[..., :3], r"may come first or last: pass image\.permute"),
        (given[..., :1], "Repeat grey"),
        (given[..., 0], "3 axes"),
    ):
        with pytest.raises(ImageError, match=advice):
            model.encode(tensor)
    with pytest.raises(ImageError, match="cannot be taken by DLPack"):
        model.encode(torch.zeros(2, requires_grad=True))
    model.close()
    with pytest.raises(ClosedError):
        model.encode(OnGpu())


def test_channels_of_arrays_may_be_bgr(tmp_path: Path) -> None:
    model, bgr = fake_model(), flag()[..., ::-1].copy()
    scenes = [model.encode(bgr, color="bgr"), *model.encode_all([bgr], color="BGR")]
    scenes.append(model.encode(torch.from_numpy(bgr).permute(2, 0, 1), color="bgr"))
    for scene in scenes:
        np.testing.assert_array_equal(scene.image, flag())
    (answer,) = model.answer_all([bgr], lambda scene: scene.image[0, 0].tolist(), color="bgr")
    assert answer == flag()[0, 0].tolist()
    np.testing.assert_array_equal(model(bgr, color="bgr", points=[(5, 5)]).image, flag())
    with pytest.raises(ImageError, match=r"color='bgr' is for arrays.*a Image, whose own order"):
        model.encode(Image.fromarray(bgr), color="bgr")
    for color in ("brg", None, True):
        with pytest.raises(InputError, match="color must be 'rgb' or 'bgr'"):
            model.answer_all([bgr], lambda scene: scene, color=color)
            next(model.encode_all([bgr], color=color))


def test_one_call_answers_an_image() -> None:
    """Masks of everything without prompts, else of the prompts; with names if there are any."""
    model = fake_model()
    with pytest.raises(InputError, match=r"option 'multimask' \(did.*of everything.*Choose among"):
        model(flag(), multimask=True)
    with pytest.raises(InputError, match=r"'bboxes' \(did you mean 'boxes'\?\)"):
        model(flag(), bboxes=[(1, 2, 30, 40)])
    assert model.encoder_passes == 0
    everything = model(flag(), ALL, points_per_side=4, stability_score_thresh=0)
    assert type(everything) is samclip.AutoMasks
    assert everything.names is not None and len(everything)
    one = model(flag(), boxes=[(10, 10, 50, 60)], names=ALL, templates="none")
    assert type(one) is samclip.Masks
    scene = model.encode(flag())
    same = scene.segment(boxes=[(10, 10, 50, 60)], names=ALL, templates="none")
    np.testing.assert_array_equal(one.masks, same.masks)
    assert one.names == same.names
    assert model(flag(), points=[(5, 5)], multimask=True).names is None
    assert model.encoder_passes == 4


# supervision 0.31 builds on matplotlib, whose import may warn.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_detections_are_prompts_and_masks() -> None:
    """A detector's boxes as `xyxy`: those of supervision, and tensors as ultralytics has them."""
    supervision = pytest.importorskip("supervision")
    boxes = np.asarray([(10, 10, 50, 60), (80, 20, 120, 90)], np.float32)
    scene = fake_model().encode(flag())
    masks = scene.segment(boxes=boxes)
    for found in (supervision.Detections(xyxy=boxes), SimpleNamespace(xyxy=torch.tensor(boxes))):
        np.testing.assert_array_equal(scene.segment(boxes=found).masks, masks.masks)
        with pytest.raises(PromptError, match=r"boxes and no masks.*segment\(boxes=detections"):
            scene.name(found, ALL)
    named = scene.name(masks.to_supervision(), ALL)
    np.testing.assert_array_equal(named.masks, masks.masks)
    assert named.names == scene.name(masks, ALL).names
    assert len(scene.segment(boxes=supervision.Detections.empty())) == 0


def test_answers_have_the_time_of_their_stages(caplog: pytest.LogCaptureFixture) -> None:
    """Each stage once: those of the image, then the answer's own; crops are the answer's."""
    model = fake_model(delay=0.01)
    image = ["decode", "preprocess", "encode"]
    with caplog.at_level(logging.INFO, "samclip"):
        scene = model.encode(flag())
        assert list(scene.timings) == image
        assert 10 <= scene.timings["encode"] < 5_000
        named = scene.segment(points=[(5, 5)], names=ALL)
    assert list(named.timings) == [*image, "prompts", "upscale", "names"]
    assert named.timings["prompts"] >= 10
    assert named.timings["encode"] == named[0].timings["encode"] == scene.timings["encode"]
    took = sum(named.timings[stage] for stage in ("prompts", "upscale", "names"))
    said = caplog.messages[-1]
    assert said.startswith(f"segment: {took:.1f} ms (prompts {named.timings['prompts']:.1f}, ")
    assert list(scene.segment(boxes=[(1, 2, 30, 40)]).timings) == [*image, "prompts", "upscale"]
    assert list(scene.classify(ALL).timings) == [*image, "names"]
    assert list(scene.semantic(ALL).timings) == [*image, "names"]
    assert "prompts" in scene.semantic(ALL, refine=True).timings
    start = time.perf_counter()
    cropped = scene.everything(points_per_side=2, crop_n_layers=1)
    took = (time.perf_counter() - start) * 1e3
    own = sum(cropped.timings.values()) - sum(scene.timings.values())
    assert cropped.timings["encode"] >= scene.timings["encode"] + 40  # four crops
    assert own <= took  # no time is counted twice
    assert list(scene.timings) == image


def test_a_scene_does_not_follow_the_callers_array() -> None:
    image = flag()
    scene = fake_model().encode(image)
    image[:] = 7
    np.testing.assert_array_equal(scene.image, flag())
    assert image.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        scene.image[0, 0] = 0


def test_encode_all_keeps_the_order_and_reads_one_ahead() -> None:
    pulled: list[int] = []

    def images() -> Iterator[np.ndarray]:
        for value in range(5):
            pulled.append(value)
            yield np.full((4, 4, 3), value, np.uint8)

    model = fake_model()
    values, lead = [], []
    for scene in model.encode_all(images()):
        values.append(int(scene.image[0, 0, 0]))
        lead.append(len(pulled) - len(values))
    assert values == list(range(5))
    assert max(lead) == 1
    assert list(model.encode_all([])) == []
    endless = model.encode_all(flag() for _ in itertools.count())
    next(endless)
    endless.close()


def test_encode_all_raises_at_the_images_turn() -> None:
    scenes = fake_model().encode_all([flag(), "missing.png", flag()])
    assert next(scenes).size == (128, 200)
    with pytest.raises(ImageError):
        next(scenes)


def test_answer_all_keeps_the_order_and_closes_scenes() -> None:
    images = [np.full((4, 4, 3), value, np.uint8) for value in range(5)]
    scenes = list(fake_model(streams=2).answer_all(images, lambda scene: scene))
    assert [int(scene.image[0, 0, 0]) for scene in scenes] == list(range(5))
    for scene in scenes:
        with pytest.raises(ClosedError):
            scene.segment(points=[(1, 1)])


def test_one_image_may_fail_alone() -> None:
    images = [flag(), "missing.png", flag()]
    given = list(fake_model(streams=2).answers(images, lambda scene: scene.size))
    assert [image is wanted for (image, _), wanted in zip(given, images, strict=True)] == [True] * 3
    assert [given[0][1].result(), given[2][1].result()] == [(128, 200)] * 2
    with pytest.raises(ImageError):
        given[1][1].result()


def test_closing_ends_model_and_scenes() -> None:
    with fake_model() as model:
        scene = model.encode(flag())
        masks = scene.segment(points=[(5, 5)])
    model.close()
    calls: list[Any] = [
        lambda: model.encode(flag()),
        lambda: next(model.encode_all([flag()])),
        lambda: scene.classify(ALL),
        lambda: scene.segment(points=[(5, 5)]),
        lambda: scene.semantic(ALL),
        scene.everything,
        lambda: scene.image_embed,
        lambda: scene.image_embeddings,
    ]
    for call in calls:
        with pytest.raises(ClosedError):
            call()
    assert masks.masks.shape == (1, 128, 200)
    assert "closed" in repr(model)


def test_scenes_end_on_their_own() -> None:
    model = fake_model()
    first, second = model.encode(flag()), model.encode(flag())
    with first:
        pass
    first.close()
    with pytest.raises(ClosedError, match="Encode the image again"):
        first.segment(points=[(5, 5)])
    assert second.classify(ALL).best in ALL
    assert first.size == (128, 200)


@pytest.mark.parametrize("parts", [{"clip": False}, {"text": False}])
def test_names_need_a_head_and_text(parts: dict[str, bool]) -> None:
    scene = fake_model(**parts).encode(flag())
    for call in (scene.classify, scene.semantic):
        with pytest.raises(CapabilityError, match="has no"):
            call(ALL)
    with pytest.raises(CapabilityError):
        scene.segment(points=[(5, 5)], names=ALL)
    assert len(scene.segment(points=[(5, 5)])) == 1


def test_names_outside_the_ready_made_ones_are_refused() -> None:
    scene = fake_model().encode(flag())
    with pytest.raises(CapabilityError, match="purple"):
        scene.classify(["red", "purple"])
    with pytest.raises(VocabularyError):
        scene.classify("red")
    with pytest.raises(VocabularyError):
        scene.classify([])


def test_names_are_checked_before_the_decoder_runs() -> None:
    model = fake_model()
    with pytest.raises(VocabularyError):
        model.encode(flag()).segment(points=[(5, 5)], names=[])
    backend = model._pool.backend
    assert isinstance(backend, FakeBackend)
    assert "mask_decoder" not in backend.engines


def test_an_untrained_head_warns_on_every_use_and_marks_answers() -> None:
    scene = fake_model(trained=False).encode(flag())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            answers: list[Any] = [
                scene.classify(ALL),
                scene.semantic(ALL),
                scene.segment(points=[(5, 5)], names=ALL),
                scene.everything(points_per_side=2, names=ALL),
            ]
    assert [w.category for w in caught] == [UntrainedHeadWarning] * 8
    assert {w.filename for w in caught} == {__file__}
    assert [answer.trained_head for answer in answers] == [False] * 4
    assert [answer.to_dict()["trained_head"] for answer in answers] == [False] * 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scene.segment(points=[(5, 5)])


@pytest.mark.parametrize("workers", [2, 8, 32])
def test_threads_answer_as_one_would(workers: int) -> None:
    model = fake_model()
    scene = model.encode(flag())
    boxes = [(x, 10, x + 30, 60) for x in range(0, 160, 10)]
    serial = [scene.segment(boxes=box, names=ALL) for box in boxes]
    fresh = model.encode(flag())
    with ThreadPoolExecutor(workers) as threads:
        found = list(threads.map(lambda box: fresh.segment(boxes=box, names=ALL), boxes * 4))
    for one, other in zip(serial * 4, found, strict=True):
        np.testing.assert_array_equal(one.masks, other.masks)
        assert one.names == other.names
    assert model.encoder_passes == 2


def test_the_counter_misses_no_pass() -> None:
    model = fake_model()
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(model.encode, [flag()] * 100))
    assert model.encoder_passes == 100


def test_closing_during_tasks_answers_or_raises() -> None:
    for _ in range(10):
        model = fake_model(delay=0.001)
        scene = model.encode(flag())
        outcomes: list[str] = []

        def work(scene: Any = scene, outcomes: list[str] = outcomes) -> None:
            try:
                for _ in range(5):
                    scene.segment(points=[(5, 5)])
                outcomes.append("done")
            except ClosedError:
                outcomes.append("closed")

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.003)
        model.close()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 4


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 5)])
def test_images_of_any_shape(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), (200, 10, 10), np.uint8)
    scene = fake_model().encode(image)
    height, width = size
    answers: list[Any] = [
        scene.classify(ALL),
        scene.segment(points=[(width / 2, height / 2)], names=ALL),
        scene.segment(boxes=(0, 0, width, height)),
        scene.semantic(ALL, refine=True),
        scene.everything(names=ALL, points_per_side=2, crop_n_layers=1),
    ]
    for answer in answers:
        assert answer.draw().shape == image.shape
        answer.to_dict()
    assert answers[0].best == "red"
    assert answers[1].masks.shape == (1, *size)
    assert answers[3].present == ("red",)


class NotStarting(FakeBackend):
    """A backend that looks fine until a graph is loaded."""

    def load(self, source: GraphSource, options: EngineOptions) -> Engine:
        raise BackendUnavailableError(f"{self.name} has no cuDNN. To do: install it.")


@pytest.fixture
def two_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle for "fast", which does not start, and for "fake", which does."""
    manifest = fake_manifest()
    encoder = manifest.graphs.encoder
    variants = tuple(
        msgspec.structs.replace(variant, backends=("fast", "fake")) for variant in encoder.variants
    )
    graphs = msgspec.structs.replace(
        manifest.graphs, encoder=msgspec.structs.replace(encoder, variants=variants)
    )
    bundle = FakeBundle(msgspec.structs.replace(manifest, graphs=graphs))
    monkeypatch.setattr(loading_module, "find_bundle", lambda name: name)
    monkeypatch.setattr(loading_module.Bundle, "open", lambda path, public_key=None: bundle)
    monkeypatch.setattr(registry, "BACKENDS", (NotStarting("fast"), FakeBackend()))


@pytest.mark.usefixtures("two_backends")
def test_auto_tries_the_next_backend_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "samclip"), samclip.load("any") as model:
        assert model.backend == "fake"
        assert [passed.name for passed in model.passed_over] == ["fast"]
        assert "has no cuDNN" in model.passed_over[0].reason
        assert model.encode(flag()).classify(ALL).best in ALL
    (record,) = caplog.records
    assert "'fast' does not start" in record.getMessage()
    assert "has no cuDNN" in record.getMessage()


BUILD = (BuildPlans(origin="fake"),)


class NotBuilt(FakeBackend):
    """A backend that works, but has no plans of this bundle."""

    def ready(self, graphs: Sequence[GraphKey], options: EngineOptions) -> Probe:
        assert [key.precision for key in graphs] == ["fp32"]
        assert graphs[0].origin == "fake"
        return Probe(False, "no plan was built", "build it", BUILD)

    def load(self, source: GraphSource, options: EngineOptions) -> Engine:
        raise PlanMissingError("there is no plan. Build one.", steps=BUILD)


@pytest.mark.usefixtures("two_backends")
def test_auto_does_not_take_a_backend_that_would_build_for_minutes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(registry, "BACKENDS", (NotBuilt("fast"), FakeBackend()))
    with caplog.at_level(logging.WARNING, "samclip"), samclip.load("any") as model:
        assert model.backend == "fake"
        assert [(one.remedy, one.steps) for one in model.passed_over] == [("build it", BUILD)]
    assert "To do: build it" in caplog.records[0].getMessage()
    assert vars(caplog.records[0])["steps"] == BUILD
    with pytest.raises(PlanMissingError, match="Build one") as caught:
        samclip.load("any", "fast")
    assert caught.value.steps == BUILD


@pytest.mark.usefixtures("two_backends")
def test_a_backend_asked_for_by_name_is_not_replaced() -> None:
    with pytest.raises(BackendUnavailableError, match="no cuDNN"):
        samclip.load("any", "fast")


@pytest.mark.usefixtures("two_backends")
def test_auto_raises_when_no_backend_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BACKENDS", (NotStarting("fast"), NotStarting("fake")))
    with pytest.raises(BackendUnavailableError, match="fake has no cuDNN"):
        samclip.load("any")


@pytest.mark.usefixtures("two_backends")
def test_auto_takes_the_fastest_backend_that_the_bundle_was_made_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    others = (NotStarting("other"), FakeBackend("fast"), FakeBackend())
    monkeypatch.setattr(registry, "BACKENDS", others)
    with samclip.load("any") as model:
        assert model.backend == "fast"
    assert not caplog.records


@pytest.mark.parametrize(
    ("model_type", "last"),
    [("vit_b", ["openvino", "onnxruntime"]), ("lite2", ["onnxruntime", "openvino"])],
)
def test_openvino_comes_first_for_plain_vits_alone(
    monkeypatch: pytest.MonkeyPatch, model_type: str, last: list[str]
) -> None:
    monkeypatch.setattr(ov_backend, "suits_processor", lambda: True)
    bundle = FakeBundle(msgspec.structs.replace(fake_manifest(), model_type=model_type))
    names = [backend.name for backend in fastest_first(bundle)]
    assert names == ["tensorrt", "tensorrt-rtx", "cuda", *last]


def test_a_vocabulary_is_embedded_once_and_taken_by_every_task() -> None:
    model = fake_model()
    scene = model.encode(flag())
    names = model.vocabulary(ALL)
    assert scene.classify(names).names == tuple(ALL)
    assert scene.semantic(names).names == tuple(ALL)
    assert scene.segment(points=[(5, 5)], names=names).names is not None
    model.close()
    with pytest.raises(ClosedError):
        model.vocabulary(ALL)
    with pytest.raises(ClosedError):
        model.vocabulary(names)


def test_a_head_that_was_not_trained_marks_the_answers_of_a_shared_vocabulary() -> None:
    names = fake_model().vocabulary(ALL)
    with pytest.warns(UntrainedHeadWarning):
        answer = fake_model(trained=False).encode(flag()).classify(names)
    assert not answer.trained_head
    assert names.trained_head


def test_a_single_name_is_doubtful_only_where_its_probability_is_the_answer() -> None:
    scene = fake_model().encode(flag())
    with pytest.warns(InputWarning, match="'red' is the only name"):
        assert scene.classify(["red"]).probabilities.tolist() == [1]
    with pytest.warns(InputWarning, match="no pixel is background"):
        assert (scene.semantic(["red"], background=0.5).labels == 0).all()
    scene.semantic(["red"])  # what programs do that have one name
    scene.segment(points=[(5, 5)], names=["red"])
    scene.everything(["red"], points_per_side=2)


@pytest.mark.parametrize("what", ["threads", "streams"])
@pytest.mark.parametrize("number", [0, -1, "x", 1.5])
def test_threads_must_be_a_whole_number(what: str, number: Any) -> None:
    with pytest.raises(InputError, match=what):
        loading_module._check_count(what, number)


@pytest.mark.parametrize("precision", ["fp23", "", 16])
def test_an_unknown_precision_is_refused_before_any_backend_is_tried(precision: Any) -> None:
    with pytest.raises(InputError, match=r"there is no precision .* Choose among fp32, fp16"):
        samclip.load(precision=precision)


def test_threads_are_at_most_the_processors() -> None:
    assert loading_module._check_count("threads", 100_000) == os.cpu_count()
    assert loading_module._check_count("threads", 1) == 1
    assert loading_module._check_count("threads", None) is None


def test_streams_share_the_cores() -> None:
    assert EngineOptions().threads_per_run(8) == 8
    assert EngineOptions(streams=2).threads_per_run(8) == 4
    assert EngineOptions(streams=4).threads_per_run(2) == 1
    assert EngineOptions(threads=3, streams=4).threads_per_run(2) == 3


@pytest.mark.parametrize(
    "device",
    ["banana", "", "cuda:", "cuda:x", "gpu", -1, "-1", 1.0, True, [0], b"cpu", torch.device("mps")],
)
def test_a_device_that_is_none(device: Any) -> None:
    with pytest.raises(InputError, match=r"no device .*Give 'cpu', 'cuda', 'cuda:1', or the index"):
        samclip.load(device=device)


@pytest.mark.parametrize(
    "device", ["cuda", "cuda:0", "0", 0, 1, 99, np.int64(2), torch.device("cuda", 1)]
)
def test_a_gpu_where_there_is_none(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BACKENDS", (CPU,))
    with pytest.raises(InputError, match="Leave device out to run on the CPU"):
        samclip.load(device=device)
    with pytest.raises(InputError, match=r"'onnxruntime' runs on the CPU, asked for GPU"):
        samclip.load(backend="onnxruntime", device=device)


def test_a_backend_for_gpus_does_not_run_on_the_cpu() -> None:
    with pytest.raises(InputError, match="'cuda' runs on a GPU, asked for the CPU"):
        samclip.load(backend="cuda", device="cpu")


@pytest.mark.parametrize("device", [None, "cpu", torch.device("cpu")])
def test_the_cpu_by_its_name(device: Any) -> None:
    with samclip.load(backend="onnxruntime", device=device) as model:
        assert model.backend == "onnxruntime"


@pytest.mark.parametrize("backend", [[], 5, b"onnxruntime", {"auto"}, np.zeros(2), None])
def test_a_backend_that_is_no_name(backend: Any) -> None:
    with pytest.raises(UnknownBackendError, match=r"no backend .*Choose among auto"):
        samclip.load(backend=backend)


@pytest.mark.parametrize("backend", ["auto", "onnxruntime"])
def test_a_precision_that_the_bundle_lacks(backend: str) -> None:
    with pytest.raises(InputError, match=r"'samclip-tiny' has no encoder in fp16, only in fp32"):
        samclip.load(backend=backend, precision="fp16")


def test_a_stack_that_is_too_small_for_a_graph() -> None:
    """Libraries end the process there."""
    model, errors = fake_model(), []

    def work() -> None:
        with pytest.raises(
            EngineRunError, match=r"set to 65,536 bytes, expected 262,144"
        ) as raised:
            model.encode(flag())
        errors.append(raised.value)

    before = threading.stack_size(65_536)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        model.encode(flag()).close()  # the main thread has its own stack
    finally:
        threading.stack_size(before)
    assert errors
