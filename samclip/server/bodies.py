"""Bodies of requests: read within bounds of size and time, then taken apart.

Nothing of a body is written to the disk, and names of files in it are not looked at.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from samclip.runtime.pixels.formats import HEAD_BYTES, READABLE, sniff
from samclip.server.problems import ProblemError
from samclip.server.questions import decode_base64
from samclip.server.settings import Limits

MAX_PARTS = 32
MAX_PART_HEADERS = 8
MAX_HEADER_BYTES = 1024
BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)
PART_NAME = re.compile(rb'(?:^|;)\s*name="([A-Za-z_]{1,40})"', re.IGNORECASE)
IMAGE = "image"
QUESTION = "question"  # a part with the whole question as JSON

Record = TypeVar("Record", bound=msgspec.Struct)
Value = TypeVar("Value")
BODIES = 8  # of the largest size, which may be in memory at once


class BodyReader:
    """Reads bodies, each and all together within bounds; for one event loop."""

    def __init__(self, limits: Limits) -> None:
        self.bytes = 0  # of the bodies that are in memory
        self._limits = limits

    @asynccontextmanager
    async def read(self, chunks: AsyncIterator[bytes], declared: str) -> AsyncIterator[bytes]:
        """Read a body, whose bytes count as long as the block runs.

        `declared`: the header Content-Length, "" without. Raises ProblemError: 413 for a body that
        is too large, 408 for one that is too slow, 429 where too many are in memory.
        """
        limits = self._limits
        if declared.isdecimal() and int(declared[:20]) > limits.body_bytes:
            raise _too_large(f"the body has {int(declared[:20]):,} bytes", limits.body_bytes)
        body = bytearray()

        async def gather() -> None:
            async for chunk in chunks:
                if len(body) + len(chunk) > limits.body_bytes:
                    raise _too_large("the body is larger", limits.body_bytes)
                if self.bytes + len(chunk) > BODIES * limits.body_bytes:
                    raise ProblemError(
                        "busy", "too many bodies arrive at once. Ask again later.", retry_after=1
                    )
                self.bytes += len(chunk)
                body.extend(chunk)

        try:
            try:
                await asyncio.wait_for(gather(), limits.body_seconds)
            except asyncio.TimeoutError as error:
                raise ProblemError(
                    "slow-body",
                    f"{len(body):,} bytes of the body came in {limits.body_seconds:g} s, and not "
                    "the rest. Send it faster, or a smaller image.",
                    headers={"Connection": "close"},
                ) from error
            yield bytes(body)
        finally:
            self.bytes -= len(body)


def check_coding(coding: str) -> None:
    """Check the header Content-Encoding of a body; ProblemError 415 for any but identity."""
    if coding.strip().lower() not in {"", "identity"}:
        raise ProblemError(
            "unsupported-type",
            f"a body of the content coding {coding[:60]!r} is not read. Send it as it is.",
            headers={"Accept-Encoding": "identity"},
        )


def parse_body(
    body: bytes, content_type: str, kind: type[Record], limits: Limits
) -> tuple[Record, bytes | None]:
    """Return the question of a body, and the bytes of its image, if it has one.

    Raises ProblemError: 400 for a malformed body, 413 for fields that are too large, 415 for
    another type of body or of image, 422 for a field that is unknown or of another type.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media == "application/json":
        fields, image = _split_json(body, kind)
    elif media == "multipart/form-data":
        fields, image = _split_multipart(body, content_type, kind)
    else:
        raise ProblemError(
            "unsupported-type",
            f"a body is application/json or multipart/form-data; got {media[:60] or 'no type'!r}.",
        )
    size = sum(map(len, fields.values()))
    if size > limits.field_bytes:
        raise _too_large(f"the question has {size:,} bytes without its image", limits.field_bytes)
    joined = b",".join(b'"%s":%s' % (name.encode(), raw) for name, raw in fields.items())
    question = _decode(b"{%s}" % joined, kind)
    if image is not None and sniff(image[:HEAD_BYTES]) is None:
        raise ProblemError(
            "unsupported-type",
            f"the image is not of the formats {READABLE}. Convert it.",
            error="ImageError",
        )
    return question, image


def _too_large(what: str, most: int) -> ProblemError:
    detail = f"{what}; at most {most:,} are read. Send less."
    return ProblemError("too-large", detail, headers={"Connection": "close"})


def _decode(text: bytes, kind: type[Value]) -> Value:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise ProblemError("invalid-question", f"{error}. See the schema at /docs.") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProblemError("bad-request", f"the question is not JSON: {error}.") from error


