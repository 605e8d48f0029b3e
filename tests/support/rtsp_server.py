"""An RTSP server on loopback, of the package aio-rtsp-toolkit, and a proxy that damages its bytes.

The server is a process of its own, so that it can be cut, stalled and started again as a camera is.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from free_ports import free_port

SERVE = """
import asyncio, sys
import aio_rtsp_toolkit.server as rtsp
asyncio.run(rtsp.serve(sys.argv[1], "127.0.0.1", int(sys.argv[2])))
"""


class RtspServer:
    """Serves the videos of a folder, each at rtsp://127.0.0.1:port/name, in real time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RtspServer:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.cut()

    def url(self, name: str, port: int | None = None) -> str:
        return f"rtsp://127.0.0.1:{port or self.port}/{name}"

    def start(self, seconds: float = 60) -> None:
        """Start it, and wait until it accepts connections."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(self.folder), str(self.port)],
            stdout=subprocess.DEVNULL,
            env=os.environ,
        )
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self._process.poll() is None, "the RTSP server ended"
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
                return
            time.sleep(0.05)
        raise AssertionError(f"the RTSP server does not listen after {seconds:g} s")

    def stall(self) -> None:
        """Let it hold its connections and send nothing."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        self._send(signal.SIGCONT)

    def cut(self) -> None:
        """End it without a word, as when a camera loses its power."""
        if self._process is not None:
            self._send(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


class NoisyProxy:
    """Hands bytes on between a client and `port`; `noise` is put into the next answers."""

    def __init__(self, port: int) -> None:
        self._to, self.noise = port, b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> NoisyProxy:
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                for pair in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._hand_on, args=pair, daemon=True).start()

    def _hand_on(self, source: socket.socket, target: socket.socket, noisy: bool) -> None:
        with suppress(OSError), source, target:  # either side may be cut
            while data := source.recv(4096):
                if noisy and self.noise:
                    noise, self.noise = self.noise, b""
                    data = data[:50] + noise + data[50 + len(noise) :]
                target.sendall(data)
