"""Bounds over time: scenes that go, queues that fill, a server that ends."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from served import served

from samclip.errors import InputError, ServerError
from samclip.runtime.model import Model
from samclip.runtime.scene import Scene
from samclip.server.gate import JsonLines
from samclip.server.problems import ProblemError
from samclip.server.run import listen
from samclip.server.scenes import SceneStore, scene_bytes
from samclip.server.settings import Limits, ServerSettings, read_token

TOKEN = "a-token-of-24-characters"


def test_scenes_go_by_age_and_by_bytes_the_one_used_longest_ago_first(small_scene: Scene) -> None:
    size = scene_bytes(small_scene)
    assert size > 3 * 400 * 600 + 4 * 256 * 16 * 16  # pixels, and SAM's embedding at 256 px
    now = 0.0
    store = SceneStore(10, 2 * size, 60.0, lambda: now)
    first, second = store.add(small_scene).id, store.add(small_scene).id
    assert len(first) >= 22
    assert store.get(first).scene is small_scene  # the second one is older now
    third = store.add(small_scene).id
    assert (len(store), store.bytes, store.evicted) == (2, 2 * size, 1)
    with pytest.raises(ProblemError, match="gave way") as refused:
        store.get(second)
    assert refused.value.kind.status == 404
    now = 59.0
    store.get(third)
    now = 61.0
    store.expire()
    assert len(store) == 1
    store.remove(third)
    with pytest.raises(ProblemError):
        store.remove(third)
    with pytest.raises(ProblemError, match="Send a smaller image"):
        SceneStore(10, size - 1, 60.0).add(small_scene)
    few = SceneStore(1, 10 * size, 60.0)
    few.add(small_scene)
    few.add(small_scene)
    assert len(few) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"host": "0.0.0.0"}, "no token"),
        ({"host": "samclip.example"}, "no token"),
        ({"token": "short"}, "16 to 4,096"),
        ({"token": "with spaces in it 123"}, "visible ASCII"),
        ({"certificate": Path("cert.pem")}, "both files"),
        ({"certificate": Path("gone.pem"), "key": Path("gone.pem")}, "no file"),
        ({"origins": ("*",)}, "https://example.com"),
        ({"port": 70_000}, "0 to 65535"),
    ],
)
def test_settings_that_would_be_unsafe_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        ServerSettings(**options)
    assert ServerSettings(host="0.0.0.0", token=TOKEN).known_hosts is None
    assert "localhost" in (ServerSettings().known_hosts or ())
    with pytest.raises(InputError, match="queue_seconds"):
        Limits(queue_seconds=0)


def test_tokens_and_ports_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    assert read_token(path) == TOKEN
    with pytest.raises(InputError, match="cannot be read"):
        read_token(tmp_path / "gone")
    path.write_bytes(b"\xff" * 20)
    with pytest.raises(InputError, match="ASCII"):
        read_token(path)
    with (
        listen(ServerSettings(port=0)) as taken,
        pytest.raises(ServerError, match="Choose another host or port"),
    ):
        listen(ServerSettings(port=taken.getsockname()[1]))


def test_at_overload_requests_are_turned_away_at_once_and_the_rest_is_answered(
    small_model: Model, photo_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image is encoded, two wait, others get 429 with a time; clicks are still answered."""
    data, gate, encode = photo_path.read_bytes(), threading.Event(), small_model.encode

    def wait_and_encode(image: Any) -> Scene:
        assert gate.wait(60)
        return encode(image)

    with served(small_model, Limits(queue=2)) as server:
        address = server.address
        with httpx.Client(base_url=address, timeout=120, trust_env=False) as http:
            kept = http.post("/v1/scenes", files={"image": data}).json()["id"]
            monkeypatch.setattr(small_model, "encode", wait_and_encode)
            with ThreadPoolExecutor(8) as pool:
                futures = [
                    pool.submit(http.post, "/v1/scenes", files={"image": data}) for _ in range(8)
                ]
                deadline = time.monotonic() + 60
                while sum(future.done() for future in futures) < 5:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
                turned = [future.result() for future in futures if future.done()]
                click = http.post("/v1/segment", json={"scene": kept, "points": [[290, 150]]})
                gate.set()
            assert {answer.status_code for answer in turned} == {429}
            assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in turned)
            assert turned[0].json()["retry_after"] >= 1
            assert click.status_code == 200
            statuses = sorted(future.result().status_code for future in futures)
            assert statuses == [201] * 3 + [429] * 5
            monkeypatch.setattr(small_model, "encode", encode)
            assert http.post("/v1/scenes", files={"image": data}).status_code == 201


