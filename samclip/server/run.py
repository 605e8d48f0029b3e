"""Start and end of a server: its socket, its log, the model made warm, and a graceful drain."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import uvicorn
from numpy.typing import NDArray

from samclip.errors import SamclipError, ServerError, collect_warnings
from samclip.runtime.model import Model
from samclip.runtime.text.vocabulary import Vocabulary
from samclip.server.app import make_app
from samclip.server.connection import guarded
from samclip.server.gate import JsonLines
from samclip.server.metrics import Metrics
from samclip.server.service import Service
from samclip.server.settings import ServerSettings

KEEP_ALIVE_SECONDS = 15
BACKLOG = 256
LOOK_SECONDS = 0.05  # between looks at whether the server is to end
WARM_SIDE = 64  # pixels of the image that the graphs are first run on
logger = logging.getLogger("samclip.server")


class Server:
    """A model behind a port, from the socket to the app.

    Made, it listens: connections wait until `run` is called. `saved`: see `Service`. Raises
    ServerError where the address cannot be had or TLS's files cannot be used, VocabularyError.
    """

    def __init__(
        self,
        model: Model,
        settings: ServerSettings,
        streams: int = 1,
        saved: Vocabulary | None = None,
    ) -> None:
        self.metrics = Metrics()
        self.service = Service(model, settings.limits, self.metrics, streams, saved)
        gate = make_app(self.service, settings, self.metrics, self._count_connections)
        protocol: Any = guarded(settings.limits, gate.refuse)  # in place of a class
        config = uvicorn.Config(
            gate,
            http=protocol,
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
            backlog=BACKLOG,
        )
        config.load()
        config.ssl = _tls(settings)
        self._server = uvicorn.Server(config)
        self._listener = listen(settings)
        host, port = self._listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        scheme = "http" if settings.certificate is None else "https"
        self.address = f"{scheme}://{shown}:{port}"

    async def run(self, started: Callable[[], object] | None = None) -> None:
        """Answer until `stop`, or in the main thread SIGTERM or SIGINT, which is raised again.

        `started` is called when the server answers. At the end no connection is accepted, /readyz
        answers 503 on those that are open, and what is under way has `drain_seconds`.
        """
        watch = asyncio.create_task(self._follow(started or (lambda: None)))
        try:
            await self._server.serve(sockets=[self._listener])
        finally:
            watch.cancel()
            self._listener.close()

    def _count_connections(self) -> int:
        return len(self._server.server_state.connections)

    def stop(self) -> None:
        """End the server as SIGTERM does; may be called from any thread."""
        self._server.should_exit = True

    async def _follow(self, started: Callable[[], object]) -> None:
        """Report that the server answers, and close the service's door once it is to end."""
        while not self._server.started:
            await asyncio.sleep(LOOK_SECONDS)
        started()
        while not self._server.should_exit:
            await asyncio.sleep(LOOK_SECONDS)
        self.service.is_open = False
        requests = len(self._server.server_state.tasks)
        logger.info("drain", extra={"fields": {"requests": requests}})


def serve(
    model: Model,
    settings: ServerSettings,
    streams: int = 1,
    started: Callable[[str], object] | None = None,
    saved: Vocabulary | None = None,
) -> None:
    """Serve a model until SIGTERM or SIGINT, see `Server`; call it in the main thread.

    The graphs have run once before the first request. `started` is called with the address.
    """
    server = Server(model, settings, streams, saved)
    warm_up(model)
    fields = {"address": server.address, "bundle": model.manifest.name}
    logger.info("start", extra={"fields": fields})
    asyncio.run(server.run(partial(started or str, server.address)))


def listen(settings: ServerSettings) -> socket.socket:
    """Return a socket that listens at the address of the settings; raises ServerError."""
    host = settings.host.strip("[]")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise ServerError(
            f"the server cannot listen at {settings.host}, port {settings.port}: "
            f"{error.strerror or error}. Choose another host or port."
        ) from error
    listener.setblocking(False)
    return listener


def _tls(settings: ServerSettings) -> ssl.SSLContext | None:
    """Return the context of TLS, 1.2 or newer; None without a certificate."""
    if settings.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except (ssl.SSLError, OSError) as error:
        raise ServerError(
            f"the certificate {settings.certificate} and its key cannot be used for TLS: "
            f"{error.strerror or error}. Give a PEM certificate and the key that belongs to it."
        ) from error
    return context


def warm_up(model: Model) -> None:
    """Run each graph that questions need once, so that no request waits for loads."""
    for canvas in model.bundle.canvases:
        height, width = (max(1, WARM_SIDE * side // max(canvas)) for side in canvas)
        _warm_up(model, np.full((height, width, 3), 128, np.uint8))


def _warm_up(model: Model, grey: NDArray[np.uint8]) -> None:
    centre = [(grey.shape[1] / 2, grey.shape[0] / 2)]
    with collect_warnings(), model.encode(grey) as scene:
        scene.segment(points=centre)
        if model.manifest.head is not None and model.manifest.text is not None:
            try:
                scene.classify(["a photo"])
            except SamclipError as error:  # of a bundle with ready-made names alone
                logger.debug("warm-up without names: %s", error)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Write the log of the server to stderr, one JSON object a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("samclip.server", "uvicorn.error"):
        named = logging.getLogger(name)
        named.handlers[:] = [handler]
        named.setLevel(level if name == "samclip.server" else logging.WARNING)
        named.propagate = False
