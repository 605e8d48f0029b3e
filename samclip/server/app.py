"""The app: the paths of the server, as FastAPI has them, with their OpenAPI description."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from importlib import resources
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from samclip.errors import SamclipError
from samclip.json_text import to_json
from samclip.runtime.assets import packaged_photos
from samclip.server import metrics as figures
from samclip.server.answers import Content, choose_picture, list_warnings
from samclip.server.bodies import BodyReader, check_coding, parse_body
from samclip.server.gate import STATIC, Gate, GoneError
from samclip.server.metrics import Metrics
from samclip.server.problems import KINDS, MEDIA_TYPE, ProblemError, describe
from samclip.server.questions import (
    AnyQuestion,
    Classify,
    Everything,
    Name,
    NewScene,
    Segment,
    Semantic,
    schema_of,
)
from samclip.server.service import Service, to_json_content
from samclip.server.settings import ServerSettings
from samclip.version import __version__

EXPIRY_SECONDS = 5.0  # between looks for scenes that nobody used for too long
EXAMPLE = "coffee.jpg"
SCENE_PATH = "/v1/scenes/"
PAGE_FILES = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "masks.js": "text/javascript; charset=utf-8",
    "docs.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
TASKS: dict[str, type[AnyQuestion]] = {
    "classify": Classify,
    "segment": Segment,
    "semantic": Semantic,
    "everything": Everything,
    "name": Name,
}
ABOUT = """One encoder pass over an image, then any number of questions about it. Send an image with
a question, or keep its scene first and ask about that. Coordinates are (x, y) in pixels of the
image."""

Result = TypeVar("Result")


def make_app(
    service: Service,
    settings: ServerSettings,
    metrics: Metrics,
    count_connections: Callable[[], int],
) -> Gate:
    """Return the ASGI app that answers for `service`; `count_connections`: those that are open."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        expiry = asyncio.create_task(_expire(service))
        try:
            yield
        finally:
            expiry.cancel()
            service.close()

    app = FastAPI(
        title="samclip",
        version=__version__,
        description=ABOUT,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    paths = _Paths(service, BodyReader(settings.limits), metrics)
    for task, kind in TASKS.items():
        app.add_api_route(
            f"/v1/{task}",
            _endpoint(paths, kind),
            methods=["POST"],
            summary=(kind.__doc__ or "").strip(),
            openapi_extra=_described(kind),
            responses=_problems(400, 404, 408, 413, 415, 422, 429, 503),
        )
    app.add_api_route(
        "/v1/scenes",
        paths.add_scene,
        methods=["POST"],
        status_code=201,
        summary="Encode an image once, and keep its scene for questions.",
        openapi_extra=_described(NewScene),
        responses=_problems(400, 408, 413, 415, 422, 429, 503),
    )
    app.add_api_route(
        SCENE_PATH + "{scene_id}",
        paths.show_scene,
        methods=["GET"],
        summary="A scene's size, and how long it stays.",
        openapi_extra=SCENE_PARAMETER,
        responses=_problems(404),
    )
    app.add_api_route(
        SCENE_PATH + "{scene_id}",
        paths.remove_scene,
        methods=["DELETE"],
        status_code=204,
        summary="Let a scene go.",
        openapi_extra=SCENE_PARAMETER,
        responses=_problems(404),
    )
    app.add_api_route("/v1/models", paths.models, methods=["GET"], summary="The model, and limits.")
    app.add_api_route("/healthz", paths.health, methods=["GET"], summary="The server runs.")
    app.add_api_route(
        "/readyz",
        paths.ready,
        methods=["GET"],
        summary="The server takes requests; 503 while it ends.",
        responses=_problems(503),
    )
    app.add_api_route(
        "/metrics", paths.figures, methods=["GET"], summary="Figures in Prometheus's text format."
    )
    for path, name in {"/": "page.html", "/docs": "docs.html"}.items():
        app.add_api_route(
            path,
            _file(_read_page(name), "text/html; charset=utf-8"),
            methods=["GET"],
            include_in_schema=False,
        )
    files = {name: (_read_page(name), media) for name, media in PAGE_FILES.items()}
    files[EXAMPLE] = ((packaged_photos() / EXAMPLE).read_bytes(), "image/jpeg")
    for name, (data, media) in files.items():
        app.add_api_route(
            STATIC + name, _file(data, media), methods=["GET"], include_in_schema=False
        )
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(SamclipError, _answer_error)
    app.add_exception_handler(Exception, _answer_defect)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            expose_headers=["X-Request-Id", "Retry-After", "Location"],
        )
    app.openapi()["x-problems"] = [
        {"name": kind.name, "status": kind.status, "title": kind.title} for kind in KINDS.values()
    ]
    known = {getattr(route, "path", "") for route in app.routes}

    def known_path(path: str) -> str:
        if path in known:
            return path
        return SCENE_PATH + "{scene_id}" if path.startswith(SCENE_PATH) else "other"

    return Gate(app, settings, metrics, known_path, count_connections)


