"""The client: a server's answers as the API's own types, bit by bit, and its errors as errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from served import served

import samclip
from samclip.client.decoding import decode_rle, read_masks
from samclip.client.transport import check_address
from samclip.errors import (
    ClosedError,
    ImageError,
    InputError,
    PromptError,
    ServerBusyError,
    ServerError,
    VocabularyError,
)
from samclip.runtime.model import Model
from samclip.runtime.results.masks import AutoMasks, Masks
from samclip.runtime.scene import Scene

NAMES = ["cup of coffee", "wooden table", "cat"]
GRID: dict[str, Any] = {"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}


@pytest.fixture(scope="module")
def model(lite2_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    cache = tmp_path_factory.mktemp("cache")
    with samclip.load(lite2_bundle, "onnxruntime", threads=1, cache_dir=cache) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def client(model: Model) -> Iterator[samclip.Client]:
    with served(model) as server, samclip.Client(server.address) as made:
        yield made


@pytest.fixture(scope="module")
def scene(model: Model, photo_path: Path) -> Iterator[Scene]:
    with model.encode(photo_path) as encoded:
        yield encoded


@pytest.fixture(scope="module")
def remote(client: samclip.Client, photo_path: Path) -> Iterator[samclip.RemoteScene]:
    with client.encode(photo_path) as encoded:
        yield encoded


def same(given: Any, wanted: Any) -> None:
    """Compare two answers in every field but times and prompts; no tolerance."""
    assert type(given) is type(wanted)
    for name in type(wanted).__dataclass_fields__:
        if name in {"timings", "prompts"}:
            continue
        ours, theirs = getattr(given, name), getattr(wanted, name)
        if name == "packed":
            ours, theirs = ours.bits, theirs.bits
        if isinstance(theirs, np.ndarray):
            assert ours.dtype == theirs.dtype, name
            np.testing.assert_array_equal(ours, theirs, name)
        else:
            assert ours == theirs, name


def test_answers_are_those_of_a_model(remote: samclip.RemoteScene, scene: Scene) -> None:
    """All tasks, as arrays and lists, with names, refined by an earlier mask."""
    assert (remote.size, repr(remote)[:19]) == (scene.size, "RemoteScene(600x400")
    same(remote.classify(NAMES), scene.classify(NAMES))
    first = scene.segment([(290, 150)], names=NAMES)
    same(remote.segment([(290, 150)], names=NAMES), first)
    second: dict[str, Any] = {
        "points": [np.array([[290, 150]]), np.array([[10.5, 20], [30, 40]])],
        "labels": [[1], np.array([0, 1])],
        "boxes": np.array([[172, 17, 410, 308], [0, 0, 99, 99]], np.float32),
    }
    same(
        remote.segment(**second, multimask=True, return_logits=True),
        scene.segment(**second, multimask=True, return_logits=True),
    )
    logits = first.low_res_logits
    same(remote.segment(mask=logits), scene.segment(mask=logits))
    drawn = np.zeros((2, *scene.size), bool)
    drawn[0, 20:300, 180:400] = True  # the second stays empty
    for given in (drawn, first, drawn[0]):
        same(remote.name(given, NAMES), scene.name(given, NAMES))
    same(remote.semantic(NAMES, background=0.4), scene.semantic(NAMES, background=0.4))
    found = remote.everything(NAMES, **GRID)
    assert isinstance(found, AutoMasks)
    same(found, scene.everything(NAMES, **GRID))
    np.testing.assert_array_equal(remote.segment([(290, 150)]).draw().shape, (400, 600, 3))


def test_names_may_have_templates_and_synonyms(
    client: samclip.Client, remote: samclip.RemoteScene, model: Model, scene: Scene
) -> None:
    settings: dict[str, Any] = {"synonyms": {"drink": ["cup of coffee"]}}
    names, templates = ["drink", "cat"], ["a {}.", "my {}."]
    theirs = client.vocabulary(names, templates, **settings)
    same(remote.classify(theirs), scene.classify(model.vocabulary(names, templates, **settings)))
    with pytest.raises(InputError, match="a list of names"):
        remote.classify("cat")


def test_images_of_all_kinds_are_sent(
    client: samclip.Client, photo: NDArray[np.uint8], photo_path: Path, model: Model
) -> None:
    kinds: list[tuple[Any, dict[str, Any]]] = [
        (photo_path.read_bytes(), {}),
        (str(photo_path), {}),
        (Image.fromarray(photo), {}),
        (photo[..., ::-1], {"color": "bgr"}),
    ]
    for image, options in kinds:
        with client.encode(image, **options) as encoded:
            np.testing.assert_array_equal(encoded.image, photo)
    wanted = model(photo, points=[(290, 150)])
    same(client(photo, points=[(290, 150)]), wanted)
    answered = list(client.answers([photo_path, "gone.jpg"], lambda each: each.size))
    assert answered[0][1].result() == (400, 600)
    assert isinstance(answered[1][1].exception(), ImageError)
    assert list(client.answer_all([photo_path], lambda each: each.size)) == [(400, 600)]


@pytest.mark.parametrize(
    ("ask", "kind", "words"),
    [
        (lambda remote: remote.segment([(9999, 1)]), PromptError, "outside the image"),
        (lambda remote: remote.segment(), PromptError, "no prompt"),
        (lambda remote: remote.segment("all"), InputError, "points"),
        (lambda remote: remote.classify([" "]), VocabularyError, "blank"),
        (lambda remote: remote.classify(["a"] * 5000), InputError, "2,000 names"),
        (lambda remote: remote.name(np.zeros((4, 4), bool), NAMES), PromptError, "HxW"),
        (
            lambda remote: remote.name(np.zeros((257, 400, 600), bool), ["a"]),
            InputError,
            "256 masks",
        ),
        (lambda remote: remote.everything(point=1), InputError, "unknown field"),
    ],
)
def test_errors_are_those_of_a_model(
    ask: Callable[[samclip.RemoteScene], Any],
    kind: type[Exception],
    words: str,
    remote: samclip.RemoteScene,
) -> None:
    with pytest.raises(kind, match=words):
        ask(remote)


def test_warnings_and_closing(
    client: samclip.Client, photo_path: Path, remote: samclip.RemoteScene
) -> None:
    with pytest.warns(samclip.InputWarning, match="shares of the image"):
        remote.segment([(0.5, 0.5)])
    other = client.encode(photo_path)
    other.close()
    other.close()
    with pytest.raises(ClosedError):
        other.classify(["a"])
    with pytest.raises(ImageError, match="not a file"):
        client.encode("gone.jpg")
    with pytest.raises(ImageError):
        client.encode(b"no image", color="rgb").close()
    with pytest.raises(InputError, match="no option 'multimsk'"):
        client(photo_path, points=[(1, 1)], multimsk=True)
    ended = samclip.Client(client.address)
    ended.close()
    with pytest.raises(ClosedError):
        ended.describe()


def answering(*responses: httpx.Response) -> samclip.Client:
    """A client of a server that gives these responses in turn."""
    given = iter(responses)
    transport = httpx.MockTransport(lambda _: next(given))
    return samclip.Client("http://server", http=httpx.Client(transport=transport), retries=1)


def test_busy_and_broken_servers_are_distinguished() -> None:
    busy = httpx.Response(429, headers={"Retry-After": "0"}, json={"detail": "full"})
    fine = httpx.Response(200, json={"models": []})
    assert answering(busy, fine).describe() == {"models": []}
    with pytest.raises(ServerBusyError, match="full") as raised:
        answering(busy, busy).describe()
    assert raised.value.retry_after == 1.0
    for response, words in (
        (httpx.Response(200, text="<html>"), "other than JSON"),
        (httpx.Response(200, json=[1]), "expected an object"),
        (httpx.Response(500, json={"detail": "see\x1b[2J the log"}), r"500: see \[2J the log"),
        (httpx.Response(401, text="who are you"), "401"),
        (httpx.Response(302, headers={"Location": "http://elsewhere"}), "302"),
    ):
        with pytest.raises(ServerError, match=words):
            answering(response).describe()
    with pytest.raises(ServerError, match="cannot be reached"):
        samclip.Client("http://127.0.0.1:1").describe()
    for address in ("127.0.0.1:8000", "ftp://a", "http://", "http://user:word@host", 5):
        with pytest.raises(InputError, match="as http"):
            check_address(address)  # type: ignore[arg-type]
    assert check_address("http://a:1/base/") == "http://a:1/base"


def test_answers_of_a_hostile_server_are_refused(photo: NDArray[np.uint8]) -> None:
    mask: dict[str, Any] = {
        "segmentation": {"size": [4, 4], "counts": "`0"},
        "predicted_iou": 0.5,
        "box": [0, 0, 1, 1],
        "prompt_index": 0,
    }
    answer: dict[str, Any] = {"size": [4, 4], "masks": [mask]}
    assert isinstance(read_masks(answer, photo), Masks)
    changes: list[dict[str, Any]] = [
        {"size": [10**6, 10**6]},
        {"size": "large"},
        {"masks": [{**mask, "segmentation": {"size": [4, 4], "counts": "ooooooo"}}]},
        {"masks": [{**mask, "segmentation": {"size": [5, 5], "counts": "`0"}}]},
        {"masks": [{**mask, "box": [1]}]},
        {"masks": [{}]},
        {"low_res_logits": {"dtype": "float32", "shape": [9, 9], "data": "AAAA"}},
        {"low_res_logits": {"dtype": "object", "shape": [1], "data": "AAAA"}},
        {"low_res_logits": {"dtype": "float32", "shape": [1], "data": "?"}},
    ]
    for change in changes:
        with pytest.raises(ServerError, match="cannot be read"):
            read_masks({**answer, **change}, photo)
    assert decode_rle({"size": [2, 2], "counts": "112"}, (2, 2)).tolist() == [[0, 0], [1, 0]]


def test_httpx_is_imported_by_the_first_client_alone() -> None:
    code = "import samclip, sys; samclip.Client; print('httpx' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout.lower()) is False
