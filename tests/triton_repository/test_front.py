"""The front model: the API's answers, from an image that was sent once."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fake_triton import FRONT, GPU, FakeRequest, FakeServer, FakeTensor, fake_triton
from numpy.typing import NDArray

import samclip
from samclip.client.decoding import decode_rle
from samclip.errors import InputError, VocabularyError
from samclip.runtime.results.masks import Masks
from samclip.runtime.scene import Scene
from samclip.triton.front import SequenceScenes
from samclip.triton.graph_models import GraphSettings
from samclip.triton.records import FRONT_RECORD, FrontRecord, encode, read_record
from samclip.triton.repository import RepositorySettings, front_config, write_repository

NAMES = ["a cup of coffee", "a wooden table", "a cat"]
TEXTS = np.array([name.encode() for name in NAMES], np.object_)
BOXES = np.array([[172, 17, 410, 308], [0, 0, 90, 90]], np.float32)
POINTS = np.array([[[290, 150], [40, 40]]], np.float32)
GRID = {"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}


def options(task: str, **fields: Any) -> NDArray[Any]:
    return np.array([json.dumps({"task": task, **fields}).encode()], np.object_)


def file_of(photo: Path) -> NDArray[np.uint8]:
    return np.frombuffer(photo.read_bytes(), np.uint8)


def same_masks(outputs: dict[str, NDArray[Any]], expected: Masks) -> None:
    np.testing.assert_array_equal(outputs["masks"].astype(bool), expected.masks)
    np.testing.assert_array_equal(outputs["scores"], expected.scores)
    np.testing.assert_array_equal(outputs["mask_boxes"], expected.boxes)
    if expected.low_res_logits is not None:
        np.testing.assert_array_equal(outputs["low_res_logits"], expected.low_res_logits)
    height, width = outputs["size"].tolist()
    for counts, mask in zip(outputs["rle"], expected.masks, strict=True):
        rle = {"size": [height, width], "counts": counts.decode()}
        np.testing.assert_array_equal(decode_rle(rle, (height, width)), mask)
    if expected.class_ids is not None:
        np.testing.assert_array_equal(outputs["class_ids"], expected.class_ids)
        np.testing.assert_array_equal(outputs["probabilities"], expected.name_probabilities)
    record = json.loads(outputs["answer"][0])
    found = json.loads(json.dumps(expected.to_dict()))["masks"]
    assert [{key: one[key] for key in found[0]} for one in record["masks"]] == found


def part_for(scene: Scene, graph: str) -> str:
    """Return the name of the model that runs a graph for the shape of a scene's image."""
    canvas = scene.features.letterbox.canvas
    name = graph if canvas == (1024, 1024) else f"{graph}-{canvas[0]}x{canvas[1]}"
    return f"{FRONT}-{name}"


@pytest.fixture(scope="module")
def begun(server: FakeServer, photo_path: Path) -> dict[str, NDArray[Any]]:
    """The answer to the first request of the sequence 1, which has the photo."""
    return server.ask(FRONT, {"image": file_of(photo_path)}, start=True)


def test_one_image_many_questions_give_the_answers_of_the_api(
    server: FakeServer, scene: Scene, begun: dict[str, NDArray[Any]]
) -> None:
    assert {name: array.tolist() for name, array in begun.items()} == {"size": list(scene.size)}
    before = server.calls[part_for(scene, "encoder")]
    boxes = server.ask(FRONT, {"boxes": BOXES, "names": TEXTS})
    same_masks(boxes, scene.segment(boxes=BOXES, names=NAMES))
    labels = np.array([[1, 0]], np.int32)
    asked = {
        "points": POINTS,
        "point_labels": labels,
        "options": options("segment", multimask=True),
    }
    expected = scene.segment(points=POINTS, labels=labels, multimask=True)
    several = server.ask(FRONT, asked)
    same_masks(several, expected)
    again = {"mask_input": several["low_res_logits"][:1], "boxes": BOXES[:1]}
    assert expected.low_res_logits is not None
    same_masks(
        server.ask(FRONT, again),
        scene.segment(boxes=BOXES[:1], mask=expected.low_res_logits[:1]),
    )
    asked = {"names": TEXTS, "options": options("classify", templates=["a {}.", "one {}."])}
    best = server.ask(FRONT, asked)["probabilities"]
    np.testing.assert_array_equal(best, scene.classify(NAMES, ["a {}.", "one {}."]).probabilities)
    asked = {"names": TEXTS, "options": options("semantic", refine=True, background=0.4)}
    pixels = server.ask(FRONT, asked)["label_map"]
    np.testing.assert_array_equal(pixels, scene.semantic(NAMES, None, True, 0.4).labels)
    asked = {"names": TEXTS, "options": options("everything", **GRID)}
    same_masks(server.ask(FRONT, asked), scene.everything(NAMES, **GRID))
    assert server.calls[part_for(scene, "encoder")] == before