class _Paths:
    """What the paths do."""

    def __init__(self, service: Service, bodies: BodyReader, metrics: Metrics) -> None:
        self._service = service
        self._bodies = bodies
        self._metrics = metrics

    async def ask(self, kind: type[AnyQuestion], request: Request) -> Response:
        """Answer a question."""
        async with self._parsed(request, kind) as (question, image):
            picture = choose_picture(request.headers.get("accept", ""))
            content = await _unless_gone(request, self._service.ask(question, image, picture))
        return Response(content.data, media_type=content.media_type)

    async def add_scene(self, request: Request) -> Response:
        """Keep a scene."""
        async with self._parsed(request, NewScene) as (_, image):
            kept, warned = await _unless_gone(request, self._service.add_scene(image))
        record = {
            **self._describe(kept.id),
            "timings": kept.scene.timings,
            "warnings": list_warnings(warned),
        }
        return Response(
            to_json_content(record).data,
            status_code=201,
            media_type="application/json",
            headers={"Location": SCENE_PATH + kept.id},
        )

    async def show_scene(self, request: Request) -> Response:
        """Describe a scene."""
        return _respond(to_json_content(self._describe(request.path_params["scene_id"])))

    async def remove_scene(self, request: Request) -> Response:
        """Let a scene go."""
        self._service.scenes.remove(request.path_params["scene_id"])
        return Response(status_code=204)

    async def models(self) -> Response:
        """Describe the model."""
        return _respond(to_json_content(self._service.describe()))

    async def health(self) -> Response:
        """Answer, which is all there is to it."""
        return _respond(to_json_content({"status": "ok"}))

    async def ready(self) -> Response:
        """Answer while requests are taken."""
        if not self._service.is_open:
            raise ProblemError("unavailable", "The server is ending.", retry_after=1)
        return _respond(to_json_content({"status": "ready"}))

    async def figures(self) -> Response:
        """Return the figures."""
        return Response(self._metrics.text(), headers={"Content-Type": figures.MEDIA_TYPE})

    def _describe(self, scene_id: str) -> dict[str, Any]:
        kept = self._service.scenes.get(scene_id)
        return {
            "id": kept.id,
            "size": list(kept.scene.size),
            "bytes": kept.bytes,
            "expires_in": self._service.scenes.seconds,
        }

    @asynccontextmanager
    async def _parsed(
        self, request: Request, kind: type[Any]
    ) -> AsyncIterator[tuple[Any, bytes | None]]:
        """Read and parse the body of a request; in a thread, since it may be large."""
        try:
            check_coding(request.headers.get("content-encoding", ""))
            declared = request.headers.get("content-length", "")
            async with self._bodies.read(request.stream(), declared) as body:
                media = request.headers.get("content-type", "")
                parse = partial(parse_body, body, media, kind, self._service.limits)
                yield await asyncio.get_running_loop().run_in_executor(None, parse)
        except ClientDisconnect as gone:
            raise GoneError from gone


def _endpoint(paths: _Paths, kind: type[AnyQuestion]) -> Callable[[Request], Awaitable[Response]]:
    async def ask(request: Request) -> Response:
        return await paths.ask(kind, request)

    ask.__name__ = kind.__name__.lower()
    return ask


def _file(data: bytes, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def answer() -> Response:
        return Response(data, media_type=media_type)

    return answer


def _read_page(name: str) -> bytes:
    return (resources.files("samclip.server") / "page" / name).read_bytes()


def _respond(content: Content) -> Response:
    return Response(content.data, media_type=content.media_type)


async def _unless_gone(request: Request, answer: Coroutine[Any, Any, Result]) -> Result:
    """Wait for an answer; where the client leaves first, give it up and raise GoneError."""
    task = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_leave(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise GoneError
    finally:
        task.cancel()
        gone.cancel()


async def _leave(request: Request) -> None:
    """Wait until the client leaves; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _expire(service: Service) -> None:
    while True:
        await asyncio.sleep(EXPIRY_SECONDS)
        service.scenes.expire()


def _answer_error(request: Request, error: Exception) -> Response:
    """Answer with the problem of an error of samclip; the gate logs and answers failures."""
    if describe(error, "").status == KINDS["failed"].status:
        raise error
    return _answer_defect(request, error)


def _answer_defect(request: Request, error: Exception) -> Response:
    """Answer with the problem of any error; starlette raises it again, and the gate logs it."""
    problem = describe(error, request.state.request_id)
    return Response(
        to_json(problem.members),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=problem.headers,
    )


def _answer_http_error(request: Request, error: Exception) -> Response:
    """Answer with the problem of a path or method that is not there."""
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for these
    kinds = {404: "not-found", 405: "method-not-allowed"}
    allowed = (error.headers or {}).get("Allow", "")
    detail = f"{request.method} {request.url.path[:200]}: see /docs for what there is."
    problem = ProblemError(
        kinds.get(error.status_code, "bad-request"),
        detail,
        headers={"Allow": allowed} if allowed else None,
    )
    return _answer_error(request, problem)


SCENE_PARAMETER: dict[str, Any] = {
    "parameters": [
        {"name": "scene_id", "in": "path", "required": True, "schema": {"type": "string"}}
    ]
}


def _described(kind: type[Any]) -> dict[str, Any]:
    """Return OpenAPI's description of a body, as JSON and as a multipart form."""
    schema = schema_of(kind)
    form = {**schema, "properties": dict(schema["properties"])}
    form["properties"]["image"] = {"type": "string", "format": "binary"}
    content = {"application/json": {"schema": schema}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    titles: dict[int, list[str]] = {}
    for kind in KINDS.values():
        titles.setdefault(kind.status, []).append(kind.title)
    return {
        status: {
            "description": "; ".join(titles[status]),
            "content": {MEDIA_TYPE: {"schema": {"type": "object"}}},
        }
        for status in (*statuses, 401, 403)
    }
