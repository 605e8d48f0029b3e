"""`samclip serve`: a bundle behind an HTTP port, with a page to try it in the browser."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from samclip.cli import options
from samclip.cli.bundle import PublicKey
from samclip.cli.exits import report_errors
from samclip.cli.given_paths import parse_path
from samclip.cli.terminal import err, say

EXAMPLES = """
**Examples:**

- `samclip serve`, then open http://127.0.0.1:8000 in a browser

- `samclip serve my-bundle/ --port 9000 --threads 2`

- `samclip serve --vocabulary plant.safetensors`, with the names that `samclip teach` has learned

- `samclip serve --host 0.0.0.0 --token-file token.txt --tls-cert cert.pem --tls-key key.pem`
"""
_ACCESS = "Who may ask"
_LIMITS = "Limits"
MIB = 2**20
PACKAGES = ("fastapi", "uvicorn", "prometheus_client", "python_multipart")

Host = Annotated[
    str,
    typer.Option(
        "--host",
        metavar="ADDRESS",
        rich_help_panel=_ACCESS,
        help="The address to listen at. 127.0.0.1 is reached from this machine alone.",
    ),
]
Port = Annotated[
    int,
    typer.Option(
        "--port",
        min=0,
        max=65_535,
        metavar="N",
        rich_help_panel=_ACCESS,
        help="The port; 0 for a free one.",
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        parser=parse_path,
        metavar="FILE",
        envvar="SAMCLIP_TOKEN_FILE",
        rich_help_panel=_ACCESS,
        show_default="none",
        help="A file with the bearer token that requests must carry, 16 characters or more.",
    ),
]
OpenToAll = Annotated[
    bool,
    typer.Option(
        "--open-to-all",
        rich_help_panel=_ACCESS,
        help="Permit a --host that other machines reach, without a token.",
    ),
]
Certificate = Annotated[
    Path | None,
    typer.Option(
        "--tls-cert",
        parser=parse_path,
        metavar="FILE",
        rich_help_panel=_ACCESS,
        show_default="no TLS",
        help="The certificate, with its chain, as PEM.",
    ),
]
Key = Annotated[
    Path | None,
    typer.Option(
        "--tls-key",
        parser=parse_path,
        metavar="FILE",
        rich_help_panel=_ACCESS,
        show_default="no TLS",
        help="The key of the certificate, as PEM.",
    ),
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host",
        metavar="NAME",
        rich_help_panel=_ACCESS,
        show_default="on loopback its own names, else any",
        help="A further name by which clients call the server; may be repeated.",
    ),
]
CorsOrigin = Annotated[
    list[str] | None,
    typer.Option(
        "--cors-origin",
        metavar="URL",
        rich_help_panel=_ACCESS,
        show_default="none",
        help="A site whose pages may ask, as https://example.com; may be repeated.",
    ),
]
MaxPixels = Annotated[
    int,
    typer.Option("--max-pixels", min=1, metavar="N", rich_help_panel=_LIMITS, help="Of an image."),
]
MaxBody = Annotated[
    int,
    typer.Option("--max-body", min=1, metavar="MIB", rich_help_panel=_LIMITS, help="Of a request."),
]
MaxNames = Annotated[
    int,
    typer.Option("--max-names", min=1, metavar="N", rich_help_panel=_LIMITS, help="Of a question."),
]
MaxPrompts = Annotated[
    int,
    typer.Option(
        "--max-prompts", min=1, metavar="N", rich_help_panel=_LIMITS, help="Of a question."
    ),
]
Queue = Annotated[
    int,
    typer.Option(
        "--queue",
        min=0,
        metavar="N",
        rich_help_panel=_LIMITS,
        help="Requests that may wait for the encoder, and as many for the heads; others get 429.",
    ),
]
SceneMemory = Annotated[
    int,
    typer.Option(
        "--scene-memory",
        min=1,
        metavar="MIB",
        rich_help_panel=_LIMITS,
        help="Of all scenes that are kept; the one used longest ago goes first.",
    ),
]
SceneSeconds = Annotated[
    float,
    typer.Option(
        "--scene-seconds",
        min=1,
        metavar="SECONDS",
        rich_help_panel=_LIMITS,
        help="How long a scene stays after its last use.",
    ),
]
DrainSeconds = Annotated[
    float,
    typer.Option(
        "--drain-seconds",
        min=1,
        metavar="SECONDS",
        rich_help_panel=_LIMITS,
        help="How long requests under way may take after SIGTERM.",
    ),
]
Streams = Annotated[
    int,
    typer.Option(
        "--streams",
        min=1,
        metavar="N",
        help="Encode N images at once, each with its share of the cores.",
    ),
]


def serve(
    bundle: options.BundleArgument = None,
    vocabulary: options.SavedNames = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token_file: TokenFile = None,
    open_to_all: OpenToAll = False,
    tls_cert: Certificate = None,
    tls_key: Key = None,
    allow_host: AllowHost = None,
    cors_origin: CorsOrigin = None,
    backend: options.Backend = "auto",
    device: options.Device = None,
    precision: options.Precision = None,
    engine_precision: options.EnginePrecision = None,
    threads: options.Threads = None,
    streams: Streams = 1,
    timeout: options.Timeout = None,
    public_key: PublicKey = None,
    max_pixels: MaxPixels = 40_000_000,
    max_body: MaxBody = 32,
    max_names: MaxNames = 2000,
    max_prompts: MaxPrompts = 256,
    queue: Queue = 16,
    scene_memory: SceneMemory = 1024,
    scene_seconds: SceneSeconds = 600.0,
    drain_seconds: DrainSeconds = 30.0,
    verbose: options.Verbose = 0,
    debug: options.Debug = False,
) -> None:
    """Serve a bundle over HTTP: JSON answers, scenes to ask again, and a page for the browser.

    The page is at /, the description of all paths at /docs. The log goes to stderr, one JSON object
    a line. After SIGTERM or Ctrl-C no request is accepted, and those under way are answered.
    """
    with report_errors(debug, verbose):
        import samclip
        from samclip.errors import InputError

        if lacking := [name for name in PACKAGES if find_spec(name) is None]:
            raise InputError(
                f"`samclip serve` needs {', '.join(lacking)}. Install: pip install "
                "'samclip[serve]'."
            )
        from samclip.server.run import log_to_stderr
        from samclip.server.run import serve as serve_model
        from samclip.server.settings import Limits, ServerSettings, read_token

        settings = ServerSettings(
            host=host,
            port=port,
            token=None if token_file is None else read_token(token_file),
            open_to_all=open_to_all,
            certificate=tls_cert,
            key=tls_key,
            hosts=tuple(allow_host or ()),
            origins=tuple(cors_origin or ()),
            drain_seconds=drain_seconds,
            limits=Limits(
                pixels=max_pixels,
                body_bytes=max_body * MIB,
                names=max_names,
                prompts=max_prompts,
                queue=queue,
                scene_bytes=scene_memory * MIB,
                scene_seconds=scene_seconds,
            ),
        )
        saved = None if vocabulary is None else samclip.load_vocabulary(vocabulary)
        log_to_stderr(logging.DEBUG if verbose else logging.INFO)
        model = samclip.load(
            bundle,
            backend,
            precision=precision,
            engine_precision=engine_precision,
            threads=threads,
            streams=streams,
            device=device,
            public_key=public_key,
            max_pixels=max_pixels,
            timeout=timeout,
        )
        with model:
            try:
                serve_model(model, settings, streams, announce, saved)
            except KeyboardInterrupt:  # the signal, after all requests were answered
                say(err, "stopped; all requests under way were answered or given up")


def announce(address: str) -> None:
    """Print on stderr where the server listens."""
    say(err, f"{address} serves the page, {address}/docs describes the paths; Ctrl-C ends it")
