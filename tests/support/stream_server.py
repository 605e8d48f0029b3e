"""A camera's HTTP server on loopback: multipart JPEG by a script, with cuts, stalls and garbage."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BOUNDARY = b"--frame"
CUT, STALL, GARBAGE, DAMAGED = "cut", "stall", "garbage", "damaged"
Step = int | str | tuple[int, tuple[int, int]]  # a grey level, one of the words, or (level, (h, w))


def made_frame(level: int, size: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    """A frame of one grey, which JPEG and H.264 keep within a few levels."""
    return np.full((*size, 3), level, np.uint8)


def jpeg(image: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95)
    return file.getvalue()


def write_video(
    path: Path,
    levels: Sequence[int],
    *,
    rate: int = 25,
    turned: int = 0,
    size: tuple[int, int] = (48, 64),
    options: dict[str, str] | None = None,
) -> Path:
    """Write an H.264 file, every frame of one grey and a key frame."""
    import av

    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(
            "libx264", rate=rate, options={"g": "1", "tune": "zerolatency"}
        )
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        if turned:
            stream.set_display_rotation(turned)
        for level in levels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(made_frame(level, size))))
        container.mux(stream.encode(None))
    return path


class MjpegServer:
    """Serves one script for each connection, in order; the last one again and again.

    After a script the connection is cut, except where its last step is STALL.
    """

    def __init__(self, scripts: Sequence[Sequence[Step]]) -> None:
        self.connections = 0
        self.stopping = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                script = scripts[min(server.connections, len(scripts) - 1)]
                server.connections += 1
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                for step in script:
                    if step == STALL:
                        server.stopping.wait(60)
                        return
                    if step == CUT:
                        return
                    try:
                        self.wfile.write(server.body(step))
                    except OSError:  # the reader went away
                        return
                    server.stopping.wait(0.02)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/stream"

    @staticmethod
    def body(step: Step) -> bytes:
        if step == GARBAGE:
            return bytes(range(256)) * 20
        if step == DAMAGED:
            data = bytearray(jpeg(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)))
            data = data[: len(data) // 3]  # no end of its picture
        elif isinstance(step, tuple):
            data = bytearray(jpeg(made_frame(*step)))
        else:
            data = bytearray(jpeg(made_frame(int(step))))
        head = f"\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        return BOUNDARY + head + bytes(data) + b"\r\n"

    @contextmanager
    def running(self) -> Iterator[MjpegServer]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.stopping.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()


@contextmanager
def served(*scripts: Sequence[Step]) -> Iterator[MjpegServer]:
    with MjpegServer(scripts).running() as server:
        yield server