@cache
def _envelope(kind: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """Return a record of the same fields that leaves their values as they are."""
    names = [field.name for field in msgspec.structs.fields(kind)]
    return msgspec.defstruct(
        f"{kind.__name__}Envelope",
        [(name, msgspec.Raw | msgspec.UnsetType, UNSET) for name in names],
        forbid_unknown_fields=True,
    )


def _split_json(body: bytes, kind: type[msgspec.Struct]) -> tuple[dict[str, bytes], bytes | None]:
    """Take a JSON document apart without making objects of what may be millions of values."""
    envelope = _decode(body, _envelope(kind))
    fields = {
        name: bytes(value)
        for name, value in msgspec.structs.asdict(envelope).items()
        if value is not UNSET
    }
    raw = fields.pop(IMAGE, b"null")
    if raw.strip() == b"null":
        return fields, None
    if not raw.lstrip().startswith(b'"'):
        raise ProblemError("invalid-question", "image must be base64 text in JSON.")
    return fields, decode_base64(_decode(raw, str), "image")


def _split_multipart(
    body: bytes, content_type: str, kind: type[msgspec.Struct]
) -> tuple[dict[str, bytes], bytes | None]:
    match = BOUNDARY.search(content_type)
    if match is None:
        raise ProblemError("bad-request", "a multipart body needs its boundary in Content-Type.")
    parts = _Parts(body, (match[1] or match[2]).encode("latin-1", "replace")).found
    image = parts.pop(IMAGE, None)
    fields: dict[str, bytes] = {}
    if QUESTION in parts:
        fields, own = _split_json(parts.pop(QUESTION), kind)
        if own is not None and image is not None:
            raise _twice(IMAGE)
        image = own if image is None else image
    known = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for name, value in parts.items():
        if name not in known:
            raise ProblemError(
                "invalid-question",
                f"there is no field {name!r}, only {', '.join(sorted(known))} and {QUESTION}.",
            )
        if name in fields:
            raise _twice(name)
        fields[name] = bytes(_decode(_as_json(name, value), msgspec.Raw))
    return fields, image


def _twice(name: str) -> ProblemError:
    detail = f"the question has {name!r} twice, as a part and in the part {QUESTION!r}."
    return ProblemError("bad-request", detail)


def _as_json(name: str, value: bytes) -> bytes:
    """Return a part as JSON: texts may stand without quotes, and names between commas."""
    text = value.strip()
    if name in {"names", "seen"} and not text.startswith(b"["):
        shown = [part.strip() for part in _as_text(name, text).split(",")]
        return msgspec.json.encode([part for part in shown if part])
    if name in {"scene", "answer", "templates", "name_by"} and text[:1] not in (b'"', b"[", b""):
        return b"null" if text == b"null" else msgspec.json.encode(_as_text(name, text))
    return text or b"null"


def _as_text(name: str, value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ProblemError("bad-request", f"the part {name} is not UTF-8 text.") from error


class _Parts:
    """The parts of a multipart body by name: each once, all of them whole."""

    def __init__(self, body: bytes, boundary: bytes) -> None:
        from python_multipart.exceptions import FormParserError  # noqa: PLC0415 - of an extra
        from python_multipart.multipart import MultipartParser  # noqa: PLC0415

        self.found: dict[str, bytes] = {}
        self._name, self._headers = "", 0
        self._field, self._value, self._data = bytearray(), bytearray(), bytearray()
        self._ended = False
        callbacks: Any = {
            "on_part_begin": self._begin,
            "on_part_data": self._add,
            "on_part_end": self._finish,
            "on_header_field": lambda data, a, b: self._grow(self._field, data[a:b]),
            "on_header_value": lambda data, a, b: self._grow(self._value, data[a:b]),
            "on_header_end": self._end_header,
            "on_end": self._end,
        }
        try:
            MultipartParser(boundary, callbacks).write(body)
        except FormParserError as error:
            raise ProblemError(
                "bad-request", f"the multipart body is malformed: {error}"
            ) from error
        if not self._ended:
            raise ProblemError("bad-request", "the multipart body ends before its last boundary.")

    def _begin(self) -> None:
        if len(self.found) >= MAX_PARTS:
            raise ProblemError("bad-request", f"a body has {MAX_PARTS} parts at most.")
        self._name, self._headers = "", 0
        self._data = bytearray()

    def _grow(self, buffer: bytearray, data: bytes) -> None:
        if len(buffer) + len(data) > MAX_HEADER_BYTES:
            raise ProblemError("bad-request", "a part's header is too long.")
        buffer.extend(data)

    def _end_header(self) -> None:
        self._headers += 1
        if self._headers > MAX_PART_HEADERS:
            raise ProblemError("bad-request", "a part has too many headers.")
        if self._field.lower() == b"content-disposition" and (
            match := PART_NAME.search(bytes(self._value))
        ):
            self._name = match[1].decode("ascii")
        self._field.clear()
        self._value.clear()

    def _add(self, data: bytes, begin: int, end: int) -> None:
        self._data.extend(memoryview(data)[begin:end])

    def _finish(self) -> None:
        if not self._name:
            raise ProblemError("bad-request", 'each part needs a name, as in name="image".')
        if self._name in self.found:
            raise ProblemError(
                "bad-request",
                f"the part {self._name!r} comes twice. Give it once, names with commas.",
            )
        self.found[self._name] = bytes(self._data)

    def _end(self) -> None:
        self._ended = True
