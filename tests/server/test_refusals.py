"""Requests that are refused: the right status, problem details, and nothing opened or lost."""

from __future__ import annotations

import base64
import gzip
import json
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from served import connect, send_raw, served

from samclip.runtime.model import Model
from samclip.server.problems import KINDS, MEDIA_TYPE
from samclip.server.run import Server
from samclip.server.settings import Limits

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "multipart/form-data; boundary=b"}


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size, its pixels zeros that compress a thousandfold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(2**24), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def image(data: bytes) -> dict[str, Any]:
    return {"files": {"image": data, "points": (None, "[[1, 1]]")}}


def body(content: bytes, headers: dict[str, str] = JSON) -> dict[str, Any]:
    return {"content": content, "headers": headers}


def asks(**question: Any) -> dict[str, Any]:
    return {"json": {"scene": "SCENE", **question}}


def names_masks(*masks: Any) -> dict[str, Any]:
    return asks(names=["a", "b"], masks=list(masks))


DEEP = b'{"points":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
NAMES_10_MB = json.dumps({"scene": "SCENE", "names": ["x" * 99] * 100_000}).encode()
PART = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n'
CASES: dict[str, tuple[str, int, dict[str, Any], str]] = {
    # name: task, status, request, words of the detail
    "no body": ("segment", 400, body(b""), "not JSON"),
    "half a JSON": ("segment", 400, body(b'{"points": [[1'), "not JSON"),
    "not JSON": ("segment", 400, body(b"points=1"), "not JSON"),
    "not UTF-8": ("segment", 400, body(b'{"scene": "\xff"}'), "not JSON"),
    "NaN": ("segment", 400, body(b'{"points": [[NaN, 1]]}'), "not JSON"),
    "too deep": ("segment", 400, body(DEEP), "not JSON"),
    "a list": ("segment", 422, body(b"[]"), "Expected `object`"),
    "an unknown field": ("segment", 422, asks(point=[1, 1]), "unknown field `point`"),
    "a wrong type": ("segment", 422, asks(points="all"), "$.points"),
    "infinity": ("segment", 422, body(b'{"points": [[1e999, 1]]}'), "out of range"),
    "a form": ("segment", 415, body(b"a=1", {"Content-Type": "text/plain"}), "text/plain"),
    "no type": ("segment", 415, {"content": b"{}", "headers": {}}, "no type"),
    "no boundary": (
        "segment",
        400,
        body(PART, {"Content-Type": "multipart/form-data"}),
        "boundary",
    ),
    "no end": ("segment", 400, body(PART, FORM), "last boundary"),
    "no part": ("segment", 400, body(b"garbage", FORM), "malformed"),
    "no name": ("segment", 400, body(b"--b\r\n\r\nx\r\n--b--\r\n", FORM), "needs a name"),
    "a part twice": ("segment", 400, body(PART + PART + b"--b--\r\n", FORM), "comes twice"),
    "a field as a part and in the question": (
        "segment",
        400,
        {"files": {"question": (None, b'{"points": [[1, 1]]}'), "points": (None, b"[[2, 2]]")}},
        "'points' twice",
    ),
    "an image as a part and in the question": (
        "segment",
        400,
        {"files": {"question": (None, b'{"image": "AAAA"}'), "image": b"x"}},
        "'image' twice",
    ),
    "two fields in a part": (
        "segment",
        400,
        {"files": {"points": (None, b'[[1, 1]], "boxes": [0, 0, 9, 9]')}},
        "not JSON",
    ),
    "a compressed body": (
        "segment",
        415,
        body(gzip.compress(b'{"points": [[1, 1]]}'), {**JSON, "Content-Encoding": "gzip"}),
        "coding 'gzip'",
    ),
    "half of a surrogate pair": ("classify", 400, body(b'{"names": ["\\ud800"]}'), "not JSON"),
    "a long header": (
        "segment",
        400,
        body(b"--b\r\nX-Y: " + b"y" * 5000 + b"\r\n\r\nx\r\n--b--\r\n", FORM),
        "header size",
    ),
    "an unknown part": ("segment", 422, {"files": {"file": b"x"}}, "no field 'file'"),
    "neither image nor scene": ("segment", 422, {"json": {"points": [[1, 1]]}}, "one of the two"),
    "an unknown scene": ("segment", 404, {"json": {"scene": "nope", "points": [[1, 1]]}}, "nope"),
    "a path as scene": ("segment", 404, {"json": {"scene": "../../etc/passwd"}}, "no scene"),
    "a long scene": ("segment", 422, {"json": {"scene": "x" * 65}}, "length"),
    "text as image": ("segment", 415, image(b"/etc/passwd"), "not of the formats"),
    "an URL as image": ("segment", 422, {"json": {"image": "http://127.0.0.1/a.png"}}, "base64"),
    "a path in base64": (
        "segment",
        415,
        {"json": {"image": base64.b64encode(b"/etc/passwd").decode()}},
        "not of the formats",
    ),
    "an empty image": ("segment", 415, image(b""), "not of the formats"),
    "a cut image": ("segment", 422, image(b"\xff\xd8\xff\xe0\x00\x10JFIF"), "the image"),
    "a bomb": ("segment", 413, image(png_of(50_000, 50_000)), "50000 x 50000 pixels"),
    "no prompt": ("segment", 422, asks(), "no prompt"),
    "a point outside": ("segment", 422, asks(points=[[9999, 1]]), "outside the image"),
    "a huge number": ("segment", 422, asks(points=[[10**40, 1]]), "points must be"),
    "half a point": ("segment", 422, asks(points=[[1]]), "points must be"),
    "a box inside out": ("segment", 422, asks(boxes=[9, 9, 1, 1]), "inverted or empty"),
    "a label of 2": ("segment", 422, asks(points=[[1, 1]], labels=[2]), "labels must be"),
    "too many prompts": ("segment", 422, asks(boxes=[[0, 0, 9, 9]] * 257), "256 prompts"),
    "too many points": ("segment", 422, asks(points=[[1, 1]] * 1025), "1,024 points"),
    "a mask of lies": (
        "segment",
        422,
        asks(mask={"shape": [2**40, 2**20], "data": "AAAA"}),
        "bytes of float32",
    ),
    "logits without room": (
        "segment",
        422,
        asks(boxes=[[0, 0, 99, 99]] * 80, multimask=True, include=["logits"]),
        "the answer would have",
    ),
    "a mask of another size": (
        "name",
        422,
        names_masks({"size": [4, 4], "counts": "@"}),
        "(400, 600)",
    ),
    "a mask that is too long": (
        "name",
        422,
        names_masks({"size": [400, 600], "counts": "PPPP7"}),
        "do not add up",
    ),
    "odd run lengths": (
        "name",
        422,
        names_masks({"size": [400, 600], "counts": "\u20ac"}),
        "not allowed",
    ),
    "too many masks": (
        "name",
        422,
        names_masks(*[{"size": [1, 1], "counts": "1"}] * 257),
        "256 masks",
    ),
    "masks without names": ("name", 422, asks(masks=[]), "no names"),
    "no names": ("classify", 422, asks(names=[]), "names"),
    "null names": ("classify", 422, asks(), "no names"),
    "blank names": ("classify", 422, asks(names=[" "]), "blank"),
    "too many names": ("classify", 422, asks(names=["a"] * 2001), "2,000 names"),
    "a long name": ("classify", 422, asks(names=["a" * 201]), "200 letters"),
    "10 MB of names": ("classify", 413, body(NAMES_10_MB), "without its image"),
    "templates without {}": ("classify", 422, asks(names=["a"], templates=["x"]), "{}"),
    "a fine grid": ("everything", 422, asks(points_per_side=65), "64 points_per_side"),
    "no grid": ("everything", 422, asks(points_per_side=-1), "points_per_side"),
    "many crops": ("everything", 422, asks(crop_n_layers=4), "crop_n_layers"),
    "a background of 2": ("semantic", 422, asks(names=["a"], background=2), "background"),
}


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """The paths that this process opens within the block, and the addresses that it connects to."""
    found: list[str] = []
    active = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if active and event in {"open", "os.listdir", "os.scandir", "subprocess.Popen"}:
            found.append(str(arguments[0]))

    sys.addaudithook(hook)  # it stays, and does nothing afterwards
    try:
        yield found
    finally:
        active = False


