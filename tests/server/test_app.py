"""The server's answers: bit by bit those of the API, in every form, alone and joined."""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from served import served

from samclip.client.decoding import decode_rle
from samclip.errors import InputWarning, VocabularyError
from samclip.runtime.model import Model
from samclip.runtime.results.classification import SemanticMap
from samclip.runtime.scene import Scene
from samclip.runtime.text.vocabulary import load_vocabulary
from samclip.server.answers import choose_picture
from samclip.server.run import Server

NAMES = ["cup of coffee", "wooden table", "cat"]
GRID = {"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
QUESTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "classify": ("classify", {"names": NAMES}),
    "templates": ("classify", {"names": NAMES, "templates": ["a {}.", "one {}."]}),
    "point": ("segment", {"points": [[290, 150]]}),
    "points": ("segment", {"points": [[290, 150], [40, 40]], "labels": [1, 0], "names": NAMES}),
    "ragged": ("segment", {"points": [[[290, 150]], [[40, 40], [300, 200]]]}),
    "boxes": ("segment", {"boxes": [[172, 17, 410, 308], [0, 0, 90, 90]], "multimask": True}),
    "semantic": ("semantic", {"names": NAMES, "background": 0.4}),
    "refined": ("semantic", {"names": NAMES, "refine": True}),
    "everything": ("everything", {"names": NAMES, **GRID}),
}


def without_times(answer: Any) -> dict[str, Any]:
    record = dict(answer.to_dict())
    return json.loads(json.dumps(record))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", QUESTIONS)
def test_an_answer_is_that_of_the_api(
    name: str, http: httpx.Client, scene_id: str, small_scene: Scene
) -> None:
    task, question = QUESTIONS[name]
    response = http.post(f"/v1/{task}", json={"scene": scene_id, **question})
    assert response.status_code == 200, response.text
    answer = response.json()
    asked = {key: value for key, value in question.items() if key != "points"}
    if "points" in question:
        nested = isinstance(question["points"][0][0], list)
        asked["points"] = (
            [np.asarray(p) for p in question["points"]] if nested else question["points"]
        )
    expected = without_times(getattr(small_scene, task)(**asked))
    parts = expected.get("masks", [])
    for given, wanted in zip(answer.get("masks", []), parts, strict=True):
        assert {key: given[key] for key in wanted} == wanted  # no tolerance: bit by bit
    for given, wanted in zip(answer.get("classes", []), expected.get("classes", []), strict=True):
        assert {key: given[key] for key in wanted} == wanted
    plain = {k: v for k, v in expected.items() if k not in {"masks", "classes"}}
    assert {key: answer[key] for key in plain} == plain
    assert answer["timings"]["encode"] > 0
    assert answer["scene"] == scene_id


def test_an_image_with_its_question_is_answered_in_one_request(
    http: httpx.Client, photo_path: Path, small_scene: Scene, small_model: Model
) -> None:
    data = photo_path.read_bytes()
    question = {"points": [[290, 150]], "names": NAMES}
    expected = without_times(small_scene.segment([(290, 150)], names=NAMES))["masks"]
    parts = {"image": data, "question": (None, json.dumps(question))}
    fields = {"image": data, "points": (None, "[[290, 150]]"), "names": (None, ", ".join(NAMES))}
    passes = small_model.encoder_passes
    ways = (
        http.post("/v1/segment", files=parts),
        http.post("/v1/segment", files=fields),
        http.post("/v1/segment", json={"image": base64.b64encode(data).decode(), **question}),
    )
    for response in ways:
        assert response.status_code == 200, response.text
        (mask,) = response.json()["masks"]
        assert {key: mask[key] for key in expected[0]} == expected[0]
    assert small_model.encoder_passes == passes + 3


def test_masks_come_as_png_and_answers_as_pictures(
    http: httpx.Client, scene_id: str, small_scene: Scene
) -> None:
    question = {"scene": scene_id, "boxes": [172, 17, 410, 308]}
    masks = small_scene.segment(boxes=[172, 17, 410, 308])
    (entry,) = http.post("/v1/segment", json={**question, "answer": "png"}).json()["masks"]
    decoded = Image.open(io.BytesIO(base64.b64decode(entry["segmentation"]["png"])))
    np.testing.assert_array_equal(np.asarray(decoded) == 255, masks.masks[0])
    drawn = masks.draw(legend=True)
    for options, kind in (
        ({"json": {**question, "answer": "picture"}}, "PNG"),
        ({"json": question, "headers": {"Accept": "image/png,*/*"}}, "PNG"),
        ({"json": question, "headers": {"Accept": "image/webp"}}, "WEBP"),
    ):
        response = http.post("/v1/segment", **options)
        picture = Image.open(io.BytesIO(response.content))
        assert (response.headers["content-type"], picture.format) == (f"image/{kind.lower()}", kind)
        if kind == "PNG":
            np.testing.assert_array_equal(np.asarray(picture), drawn)
    for accept, wanted in (
        ("text/html, application/json;q=0.9, image/png", "image/png"),
        ("application/json, image/png", None),
        ("image/png;q=0, */*", None),
        ("image/jpeg;q=0.5, image/webp; q=0.8, */*;q=0.1", "image/webp"),
        ("image/*", "image/png"),
        ("text/html", None),
    ):
        assert choose_picture(accept) == wanted, accept


