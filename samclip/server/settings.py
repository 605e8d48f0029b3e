"""Settings of a server, and the bounds on what one request and all requests together may take."""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass, fields
from pathlib import Path

from samclip.errors import InputError, brief

LEAST_TOKEN = 16  # characters: shorter ones can be guessed
MOST_TOKEN = 4096
TOKEN = re.compile(r"[\x21-\x7e]+")  # RFC 6750 allows a part of these; no spaces, no controls
ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")
MAX_PORT = 65_535
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of a server; each is refused with the status in brackets.

    `body_bytes`: of a request (413); `field_bytes`: of a question without its image (413);
    `pixels`: of an image (413); `prompts`, `points`: of a question, points of all its prompts
    together (422); `names`, `name_letters`: of a question, and of one name (422); `grid`: points
    along a side in everything (422); `answer_bytes`: of an answer (422).

    `queue`: requests that wait for the encoder, and as many for the heads (429);
    `queue_seconds`: that one waits at most (503); `header_seconds`, `body_seconds`: until a
    request's header (connection closed) and its body (408) are there; `connections`: open at once
    (503).

    `scenes`, `scene_bytes`: kept at once, the one used longest ago goes first; `scene_seconds`:
    after its last use a scene goes.
    """

    body_bytes: int = 32 * 2**20
    field_bytes: int = 2**20
    pixels: int = 40_000_000
    prompts: int = 256
    points: int = 1024
    names: int = 2000
    name_letters: int = 200
    grid: int = 64
    answer_bytes: int = 64 * 2**20
    queue: int = 16
    queue_seconds: float = 30.0
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    connections: int = 256
    scenes: int = 256
    scene_bytes: int = 2**30
    scene_seconds: float = 600.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            least = 0 if each.name == "queue" else 1e-3
            if isinstance(value, bool) or not math.isfinite(value) or value < least:
                raise InputError(
                    f"the server's limit {each.name} must be a number of at least {least:g}; got "
                    f"{brief(value)}."
                )


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Where a server listens, whom it answers, and its limits.

    `token`: the bearer token that every request but the health checks and the page's own files
    must carry, None for none; `open_to_all`: permit an address other than loopback without a
    token; `certificate`, `key`: files of TLS, PEM; `hosts`: further names by which clients call the
    server; `origins`: pages of other sites that may call it, see CORS; `drain_seconds`: how long
    requests under way may take after SIGTERM.

    Raises InputError.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    open_to_all: bool = False
    certificate: Path | None = None
    key: Path | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    drain_seconds: float = 30.0
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not 0 <= self.port <= MAX_PORT:
            raise InputError(f"a port is a number from 0 to {MAX_PORT}; got {self.port}.")
        if self.token is not None:
            check_token(self.token)
        if not self.is_loopback and self.token is None and not self.open_to_all:
            raise InputError(
                f"{self.host} can be reached from other machines, and there is no token. Give a "
                "file with one, or say that everybody may ask."
            )
        if (self.certificate is None) != (self.key is None):
            raise InputError("TLS needs both files, a certificate and its key. Give the other one.")
        for path in (self.certificate, self.key):
            if path is not None and not path.is_file():
                raise InputError(f"there is no file {path} for TLS. Give the path of a PEM file.")
        for origin in self.origins:
            if not ORIGIN.fullmatch(origin):
                raise InputError(
                    f"an origin is a scheme and a host, as https://example.com; got "
                    f"{brief(origin)}."
                )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:  # a name
            return False

    @property
    def known_hosts(self) -> frozenset[str] | None:
        """Names that a request's Host header may have; None for any, on a public address.

        A page of another site whose name was changed to lead here (DNS rebinding) has its own name
        in that header.
        """
        if self.is_loopback:
            return frozenset({*LOOPBACK_NAMES, self.host.lower(), *map(str.lower, self.hosts)})
        return frozenset(map(str.lower, self.hosts)) or None


def check_token(token: str) -> str:
    """Return a bearer token; InputError for one that is short, long, or cannot be sent."""
    if not LEAST_TOKEN <= len(token) <= MOST_TOKEN or not TOKEN.fullmatch(token):
        raise InputError(
            f"a token has {LEAST_TOKEN} to {MOST_TOKEN:,} visible ASCII characters; this one has "
            f"{len(token)}, or others. Make one: openssl rand -hex 32."
        )
    return token


def read_token(path: Path) -> str:
    """Read a bearer token from the first line of a small file; raises InputError."""
    try:
        with path.open("rb") as file:
            text = file.read(MOST_TOKEN + 2).decode("ascii")
    except OSError as error:
        raise InputError(
            f"the token cannot be read from {path}: {error.strerror}. Give another file."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} does not hold a token, which is ASCII text.") from error
    return check_token(text.strip())