@pytest.mark.parametrize("case", CASES)
def test_a_refusal_is_a_problem_that_says_why(case: str, http: httpx.Client, scene_id: str) -> None:
    task, status, request, words = CASES[case]
    text = json.dumps(request.get("json")).replace('"SCENE"', json.dumps(scene_id))
    if "json" in request:
        request = {"json": json.loads(text)}
    if "content" in request:
        request = {**request, "content": request["content"].replace(b"SCENE", scene_id.encode())}
    with opened_files() as opened:
        response = http.post(f"/v1/{task}", **request)
    problem = response.json()
    assert (response.status_code, problem["status"]) == (status, status), problem
    assert response.headers["content-type"] == MEDIA_TYPE
    assert words in problem["detail"], problem
    assert len(problem["detail"]) < 600
    kind = problem["type"].removeprefix("/docs#problem-")
    assert (problem["title"], status) == (KINDS[kind].title, KINDS[kind].status)
    assert problem["request_id"] == response.headers["x-request-id"]
    assert not [path for path in opened if "passwd" in path or "nope" in path]
    assert http.get("/readyz").status_code == 200


def test_paths_and_methods_that_are_not_there(http: httpx.Client, scene_id: str) -> None:
    for path in ("/nope", "/v1", "/static/../../../pyproject.toml", "/static/%2e%2e/app.py"):
        assert http.get(path).json()["type"].endswith("not-found"), path
    wrong = http.get("/v1/segment")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    for path in ("/healthz", "/v1/models", "/metrics", "/", "/static/page.js"):
        assert http.head(path).status_code == 200, path
        assert http.head(path).headers["content-type"] == http.get(path).headers["content-type"]
    assert http.get("/healthz/").json()["type"].endswith("not-found")
    for method, path in (("GET", "x" * 2000), ("DELETE", "..%2f..%2fetc"), ("GET", "nope")):
        assert http.request(method, f"/v1/scenes/{path}").status_code == 404
    assert http.delete(f"/v1/scenes/{scene_id}x").status_code == 404


