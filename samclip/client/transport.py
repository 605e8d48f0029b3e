"""HTTP to a server: requests, waits when it is busy, and its problems as samclip's errors."""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from samclip.errors import (
    CapabilityError,
    ClosedError,
    InputError,
    SamclipWarning,
    ServerBusyError,
    ServerError,
    brief,
    kind_named,
    warn_caller,
)

SCHEMES = ("http", "https")
BUSY = frozenset({429, 503})
LONGEST_WAIT = 60.0  # seconds that a server may ask to wait
SHOWN = 300  # characters of what a server says
MOST_BYTES = 2**30  # of an answer
# The errors that a problem may name. Others would be claims about this machine.
OF_INPUT = (InputError, CapabilityError)
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


class Transport:
    """One server by its address; may be used from several threads.

    `timeout`: seconds without a byte from the server; `retries`: how often a request that the
    server is too busy for is sent again, after the time that the server says.
    """

    def __init__(
        self,
        address: str,
        token: str | None,
        timeout: float,
        retries: int,
        verify: bool | str,
        http: Any = None,
    ) -> None:
        self.address = check_address(address)
        self._retries = retries
        self._closed = threading.Event()
        if http is None:
            import httpx  # noqa: PLC0415 - an extra

            trust = ssl.create_default_context(cafile=verify) if isinstance(verify, str) else verify
            http = httpx.Client(timeout=timeout, verify=trust, follow_redirects=False)
        self._http = http
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def get(self, path: str) -> dict[str, Any]:
        """Return the JSON of a path; raises as `post`."""
        return self._json(self._send("GET", path))

    def delete(self, path: str) -> None:
        """Remove what is at a path; raises as `post`."""
        self._send("DELETE", path)

    def post(
        self, path: str, question: Mapping[str, Any], image: bytes | None = None
    ) -> dict[str, Any]:
        """Send a question, with the bytes of an image file if there are any; return the JSON.

        Raises InputError and its kinds, CapabilityError for what the server says of the question;
        ServerBusyError, ServerError, ClosedError.
        """
        given = {name: value for name, value in question.items() if value is not None}
        if image is None:
            return self._json(self._send("POST", path, json=given))
        import json  # noqa: PLC0415 - httpx has been imported, which takes longer

        files = {
            "question": ("question", json.dumps(given).encode(), "application/json"),
            "image": ("image", image, "application/octet-stream"),
        }
        return self._json(self._send("POST", path, files=files))

    def _send(self, method: str, path: str, **content: Any) -> Any:
        import httpx  # noqa: PLC0415

        for attempt in range(self._retries + 1):
            if self._closed.is_set():
                raise ClosedError("the client is closed. Make another one.")
            try:
                response = self._http.request(
                    method, self.address + path, headers=self._headers, **content
                )
            except httpx.TimeoutException as error:
                raise ServerError(
                    f"{self.address} did not answer in time. Give the client a longer timeout, or "
                    "look at the server's log."
                ) from error
            except (httpx.HTTPError, OSError) as error:
                raise ServerError(
                    f"{self.address} cannot be reached: {error}. Is a server running there?"
                ) from error
            wait = _retry_after(response)
            if response.status_code not in BUSY or wait is None or attempt == self._retries:
                return _checked(response, self.address)
            time.sleep(wait)
        raise AssertionError("unreachable")

    def _json(self, response: Any) -> dict[str, Any]:
        try:
            answer = response.json()
        except ValueError as error:
            raise ServerError(
                f"{self.address} answered with something other than JSON. Is it a samclip server?"
            ) from error
        if not isinstance(answer, dict):
            raise ServerError(f"{self.address} answered with {brief(answer)}, expected an object.")
        for warning in answer.get("warnings", ()):
            kind = kind_named(warning.get("kind"), SamclipWarning)
            if kind is not None:
                warn_caller(str(warning.get("message")), kind)
        return answer

    def close(self) -> None:
        """Close the connections."""
        self._closed.set()
        self._http.close()

    def __enter__(self) -> Transport:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def check_address(address: str) -> str:
    """Return an address without a slash at its end; InputError for what is not one."""
    parts = urlsplit(address) if isinstance(address, str) else None
    if parts is None or parts.scheme not in SCHEMES or not parts.hostname or parts.username:
        raise InputError(f"a server's address is as http://127.0.0.1:8000; got {brief(address)}.")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _retry_after(response: Any) -> float | None:
    """Return the seconds after which a server wants to be asked again, at most LONGEST_WAIT."""
    text = response.headers.get("retry-after", "")
    return min(float(text), LONGEST_WAIT) if text.isdecimal() else None


def _checked(response: Any, address: str) -> Any:
    """Return a response; raise the error of one that is a refusal or a failure."""
    if response.is_success:
        return response
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    detail = problem.get("detail") if isinstance(problem, dict) else None
    said = CONTROLS.sub(" ", str(detail or response.reason_phrase))[: 4 * SHOWN]
    kind = kind_named(problem.get("error"), *OF_INPUT) if isinstance(problem, dict) else None
    status = response.status_code
    if kind is not None:
        raise kind(said)
    if status in BUSY:
        raise ServerBusyError(
            f"{address} is busy: {said} ({status})", retry_after=_retry_after(response) or 1.0
        )
    if status in {400, 404, 413, 415, 422}:
        raise InputError(f"{said} ({status})")
    raise ServerError(f"{address} answered {status}: {said}")
