"""A server in a thread of this process, and raw exchanges with it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from samclip.runtime.model import Model
from samclip.runtime.text.vocabulary import Vocabulary
from samclip.server.run import Server
from samclip.server.settings import Limits, ServerSettings


@contextmanager
def served(
    model: Model, limits: Limits | None = None, saved: Vocabulary | None = None, **settings: Any
) -> Iterator[Server]:
    """A server of `model` on a free loopback port; it is stopped at the end."""
    options = {"port": 0, "drain_seconds": 20.0, "limits": limits or Limits(), **settings}
    server = Server(model, ServerSettings(**options), saved=saved)
    started = threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(server.run(started.set))
        except BaseException as error:
            failed.append(error)
            started.set()

    thread = threading.Thread(target=run, name="served")
    thread.start()
    try:
        assert started.wait(60)
        yield server
    finally:
        server.stop()
        thread.join(60)
    assert not thread.is_alive()
    assert not failed, failed


def connect(address: str, seconds: float = 30.0) -> socket.socket:
    """A raw connection to a server."""
    host, _, port = address.partition("//")[2].rpartition(":")
    return socket.create_connection((host, int(port)), timeout=seconds)


def send_raw(address: str, data: bytes, seconds: float = 30.0) -> bytes:
    """Send bytes on a new connection; return all that comes until the server closes it."""
    with connect(address, seconds) as connection:
        connection.sendall(data)
        received = bytearray()
        while chunk := connection.recv(65_536):
            received += chunk
    return bytes(received)
