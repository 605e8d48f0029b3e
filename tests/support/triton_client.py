"""NVIDIA's own client of Triton, fetched once through pip.

It asks for an older protobuf than this environment has, so it cannot be installed there. It works
with this one, and is put behind all else on the path.
"""

from __future__ import annotations

from typing import Any

from fetched_packages import fetched, import_from

PACKAGES = ("tritonclient==2.73.0", "grpcio==1.85.3", "python-rapidjson==1.25")


def import_client(module: str) -> Any:
    """Import a module of the client, as "tritonclient.grpc"; skip where it cannot be fetched."""
    folder = fetched("triton-client-2.73.0", PACKAGES, "Triton's client")
    return import_from(folder, module)


def parse_config(text: str) -> Any:
    """Read a `config.pbtxt` as `ModelConfig`; fails for text that is none, as an unknown field."""
    messages = import_client("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format

    return text_format.Parse(text, messages.ModelConfig())
