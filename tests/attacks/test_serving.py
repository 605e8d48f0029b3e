"""Load on a server in a separate process: latency by clients, faults among them, memory that stays.

SAMCLIP_LOAD_REQUESTS sets the number of requests of the long run, 5,000 by default. All traffic
stays on loopback.
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from figures import Figures

import samclip

pytestmark = pytest.mark.slow
REQUESTS = int(os.environ.get("SAMCLIP_LOAD_REQUESTS", "5000"))
GROWTH = 50 * 2**20  # bytes that the process may grow by in the long run
CLIENTS = (1, 4, 16, 64)
NAMES = ["cup of coffee", "wooden table", "cat"]
POINTS = [(20 + 55 * i, 15 + 38 * i) for i in range(10)]


@pytest.fixture(scope="module")
def process(
    lite2_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, int]]:
    """A server's address and its process number; it must still run at the end, and end well."""
    folder = tmp_path_factory.mktemp("serve")
    command = [sys.executable, "-m", "samclip.cli.main", "serve", str(lite2_bundle), "--port", "0"]
    command += ["--threads", "1", "--backend", "onnxruntime"]
    log = folder / "log"
    environment = {**os.environ, "SAMCLIP_CACHE_DIR": str(folder / "cache")}
    with log.open("wb") as sink:
        started = subprocess.Popen(command, stderr=sink, env=environment)
    try:
        deadline = time.monotonic() + 120
        while not (found := re.search(r"^(http://\S+) serves", log.read_text(), re.MULTILINE)):
            assert started.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield found[1], started.pid
        assert started.poll() is None, log.read_text()[-2000:]
        started.terminate()
        assert started.wait(60) == 0
    finally:
        started.kill()
        started.wait()
    assert "traceback" not in log.read_text()


@pytest.fixture(scope="module")
def truth(lite2_bundle: Path, photo_path: Path) -> list[list[dict[str, Any]]]:
    """What the API answers to each point."""
    with (
        samclip.load(lite2_bundle, "onnxruntime", threads=1) as model,
        model.encode(photo_path) as scene,
    ):
        answers = [scene.segment([point], names=NAMES).to_dict()["masks"] for point in POINTS]
    plain: list[list[dict[str, Any]]] = json.loads(json.dumps(answers))
    return plain


def memory_of(process: int) -> int:
    """The resident bytes of a process."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024


def scene_of(http: httpx.Client, photo: bytes) -> str:
    answer = http.post("/v1/scenes", files={"image": photo})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def is_right(response: httpx.Response, wanted: list[dict[str, Any]]) -> bool:
    """Whether an answer is the API's, bit by bit."""
    given = response.json()["masks"]
    return [{key: mask[key] for key in wanted[0]} for mask in given] == wanted


def test_latency_and_answers_by_number_of_clients(
    process: tuple[str, int],
    truth: list[list[dict[str, Any]]],
    photo_path: Path,
    figures: Figures,
) -> None:
    address, _ = process
    everyone: Counter[int] = Counter()
    with httpx.Client(base_url=address, timeout=300, trust_env=False) as http:
        scene = scene_of(http, photo_path.read_bytes())

        def click(number: int) -> tuple[int, float]:
            place = number % len(POINTS)
            question = {"scene": scene, "points": [POINTS[place]], "names": NAMES}
            begun = time.perf_counter()
            response = http.post("/v1/segment", json=question)
            if response.status_code == 200:
                assert is_right(response, truth[place])
            return response.status_code, time.perf_counter() - begun

        for clients in CLIENTS:
            with ThreadPoolExecutor(clients) as pool:
                results = list(pool.map(click, range(max(20, 4 * clients))))
            statuses = Counter(status for status, _ in results)
            everyone += statuses
            times = sorted(took for status, took in results if status == 200)
            assert set(statuses) <= {200, 429}
            assert clients > 16 or statuses == {200: len(results)}  # 2 are worked on, 16 wait
            print(
                f"{clients} clients: median {statistics.median(times) * 1e3:.0f} ms, worst "
                f"{times[-1] * 1e3:.0f} ms, {statuses[429]} of {len(results)} turned away"
            )
    found = f"{everyone[200]} answers of the API, bit by bit; {everyone[429]} turned away with 429"
    figures.add("server: 1, 4, 16 and 64 clients", count=everyone.total(), found=found)


