"""The gate before the app: who may ask, the id and log line of each request, headers, failures."""

from __future__ import annotations

import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from samclip.server.metrics import Metrics
from samclip.server.problems import Problem, ProblemError, describe
from samclip.server.settings import ServerSettings

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
OPEN_PATHS = frozenset({"/", "/docs", "/openapi.json", "/healthz", "/readyz"})
STATIC = "/static/"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OWN_SITES = frozenset({"same-origin", "none"})
ID = "X-Request-Id"
GONE = 499  # in logs and figures: the client left before its answer
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; media-src blob:; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": POLICY,
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}
logger = logging.getLogger("samclip.server")


class GoneError(Exception):
    """The client left before its answer was ready."""


class Gate:
    """An ASGI app around another one.

    `known_path` returns the path as figures name it, so that a client cannot make up new ones.
    """

    def __init__(
        self,
        app: App,
        settings: ServerSettings,
        metrics: Metrics,
        known_path: Callable[[str], str],
        count_connections: Callable[[], int],
    ) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._known_path = known_path
        self._count_connections = count_connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with a problem."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        exchange = _Exchange(send, request_id, self._extra_headers(scope["path"]))
        status: int | None = None
        # An app that knows GET answers HEAD as well: the connection sends no body then.
        asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        try:
            try:
                self._check(scope, headers)
                await self._app(asked, receive, exchange.send)
            except GoneError:
                status = GONE
            except Exception as error:
                problem = describe(error, request_id)
                if problem.status >= 500 and not isinstance(error, ProblemError):
                    logger.exception("request failed", extra={"fields": {"id": request_id}})
                if not exchange.started:
                    await exchange.send_problem(problem)
        finally:
            took = time.perf_counter() - begun
            client = scope.get("client") or ("", 0)
            fields = {
                "id": request_id,
                "client": client[0],
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": status or exchange.status or GONE,
                "ms": round(took * 1e3, 1),
                "bytes": exchange.sent,
            }
            self._record(fields, took)

    def refuse(self, client: str, status: int, reason: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the answer to what is not HTTP, see `connection`."""
        request_id = secrets.token_hex(8)
        error = ProblemError(
            {431: "large-header", 501: "unknown-coding"}.get(status, "bad-request"),
            f"this is not a request of HTTP/1.1 that is read here: {reason[:200]}.",
            headers={"Connection": "close"},
        )
        problem = describe(error, request_id)
        body, headers = problem.encode()
        fields = {"id": request_id, "client": client, "method": "", "path": ""}
        self._record({**fields, "status": problem.status, "ms": 0.0, "bytes": len(body)}, 0.0)
        return problem.status, {**headers, **self._extra_headers(""), ID: request_id}, body

    def _record(self, fields: dict[str, Any], took: float) -> None:
        """Count a request, and write its line to the log."""
        path = self._known_path(fields["path"])
        self._metrics.requests.labels(path, str(fields["status"])).inc()
        self._metrics.seconds.labels(path).observe(took)
        quiet = path in {"/healthz", "/readyz", "/metrics"}
        logger.log(logging.DEBUG if quiet else logging.INFO, "request", extra={"fields": fields})

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        """Raise ProblemError for a request that is not let through."""
        if self._count_connections() > self._settings.limits.connections:
            raise ProblemError(
                "unavailable",
                "too many connections are open. Ask again later.",
                retry_after=1,
                headers={"Connection": "close"},
            )
        if "content-length" in headers and "transfer-encoding" in headers:
            raise ProblemError(
                "bad-request",
                "the request states the length of its body twice, as Content-Length and by "
                "Transfer-Encoding. Send one of the two.",
                headers={"Connection": "close"},
            )
        self._check_host(headers)
        self._check_site(scope["method"], headers)
        path, token = scope["path"], self._settings.token
        is_preflight = (
            scope["method"] == "OPTIONS"
            and "access-control-request-method" in headers
            and bool(self._settings.origins)
        )
        if token is None or is_preflight or path in OPEN_PATHS or path.startswith(STATIC):
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode("latin-1"), token.encode())
        if scheme.lower() != "bearer" or not right:
            raise ProblemError(
                "unauthorized",
                "this server answers requests with its bearer token: Authorization: Bearer TOKEN.",
                headers={"WWW-Authenticate": 'Bearer realm="samclip"'},
            )

    def _check_host(self, headers: dict[str, str]) -> None:
        known = self._settings.known_hosts
        if known is None:
            return
        host = re.sub(r":\d*$", "", headers.get("host", "").lower())
        if host not in known:
            raise ProblemError(
                "forbidden",
                f"this server is not called {host[:100]!r}. Use one of "
                f"{', '.join(sorted(known))}, or let it know the name when it starts.",
            )

    def _check_site(self, method: str, headers: dict[str, str]) -> None:
        """Refuse what a page of another site sends: CORS stops its reading, not its sending."""
        origin = headers.get("origin")
        if method in SAFE_METHODS or origin in self._settings.origins:
            return
        site = headers.get("sec-fetch-site")
        own = origin is None or origin.partition("//")[2].lower() == headers.get("host", "").lower()
        if not own or (site is not None and site not in OWN_SITES):
            raise ProblemError(
                "forbidden",
                f"a page of {(origin or 'another site')[:100]} may not ask this server. Open its "
                "own page, or permit that origin when it starts.",
            )

    def _extra_headers(self, path: str) -> dict[str, str]:
        resources = "cross-origin" if self._settings.origins else "same-origin"
        cache = "no-cache" if path.startswith(STATIC) else "no-store"
        return {**HEADERS, "Cross-Origin-Resource-Policy": resources, "Cache-Control": cache}


class _Exchange:
    """The response to one request, with the headers that every one has."""

    def __init__(self, send: Send, request_id: str, headers: dict[str, str]) -> None:
        self.status: int | None = None
        self.sent = 0
        self._send = send
        self._headers = {**headers, ID: request_id}

    @property
    def started(self) -> bool:
        """Whether a client has got the status."""
        return self.status is not None

    async def send(self, message: Message) -> None:
        """Send a message of the app on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [
                *message.get("headers", ()),
                *((name.lower().encode(), text.encode()) for name, text in self._headers.items()),
            ]
        elif message["type"] == "http.response.body":
            self.sent += len(message.get("body", b""))
        await self._send(message)

    async def send_problem(self, problem: Problem) -> None:
        """Send a problem as the response."""
        body, headers = problem.encode()
        await self.send(
            {
                "type": "http.response.start",
                "status": problem.status,
                "headers": [
                    (name.lower().encode(), text.encode()) for name, text in headers.items()
                ],
            }
        )
        await self.send({"type": "http.response.body", "body": body})


class JsonLines(logging.Formatter):
    """Formats each record as one line of JSON, which nothing in a request can break."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record; `fields` of the record are its own."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)
