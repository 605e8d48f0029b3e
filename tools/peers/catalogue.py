"""The catalogue of peers: their environments, workers, and exported files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tools.peers.environments import Environment

WORKERS = Path(__file__).parent / "workers"

# segment-anything asks for torchvision in its code but not in its metadata; only its modules of
# models are imported, which do without.
TORCH = Environment(
    "torch",
    ("torch==2.13.0", "numpy", "pillow", "onnx==1.23.2"),
    bare=("segment-anything==1.0",),
)
TRANSFORMERS = Environment(
    "transformers", ("torch==2.13.0", "transformers==5.23.0", "numpy", "pillow")
)
ONNXRUNTIME = Environment("onnxruntime", ("onnxruntime==1.31.1", "numpy", "pillow"))
OPENVINO = Environment("openvino", ("openvino==2026.4.1", "numpy", "pillow"))
SAMEXPORTER = Environment("samexporter", ("samexporter[runtime-cpu]==0.5.0", "pillow"))


@dataclass(frozen=True)
class PeerExport:
    """Files that a worker of `environment` makes by its `export`, once for all runs."""

    name: str
    environment: Environment
    worker: Path


@dataclass(frozen=True)
class Peer:
    """A way to run a model. `checkpoint`: None for random weights, or a packaged one's name."""

    name: str
    what: str
    environment: Environment
    worker: Path
    options: Mapping[str, bool] = field(default_factory=dict)
    export: PeerExport | None = None
    checkpoint: str | None = None
    takes_checkpoint: bool = False


NAIVE = PeerExport("reference-onnx", TORCH, WORKERS / "reference_torch.py")
MOBILE = PeerExport("samexporter-mobile", SAMEXPORTER, WORKERS / "samexporter_mobile.py")

PEERS = (
    Peer(
        "torch-eager",
        "the reference ViT-B encoder (segment-anything 1.0) in torch",
        TORCH,
        WORKERS / "reference_torch.py",
        takes_checkpoint=True,
    ),
    Peer(
        "torch-compile",
        "the same under torch.compile",
        TORCH,
        WORKERS / "reference_torch.py",
        options={"compile": True},
        takes_checkpoint=True,
    ),
    Peer(
        "transformers",
        "transformers' SamModel (ViT-B) and CLIPModel (ViT-B/16), all three tasks",
        TRANSFORMERS,
        WORKERS / "transformers_pair.py",
    ),
    Peer(
        "naive-onnxruntime",
        "torch.onnx.export of the reference ViT-B encoder in ONNX Runtime",
        ONNXRUNTIME,
        WORKERS / "naive_onnxruntime.py",
        export=NAIVE,
        takes_checkpoint=True,
    ),
    Peer(
        "naive-openvino",
        "the same file in OpenVINO",
        OPENVINO,
        WORKERS / "naive_openvino.py",
        export=NAIVE,
        takes_checkpoint=True,
    ),
    Peer(
        "samexporter-mobile",
        "samexporter's export of MobileSAM, its real weights, in ONNX Runtime",
        SAMEXPORTER,
        WORKERS / "samexporter_mobile.py",
        export=MOBILE,
        checkpoint="mobile_sam",
    ),
)