def test_twenty_uploads_at_once(
    process: tuple[str, int],
    truth: list[list[dict[str, Any]]],
    photo_path: Path,
    figures: Figures,
) -> None:
    address, _ = process
    files = {
        "image": photo_path.read_bytes(),
        "question": (None, json.dumps({"points": [POINTS[0]], "names": NAMES})),
    }
    with (
        httpx.Client(base_url=address, timeout=300, trust_env=False) as http,
        ThreadPoolExecutor(20) as pool,
    ):
        futures = [pool.submit(http.post, "/v1/segment", files=files) for _ in range(20)]
        responses = [future.result() for future in futures]
    statuses = Counter(response.status_code for response in responses)
    assert set(statuses) <= {200, 429}, statuses
    assert statuses[200] >= 17  # one is encoded, 16 wait; more where one ends before the last comes
    assert all(is_right(each, truth[0]) for each in responses if each.status_code == 200)
    found = f"{statuses[200]} answers of the API, bit by bit; {statuses[429]} turned away with 429"
    figures.add("server: uploads at once", count=len(responses), found=found)


def test_memory_stays_over_many_requests_with_faults_among_them(
    process: tuple[str, int],
    truth: list[list[dict[str, Any]]],
    photo_path: Path,
    figures: Figures,
) -> None:
    """Right and wrong questions, uploads, cut bodies, and clients that leave."""
    address, number = process
    host, _, port = address.partition("//")[2].rpartition(":")
    photo, random_ = photo_path.read_bytes(), random.Random(7)
    seen: Counter[str] = Counter()
    with httpx.Client(base_url=address, timeout=300, trust_env=False) as http:
        scenes = [scene_of(http, photo) for _ in range(2)]

        def click() -> str:
            place = random_.randrange(len(POINTS))
            question = {"scene": random_.choice(scenes), "points": [POINTS[place]], "names": NAMES}
            response = http.post("/v1/segment", json=question)
            if response.status_code == 200:
                return "right" if is_right(response, truth[place]) else "WRONG"
            return str(response.status_code)

        def ask_wrongly() -> str:
            content = random_.choice(
                [b"{", b"[" * 9999, b'{"names": ["%s"]}' % (b"x" * 10**6), b'{"scene": "../a"}']
            )
            headers = {"Content-Type": "application/json"}
            return str(http.post("/v1/segment", content=content, headers=headers).status_code)

        def upload() -> str:
            kept = http.post("/v1/scenes", files={"image": photo})
            if kept.status_code == 201:
                http.delete(kept.headers["location"])
            return str(kept.status_code)

        def leave() -> str:
            with socket.create_connection((host, int(port)), timeout=30) as connection:
                head = "POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n"
                connection.sendall(f"{head}Content-Type: application/json\r\n\r\n{{".encode())
            return "left"

        acts = [click] * 90 + [ask_wrongly] * 6 + [upload] * 1 + [leave] * 3
        with ThreadPoolExecutor(8) as pool:
            warm = [pool.submit(random_.choice(acts)) for _ in range(REQUESTS // 10)]
            seen.update(future.result() for future in warm)
            before = memory_of(number)
            done = [pool.submit(random_.choice(acts)) for _ in range(REQUESTS)]
            seen.update(future.result() for future in done)
        growth = memory_of(number) - before
    print(f"{REQUESTS} requests: {dict(seen)}; grown by {growth / 2**20:.1f} MiB")
    assert set(seen) <= {"right", "400", "404", "413", "422", "201", "429", "left"}
    assert seen["right"] > REQUESTS // 2
    assert growth <= GROWTH
    refused = sum(count for status, count in seen.items() if status.startswith("4"))
    found = (
        f"{seen['right']:,} answers of the API, bit by bit, {refused:,} refusals, {seen['left']:,} "
        f"clients that left; {max(0, growth) / 2**20:.0f} MiB more memory"
    )
    figures.add("server: questions, faults among them", count=seen.total(), found=found)