def test_bodies_are_bounded_with_and_without_a_length(small_model: Model) -> None:
    with served(small_model, Limits(body_bytes=2000, body_seconds=1.0)) as server:
        head = "POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        declared = send_raw(server.address, f"{head}Content-Length: 2001\r\n\r\n".encode())
        assert declared.startswith(b"HTTP/1.1 413"), declared
        chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
        chunked = f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk * 2
        assert send_raw(server.address, chunked).startswith(b"HTTP/1.1 413")
        begun = time.monotonic()
        slow = send_raw(server.address, f"{head}Content-Length: 9\r\n\r\n{{".encode())
        assert slow.startswith(b"HTTP/1.1 408"), slow
        assert time.monotonic() - begun >= 1
        assert httpx.get(f"{server.address}/readyz", trust_env=False).status_code == 200


def test_clients_that_send_no_header_or_read_no_answer_are_cut_off(small_model: Model) -> None:
    with served(small_model, Limits(header_seconds=0.5, body_seconds=0.5)) as server:
        for start in (b"", b"GET / HTTP/1.1\r\nHost: loc"):
            assert send_raw(server.address, start) == b""
        ask = b"GET /static/page.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with (
            connect(server.address) as connection,  # asks on and on, and reads nothing
            pytest.raises(OSError, match=r"reset|Broken pipe"),
        ):
            for _ in range(100_000):
                connection.sendall(ask)