@pytest.mark.parametrize(
    ("tensors", "start", "message"),
    [
        ({}, True, "this one has neither"),
        ({"image": np.zeros(4, np.uint8)}, False, "only the first request of a sequence"),
        ({"image": np.zeros(40, np.uint8)}, True, "ImageError: the image is not of the formats"),
        ({"boxes": BOXES}, False, "the sequence 9 has no scene"),
        ({"names": TEXTS}, False, "this request has no task"),
        ({"options": options("sing")}, False, "there is no task 'sing'"),
        ({"options": np.array([b"[1]"], object)}, False, "must be one JSON object"),
        ({"options": np.array([b"\xff"], object)}, False, "must be UTF-8"),
        ({"options": options("classify", image="x")}, False, "'image' is not an option"),
        ({"options": options("classify", speed=1)}, False, "unknown field `speed`"),
        ({"options": options("semantic"), "boxes": BOXES}, False, "prompts of segment"),
        ({"boxes": np.zeros((300, 4), np.float32)}, False, "at most|may have 256 prompts"),
        ({"points": np.zeros((1, 2000, 2), np.float32)}, False, "may have 1,024 points"),
        ({"names": np.array([b"a"] * 3000), "options": options("classify")}, False, "2,000 names"),
    ],
)
def test_wrong_requests_say_what_is_wrong(
    tensors: dict[str, Any], start: bool, message: str, server: FakeServer
) -> None:
    with pytest.raises(AssertionError, match=message):
        server.ask(FRONT, tensors, 9, start=start)
    assert not server.logged


