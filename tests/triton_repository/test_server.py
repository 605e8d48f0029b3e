"""A real Triton server with a repository: what it loads, what it answers, what it refuses."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tree import ROOT, load_script
from triton_client import import_client
from triton_server import triton_server

import samclip
from samclip.triton.graph_models import GraphSettings
from samclip.triton.repository import RepositorySettings, write_repository

pytestmark = pytest.mark.slow

NAMES = ["a cup of coffee", "a wooden table", "a cat"]
BOXES = np.array([[172, 17, 410, 308], [0, 0, 90, 90]], np.float32)


def test_a_real_server_answers_as_the_api_does(
    photo_path: Path,
    test_cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Bit by bit: its models run the same engines, on another numpy and in other processes."""
    triton = import_client("tritonclient.grpc")
    example = load_script(ROOT / "examples" / "triton_client.py")
    repository = tmp_path / "repository"
    graphs = GraphSettings(backend="python", threads=1)
    settings = RepositorySettings(graphs, fronts=2, scenes=2, idle_seconds=600.0)
    record = write_repository("samclip-tiny", repository, settings)
    photo = photo_path.read_bytes()
    texts = example.texts(NAMES)
    with (
        samclip.load("samclip-tiny", "onnxruntime", threads=1) as model,
        model.encode(photo_path) as expected,
        triton_server(repository, test_cache, tmp_path) as address,
    ):
        client = triton.InferenceServerClient(address)
        deadline = time.monotonic() + 60
        while not client.is_server_ready() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert {name for name in record.models if client.is_model_ready(name)} == {*record.models}
        masks = expected.segment(boxes=BOXES, names=NAMES)
        labels = expected.semantic(NAMES).labels
        with example.Scene(client, "samclip-tiny", photo) as scene:
            found = scene.ask(
                ["masks", "scores", "class_ids", "probabilities", "low_res_logits", "answer"],
                boxes=BOXES,
                names=texts,
            )
            np.testing.assert_array_equal(found["masks"].astype(bool), masks.masks)
            np.testing.assert_array_equal(found["scores"], masks.scores)
            np.testing.assert_array_equal(found["low_res_logits"], masks.low_res_logits)
            np.testing.assert_array_equal(found["class_ids"], masks.class_ids)
            np.testing.assert_array_equal(found["probabilities"], masks.name_probabilities)
            assert json.loads(found["answer"][0])["vocabulary"] == NAMES
            options = example.texts([json.dumps({"task": "semantic"})])
            (pixels,) = scene.ask(["label_map"], names=texts, options=options).values()
            np.testing.assert_array_equal(pixels, labels)
            with pytest.raises(triton.InferenceServerException, match="no task 'sing'"):
                scene.ask(["answer"], options=example.texts(['{"task": "sing"}']))
            # a wrong question does not end the sequence
            (again,) = scene.ask(["scores"], boxes=BOXES).values()
            np.testing.assert_array_equal(again, masks.scores)
        check_many(example, client, photo, masks.scores)
        check_ends(triton, example, client, photo)
        example.main(
            [
                *(str(photo_path), "--box", "172,17,410,308"),
                *("--names", ",".join(NAMES), "--url", address),
            ]
        )
    printed = capsys.readouterr().out
    assert "image: a cup of coffee" in printed
    assert "172,17,410,308: a cup of coffee, IoU 0." in printed


def check_many(example: Any, client: Any, photo: bytes, scores: NDArray[np.float32]) -> None:
    """Sequences at the same time, as many as the processes keep, each get their own scene."""

    def ask(_: int) -> bool:
        with example.Scene(client, "samclip-tiny", photo) as scene:
            rows = [scene.ask(["scores"], boxes=BOXES[[row]])["scores"][0] for row in (0, 1, 0)]
        return rows == [scores[0], scores[1], scores[0]]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(4)))


def check_ends(triton: Any, example: Any, client: Any, photo: bytes) -> None:
    """A sequence that was closed is over, and one whose image cannot be read has no scene."""
    with example.Scene(client, "samclip-tiny", photo) as scene:
        pass
    with pytest.raises(triton.InferenceServerException, match="START flag"):
        scene.ask(["scores"], boxes=BOXES)
    with pytest.raises(triton.InferenceServerException, match="ImageError"):
        example.Scene(client, "samclip-tiny", os.urandom(1000))