def test_label_maps_cover_the_photo(http: httpx.Client, scene_id: str, small_scene: Scene) -> None:
    answer = http.post("/v1/semantic", json={"scene": scene_id, "names": NAMES}).json()
    expected: SemanticMap = small_scene.semantic(NAMES)
    for each in answer["classes"]:
        decoded = decode_rle(each["segmentation"], expected.labels.shape)
        np.testing.assert_array_equal(decoded, expected.labels == each["index"])


def test_names_of_a_saved_vocabulary_are_answered_with_it(
    small_model: Model, small_scene: Scene, photo_path: Path, tmp_path: Path
) -> None:
    """Alone, joined and with other names, in the order of the question, as by the API."""
    mug = {"our mug": [(small_scene, (172, 17, 410, 308))]}
    path = small_model.vocabulary(["our mug", "wooden table"], examples=mug).save(tmp_path / "v")
    saved = load_vocabulary(path)
    names = ["cat", "our mug", "dog"]
    taught = small_model.vocabulary([saved, "cat", "dog"]).select(names)
    points = {"points": [[290, 150]]}
    with (
        served(small_model, saved=saved) as server,
        httpx.Client(base_url=server.address, timeout=120, trust_env=False) as http,
    ):
        kept = http.post("/v1/scenes", files={"image": photo_path.read_bytes()}).json()["id"]

        def ask(task: str, **question: Any) -> dict[str, Any]:
            response = http.post(f"/v1/{task}", json={"scene": kept, **question})
            assert response.status_code == 200, response.text
            return dict(response.json())

        def logits(**question: Any) -> dict[str, float]:
            answer = ask("classify", **question)
            texts = answer["names"]
            assert [question["names"][place] for place in answer["indices"]] == texts
            return dict(zip(texts, answer["logits"], strict=True))

        def expected(vocabulary: Any, templates: Any = None) -> dict[str, float]:
            found = small_scene.classify(vocabulary, templates)
            return dict(zip(found.names, map(float, found.logits), strict=True))

        assert logits(names=names) == expected(taught)
        assert logits(names=names)["our mug"] != expected(names)["our mug"]
        assert logits(names=["cat", "dog"]) == expected(["cat", "dog"])
        own = {"our mug": ["cup of coffee"]}  # a definition of the question goes before it
        plain = small_model.vocabulary(names, synonyms=own)
        assert logits(names=names, synonyms=own) == expected(plain)
        with ThreadPoolExecutor(8) as pool:
            answers = list(
                pool.map(lambda _: ask("segment", names=names, **points)["masks"][0], range(16))
            )
        (mask,) = json.loads(json.dumps(small_scene.segment([(290, 150)], names=taught).to_dict()))[
            "masks"
        ]
        assert all({key: answer[key] for key in mask} == mask for answer in answers)
        (model,) = http.get("/v1/models").json()["models"]
        assert model["saved_names"] == ["our mug", "wooden table"]
        assert len(ask("classify", names=["our mug", "our mug"])["names"]) == 2
    foreign = replace(saved, space="0" * 64)
    with pytest.raises(VocabularyError, match="text space"), served(small_model, saved=foreign):
        pass


def test_questions_about_one_scene_are_joined_and_stay_right(
    server: Server, http: httpx.Client, scene_id: str, small_scene: Scene
) -> None:
    """24 questions at once, a wrong one and one with a warning among them."""
    places = [(20 + 23 * i, 15 + 15 * i) for i in range(22)]
    questions: list[dict[str, Any]] = [
        {"points": [place], "names": NAMES if i % 3 == 0 else None}
        for i, place in enumerate(places)
    ]
    questions += [{"points": [[9000, 1]]}, {"points": [[0.5, 0.5]]}]

    def ask(question: dict[str, Any]) -> httpx.Response:
        return http.post("/v1/segment", json={"scene": scene_id, **question})

    def joined() -> tuple[float, float]:
        lines = http.get("/metrics").text.splitlines()
        found = {line.split()[0]: float(line.split()[1]) for line in lines if line[:1] != "#"}
        return found["samclip_joined_questions_count"], found["samclip_joined_questions_sum"]

    before = joined()
    with ThreadPoolExecutor(len(questions)) as pool:
        responses = list(pool.map(ask, questions))
    for question, given in zip(questions[:-2], responses[:-2], strict=True):
        response = ask(question) if given.status_code == 429 else given  # the queue holds 16
        (mask,) = response.json()["masks"]
        expected = small_scene.segment(question["points"], names=question["names"])
        (wanted,) = without_times(expected)["masks"]
        assert {key: mask[key] for key in wanted} == wanted
        assert "decode" in response.json()["timings"]
    wrong, odd = responses[-2:]
    assert wrong.status_code in {422, 429}
    assert ask(questions[-2]).json()["error"] == "PromptError"
    warned = (
        ask(questions[-1]).json()["warnings"] if odd.status_code == 429 else odd.json()["warnings"]
    )
    assert [each["kind"] for each in warned] == [InputWarning.__name__]
    runs, answered = (now - then for now, then in zip(joined(), before, strict=True))
    assert runs < answered  # some were joined