def test_a_failing_graph_is_logged_and_not_shown(
    server: FakeServer,
    scene: Scene,
    begun: dict[str, NDArray[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server.models[part_for(scene, "mask_decoder")], "_answer", refuse)
    with pytest.raises(AssertionError, match=r"^EngineRunError: the server failed to answer"):
        server.ask(FRONT, {"boxes": BOXES})
    assert "a secret path" in server.logged.pop()


def refuse(_: object) -> Any:
    import triton_python_backend_utils as module

    return module.InferenceResponse(error=module.TritonError("a secret path"))


def test_texts_of_several_requests_run_as_one_batch(server: FakeServer) -> None:
    model = server.models[f"{FRONT}-text_encoder"]
    runs: list[int] = []
    engine = model._engine
    run = engine.run
    tokens = np.ones((3, 64), np.int64)
    tokens[:, 1:] = 0
    try:
        engine.run = lambda feeds, *more: (runs.append(len(feeds["tokens"])), run(feeds, *more))[1]
        requests = [
            FakeRequest([FakeTensor("tokens", part)], {"text_embeddings"})
            for part in (tokens[:1], tokens[1:])
        ]
        first, second = (each.output_tensors()[0].array for each in model.execute(requests))
    finally:
        del engine.run
    assert (runs, first.shape[0], second.shape[0]) == ([3], 1, 2)
    # Batches of other sizes differ in the last digits.
    np.testing.assert_allclose(first[0], second[1], atol=1e-6)


def test_features_stay_on_the_gpu(
    repository: Path, scene: Scene, photo: NDArray[np.uint8], tmp_path: Path
) -> None:
    """The fake's tensors there cannot be read on the host: the decoder gets them as they are."""
    folder = tmp_path / "repository"
    shutil.copytree(repository, folder)
    path = folder / FRONT / "1" / FRONT_RECORD
    record = read_record(path, FrontRecord)
    path.write_bytes(encode(msgspec.structs.replace(record, device="gpu", gpu=GPU)))
    with fake_triton(folder) as server:
        asked = {"pixels": photo, "boxes": BOXES}  # image and question in one
        found = server.ask(FRONT, asked, start=True, wanted={"scores", "size"})
        assert found.keys() == {"scores", "size"}  # what was not asked for is not computed
        np.testing.assert_array_equal(found["scores"], scene.segment(boxes=BOXES).scores)
        features = server.models[FRONT]._scenes.get(1).features.check_open()
        assert all(tensor.on_host() is None for tensor in features.values())
        assert features["image_embeddings"].shape == scene.image_embeddings.shape
        # A GPU gets more prompts in one run than a CPU; here both are two.
        found = server.ask(FRONT, {"boxes": BOXES, "names": TEXTS}, end=True)
        same_masks(found, scene.segment(boxes=BOXES, names=NAMES))
        with pytest.raises(AssertionError, match="the sequence 1 has no scene"):
            server.ask(FRONT, {"boxes": BOXES})


def test_saved_names_are_answered_with_their_examples(
    scene: Scene, photo_path: Path, tmp_path: Path
) -> None:
    """The same numbers as the API's; a file of another text space is refused before anything."""
    with samclip.load("samclip-tiny", "onnxruntime", threads=1) as model:
        with model.encode(photo_path) as shown:
            taught = model.vocabulary(["our mug"], examples={"our mug": [(shown, BOXES[0])]})
        saved = taught.save(tmp_path / "plant.safetensors")
        expected = model.vocabulary([taught, "a cat"]).select(["a cat", "our mug"])
        foreign = replace(taught, space="0" * 64).save(tmp_path / "foreign.safetensors")
    graphs = GraphSettings(backend="python", threads=1)
    settings = RepositorySettings(graphs, FRONT, vocabulary=saved)
    record = write_repository("samclip-tiny", tmp_path / "r", settings)
    assert f"{FRONT}/1/vocabulary.safetensors" in record.files
    texts = np.array([b"a cat", b"our mug"], np.object_)
    with fake_triton(tmp_path / "r") as server:
        image = {"image": file_of(photo_path), "names": texts, "options": options("classify")}
        found = server.ask(FRONT, image, start=True)["probabilities"]
        np.testing.assert_array_equal(found, scene.classify(expected).probabilities)
        plain = scene.classify(["a cat", "our mug"]).probabilities
        assert np.abs(np.log(found) - np.log(plain)).max() > 1  # the example counts
        same_masks(
            server.ask(FRONT, {"boxes": BOXES, "names": texts}),
            scene.segment(boxes=BOXES, names=expected),
        )
    with pytest.raises(VocabularyError, match="text space"):
        write_repository("samclip-tiny", tmp_path / "q", replace(settings, vocabulary=foreign))
    assert not (tmp_path / "q").exists()


def test_scenes_are_bounded_in_number_and_time() -> None:
    now = [0.0]
    closed: list[str] = []

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def close(self) -> None:
            closed.append(self.name)

    scenes = SequenceScenes(2, 10.0, lambda: now[0])
    for number, name in enumerate("abc"):
        scenes.add(number, Named(name))  # type: ignore[arg-type]
        scenes.get(0) if number == 1 else None
    assert (closed, len(scenes)) == (["b"], 2)  # the one used longest ago
    with pytest.raises(InputError, match="sequence 1 has no scene"):
        scenes.get(1)
    now[0] = 11.0
    scenes.add(7, Named("d"))  # type: ignore[arg-type]
    assert (sorted(closed), len(scenes)) == (["a", "b", "c"], 1)
    scenes.clear()
    assert len(scenes) == 0
    config = front_config("x", RepositorySettings(GraphSettings(), scenes=2, idle_seconds=10.0))
    assert config.sequences is not None
    assert (config.sequences.most, config.sequences.idle_seconds) == (2, 10.0)