HOST = b"Host: localhost\r\n"
POST = b"POST /v1/segment HTTP/1.1\r\nContent-Type: application/json\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
MALFORMED: dict[str, tuple[bytes, int]] = {
    "TLS": (b"\x16\x03\x01 nonsense\r\n\r\n", 400),
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /healthz HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
    "a space before the colon": (b"GET / HTTP/1.1\r\nX : a\r\n" + HOST + b"\r\n", 400),
    "a large header": (b"GET / HTTP/1.1\r\nX: " + b"a" * 66_000, 431),
    "a coding of transfer": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "two lengths": (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
    "a length and chunks": (CHUNKED + b"Content-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 400),
    "a chunk without a size": (CHUNKED + b"\r\n2\r\n{}\r\nsize\r\n", 400),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_not_http_gets_a_problem_and_the_end_of_the_connection(
    case: str, server: Server
) -> None:
    data, status = MALFORMED[case]
    head, _, content = send_raw(server.address, data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    problem = json.loads(content)
    assert problem["status"] == status
    lines = head.decode().lower().split("\r\n")
    assert {f"content-type: {MEDIA_TYPE}", "connection: close"} <= set(lines)
    assert f"x-request-id: {problem['request_id']}" in lines


def test_what_is_not_http_after_an_early_answer_is_dropped(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The path is refused before the body has come, and then the body is malformed."""
    with connect(server.address) as connection:
        connection.sendall(CHUNKED.replace(b"segment", b"nope") + b"\r\n")
        received = connection.recv(65_536)
        connection.sendall(b"size\r\n")
        while chunk := connection.recv(65_536):
            received += chunk
    assert received.count(b"HTTP/1.1 ") == 1
    assert received.startswith(b"HTTP/1.1 404")
    assert httpx.get(f"{server.address}/readyz", trust_env=False).status_code == 200
    assert "Traceback" not in caplog.text


def test_requests_one_after_the_other_on_a_connection_are_answered_in_order(
    server: Server, scene_id: str
) -> None:
    question = json.dumps({"scene": scene_id, "points": [[290, 150]]}).encode()
    ask = POST + b"Content-Length: %d\r\n\r\n%b" % (len(question), question)
    last = b"GET /healthz HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n"
    head = b"HEAD /v1/models HTTP/1.1\r\n" + HOST + b"\r\n"
    wrong = POST + b"Content-Length: 1\r\n\r\n{"
    answers = send_raw(server.address, ask + head + wrong + ask + last).split(b"HTTP/1.1 ")[1:]
    assert [int(answer[:3]) for answer in answers] == [200, 200, 400, 200, 200]
    first, again = (json.loads(answers[n].partition(b"\r\n\r\n")[2])["masks"] for n in (0, 3))
    assert first == again
    assert answers[1].endswith(b"\r\n\r\n")  # no body, and the length that GET would have
    assert b"content-length: 0" not in answers[1].lower()


def test_connections_are_bounded(small_model: Model) -> None:
    with served(small_model, Limits(connections=2)) as server:
        with connect(server.address), connect(server.address):
            refused = httpx.get(f"{server.address}/healthz", trust_env=False)
        assert refused.status_code == 503
        assert refused.headers["content-type"] == MEDIA_TYPE
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["connection"] == "close"
        deadline = time.monotonic() + 30  # the closed ones are noticed
        while httpx.get(f"{server.address}/healthz", trust_env=False).status_code != 200:
            assert time.monotonic() < deadline


@pytest.fixture(scope="module")
def locked(small_model: Model) -> Iterator[Server]:
    """A server with a token, and one foreign origin."""
    options = {"token": "right-token-0123456789", "origins": ("https://example.com",)}
    with served(small_model, **options) as running:
        yield running


def test_a_token_opens_all_but_the_page_and_the_health_checks(locked: Server) -> None:
    def status(path: str, **headers: str) -> int:
        options: dict[str, Any] = {"headers": headers, "trust_env": False}
        return httpx.get(locked.address + path, **options).status_code

    for path in ("/", "/docs", "/openapi.json", "/healthz", "/readyz", "/static/page.js"):
        assert status(path) == 200, path
    for path in ("/v1/models", "/metrics", "/v1/scenes/x", "/nope"):
        assert status(path) == 401, path
        assert status(path, Authorization="Bearer wrong-token-0123456789") == 401
        assert status(path, Authorization="Basic right-token-0123456789") == 401
    assert status("/v1/models", Authorization="Bearer right-token-0123456789") == 200
    refused = httpx.get(f"{locked.address}/v1/models", trust_env=False)
    assert refused.headers["www-authenticate"].startswith("Bearer")


def test_pages_of_other_sites_may_not_ask(
    http: httpx.Client, server: Server, locked: Server, scene_id: str
) -> None:
    def status(**headers: str) -> int:
        question = {"scene": scene_id, "points": [[1, 1]]}
        return http.post("/v1/segment", json=question, headers=headers).status_code

    assert status(Origin=server.address) == 200
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},  # a name that was made to lead here
    ):
        assert status(**headers) == 403, headers
    assert http.get("/v1/models", headers={"Host": "evil.example:8000"}).status_code == 403
    assert (
        "access-control-allow-origin" not in http.get("/healthz", headers={"Origin": "x"}).headers
    )
    preflight = httpx.options(
        f"{locked.address}/v1/segment",
        headers={
            "Origin": "https://example.com",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        },
        trust_env=False,
    )
    assert preflight.headers["access-control-allow-origin"] == "https://example.com"
    assert preflight.status_code == 200


def test_every_answer_has_the_headers_of_security(http: httpx.Client) -> None:
    for response in (http.get("/"), http.get("/v1/models"), http.get("/nope")):
        headers = response.headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
    own = http.get("/healthz", headers={"X-Request-Id": "mine-1"})
    assert own.headers["x-request-id"] == "mine-1"
    odd = http.get("/healthz", headers={"X-Request-Id": "a b<script>"})
    assert odd.headers["x-request-id"] not in {"", "a b<script>"}


def test_failures_of_the_server_keep_their_reasons_to_the_log(
    http: httpx.Client,
    small_model: Model,
    photo_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("secret-path-of-this-machine")

    encode: Callable[..., Any] = small_model.encode
    monkeypatch.setattr(small_model, "encode", fail)
    response = http.post("/v1/scenes", files={"image": photo_path.read_bytes()})
    problem = response.json()
    assert (response.status_code, problem["status"]) == (500, 500)
    assert "secret" not in response.text
    assert problem["request_id"] in problem["detail"]
    deadline = time.monotonic() + 30  # the log follows the answer
    while "secret-path-of-this-machine" not in caplog.text:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    monkeypatch.setattr(small_model, "encode", encode)
    assert http.post("/v1/scenes", files={"image": photo_path.read_bytes()}).status_code == 201