def test_without_memory_for_a_thread_the_client_gets_503_and_the_slot_is_free_again(
    small_model: Model, photo_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short() -> None:
        raise MemoryError

    with served(small_model) as server:
        url, files = f"{server.address}/v1/scenes", {"image": photo_path.read_bytes()}
        with monkeypatch.context() as patch:
            patch.setattr("samclip.server.lanes.require_room_for_thread", short)
            for _ in range(3):
                answer = httpx.post(url, files=files, timeout=60, trust_env=False)
                assert (answer.status_code, answer.json()["error"]) == (503, "DeviceMemoryError")
        assert httpx.post(url, files=files, timeout=60, trust_env=False).status_code == 201


def test_requests_of_clients_that_left_do_not_wait_on(
    small_model: Model, photo_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, encode, calls = threading.Event(), small_model.encode, []

    def wait_and_encode(image: Any) -> Scene:
        calls.append(1)
        assert gate.wait(60)
        return encode(image)

    monkeypatch.setattr(small_model, "encode", wait_and_encode)
    with served(small_model) as server:
        files = {"image": photo_path.read_bytes()}

        def give_up() -> None:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{server.address}/v1/scenes", files=files, timeout=1.0, trust_env=False)

        threads = [threading.Thread(target=give_up) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        deadline = time.monotonic() + 30
        while server.service.encoder.waiting and time.monotonic() < deadline:
            time.sleep(0.02)
        assert (server.service.encoder.waiting, len(calls)) == (0, 1)
        gate.set()
    assert len(calls) == 1


def test_the_log_is_one_json_object_a_line(caplog: pytest.LogCaptureFixture) -> None:
    record = logging.LogRecord("samclip.server", logging.INFO, "", 1, "request", (), None)
    record.__dict__["fields"] = {"path": '/"\n{"level": "forged"}', "status": 404}
    line = JsonLines().format(record)
    assert "\n" not in line
    assert json.loads(line)["path"].startswith('/"\n')


def test_the_command_serves_and_drains(
    small_model: Model, photo_path: Path, tmp_path: Path
) -> None:
    """SIGTERM during a request: it is answered, new ones are not, and the exit code is 0."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    command = [sys.executable, "-m", "samclip.cli.main", "serve", str(small_model.bundle.path)]
    command += ["--port", "0", "--threads", "1", "--token-file", str(token)]
    log = tmp_path / "log"
    environment = {**os.environ, "SAMCLIP_CACHE_DIR": str(tmp_path / "cache")}
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stderr=sink, env=environment)
        try:
            address = wait_for(log, process)
            headers = {"Authorization": f"Bearer {TOKEN}"}
            with httpx.Client(timeout=120, trust_env=False, headers=headers) as http:
                data = photo_path.read_bytes()
                scene = http.post(f"{address}/v1/scenes", files={"image": data}).json()["id"]
                question = {"scene": scene, "points_per_side": 4}
                with ThreadPoolExecutor(1) as pool:
                    slow = pool.submit(http.post, f"{address}/v1/everything", json=question)
                    time.sleep(0.3)
                    process.send_signal(signal.SIGTERM)
                    assert slow.result().status_code == 200
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert [line["event"] for line in lines if line["event"] != "request"] == ["start", "drain"]
    assert TOKEN not in log.read_text()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/healthz", trust_env=False)


def wait_for(log: Path, process: subprocess.Popen[bytes]) -> str:
    """Wait until a server has said where it listens."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if found := re.search(r"^(http://\S+) serves", log.read_text(), re.MULTILINE):
            return found[1]
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def test_the_description_of_the_paths_is_openapi(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert "$ref" not in json.dumps(document)
    for task in ("classify", "segment", "semantic", "everything"):
        operation = document["paths"][f"/v1/{task}"]["post"]
        form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert form["properties"]["image"]["format"] == "binary"
        assert {"200", "400", "413", "422", "429"} <= set(operation["responses"])
    models = http.get("/v1/models").json()
    assert models["models"][0]["name"] == "lite2"
    assert models["limits"]["queue"] == 16
    assert "http" not in re.sub(r"http-equiv", "", http.get("/").text)  # no foreign asset
    figures = http.get("/metrics").text
    assert 'samclip_requests_total{path="/v1/models",status="200"}' in figures
    assert "samclip_encoder_passes" in figures
