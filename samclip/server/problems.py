"""Problem details (RFC 9457): every refusal and failure of the server, with its HTTP status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from samclip.errors import (
    CapabilityError,
    ClosedError,
    DeviceMemoryError,
    EngineTimeoutError,
    ImageError,
    InputError,
    SamclipError,
)
from samclip.json_text import to_json

MEDIA_TYPE = "application/problem+json"
DOCS = "/docs#problem-"  # a problem's `type` leads to its row there


@dataclass(frozen=True)
class Kind:
    """A kind of problem: its name in `type`, HTTP status, and what is true of each of them."""

    name: str
    status: int
    title: str


_KINDS = (
    Kind("bad-request", 400, "The request is malformed"),
    Kind("unauthorized", 401, "The bearer token is missing or wrong"),
    Kind("forbidden", 403, "Pages of other sites and unknown host names are refused"),
    Kind("not-found", 404, "There is nothing at this path"),
    Kind("scene-not-found", 404, "The scene is unknown, or it has expired"),
    Kind("method-not-allowed", 405, "The path has other methods"),
    Kind("slow-body", 408, "The body took too long to arrive"),
    Kind("too-large", 413, "The body, a field or the image is too large"),
    Kind("unsupported-type", 415, "The body or the image is of a type that is not read"),
    Kind("invalid-image", 422, "The image cannot be decoded"),
    Kind("invalid-question", 422, "A field has a value that cannot be used"),
    Kind("not-capable", 422, "The bundle has no graph for this task"),
    Kind("busy", 429, "Too many requests wait already"),
    Kind("large-header", 431, "The header of the request is too large"),
    Kind("failed", 500, "The server failed; its log has the request's id"),
    Kind("unknown-coding", 501, "The transfer coding of the request is not known"),
    Kind("unavailable", 503, "The server cannot answer now"),
)
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _KINDS}


class ProblemError(SamclipError):
    """A request is answered by a problem instead of an answer.

    `kind`: one of `KINDS`; `retry_after`: whole seconds after which it may go better; `headers`:
    further ones of the response; `error`: the class of samclip's errors that a client may raise.
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
        error: str = "",
    ) -> None:
        super().__init__(detail)
        self.kind = KINDS[kind]
        self.retry_after = retry_after
        self.headers = dict(headers or {})
        self.error = error


@dataclass(frozen=True)
class Problem:
    """A response: status, headers and members of the JSON document."""

    status: int
    members: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)

    def encode(self) -> tuple[bytes, dict[str, str]]:
        """Return the body, and all headers that it needs."""
        body = to_json(self.members).encode()
        return body, {"Content-Type": MEDIA_TYPE, "Content-Length": str(len(body)), **self.headers}


def describe(error: BaseException, request_id: str) -> Problem:
    """Return the problem that a client gets for an error.

    The messages of errors about input go to the client. Those of the server's own failures may
    name files of this machine: they are for the log.
    """
    kind, retry_after, headers = KINDS["failed"], None, {}
    detail = f"The server failed to answer. Its log has the reason under the id {request_id}."
    if isinstance(error, ProblemError):
        kind, retry_after, headers = error.kind, error.retry_after, error.headers
        detail = str(error)
    elif isinstance(error, (DeviceMemoryError, EngineTimeoutError, ClosedError)):
        kind, retry_after = KINDS["unavailable"], 1
        detail = "The server is closing."
        if isinstance(error, DeviceMemoryError):
            detail = "There is too little free memory for this. Ask for less, or later."
        elif isinstance(error, EngineTimeoutError):
            detail = "The model took longer than it is given."
    elif isinstance(error, CapabilityError):
        kind, detail = KINDS["not-capable"], str(error)
    elif isinstance(error, InputError):
        kind, detail = KINDS[_kind_of_input(error)], str(error)
    members: dict[str, Any] = {
        "type": DOCS + kind.name,
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "request_id": request_id,
    }
    named = error.error if isinstance(error, ProblemError) else type(error).__name__
    if named and isinstance(error, SamclipError):
        members["error"] = named
    if retry_after is not None:
        members["retry_after"] = retry_after
        headers = {**headers, "Retry-After": str(retry_after)}
    return Problem(kind.status, members, headers)


def _kind_of_input(error: InputError) -> str:
    if not isinstance(error, ImageError):
        return "invalid-question"
    limits = (name for step in error.steps for name in getattr(step, "names", ()))
    return "too-large" if "max_pixels" in limits else "invalid-image"
