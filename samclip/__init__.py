"""Edge inference for merged vision foundation models: one encoder pass serves every task.

::

    import samclip

    model = samclip.load()
    scene = model.encode("street.jpg")
    scene.classify(["a street", "a kitchen"])
    scene.segment(points=[(420, 310)])
    scene.semantic(["road", "car", "sky"])
    scene.everything()

Names are imported on first use, so that `import samclip` alone stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from samclip.errors import (
    BackendUnavailableError,
    BatchError,
    BundleError,
    BundleNotFoundError,
    CalibrationError,
    CapabilityError,
    CheckpointError,
    ClosedError,
    ConfigError,
    CountError,
    DeployBusyError,
    DeployError,
    DeviceMemoryError,
    EngineError,
    EngineRunError,
    EngineTimeoutError,
    ExportError,
    GateError,
    GraphError,
    ImageError,
    InputError,
    InputWarning,
    IntegrityError,
    ManifestError,
    ParityError,
    PeerError,
    PlanBuildError,
    PlanDamagedError,
    PlanError,
    PlanForeignError,
    PlanGateError,
    PlanMissingError,
    PlanStaleError,
    PromptError,
    SamclipError,
    SamclipWarning,
    ServerBusyError,
    ServerError,
    SignatureError,
    StreamDamagedError,
    StreamError,
    StreamLostError,
    StreamOpenError,
    StreamTimeoutError,
    TrainingError,
    UnknownBackendError,
    UnsafePathError,
    UntrainedHeadWarning,
    VocabularyError,
    WriteError,
)
from samclip.version import __version__

if TYPE_CHECKING:
    from samclip.client.client import Client
    from samclip.client.remote_scene import RemoteScene
    from samclip.engines.device_tensor import DeviceTensor
    from samclip.runtime.formats.annotations import AnnotationWriter
    from samclip.runtime.loading import load
    from samclip.runtime.mask_generator import SamAutomaticMaskGenerator
    from samclip.runtime.model import Model
    from samclip.runtime.predictor import SamPredictor
    from samclip.runtime.results.classification import Classification, SemanticMap
    from samclip.runtime.results.coco_export import write_coco
    from samclip.runtime.results.device_masks import DeviceMasks
    from samclip.runtime.results.masks import AutoMasks, Masks
    from samclip.runtime.scene import Scene
    from samclip.runtime.tasks.follow import Memory
    from samclip.runtime.text.templates import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES
    from samclip.runtime.text.vocabulary import Vocabulary, load_vocabulary
    from samclip.video.answers import FrameResult
    from samclip.video.frames import Frame
    from samclip.video.stream import VideoStream, open_video
    from samclip.video.tracks import Tracks
    from samclip.video.watch import Watch

__all__ = [
    "OPENAI_IMAGENET_TEMPLATES",
    "SIMPLE_IMAGENET_TEMPLATES",
    "AnnotationWriter",
    "AutoMasks",
    "BackendUnavailableError",
    "BatchError",
    "BundleError",
    "BundleNotFoundError",
    "CalibrationError",
    "CapabilityError",
    "CheckpointError",
    "Classification",
    "Client",
    "ClosedError",
    "ConfigError",
    "CountError",
    "DeployBusyError",
    "DeployError",
    "DeviceMasks",
    "DeviceMemoryError",
    "DeviceTensor",
    "EngineError",
    "EngineRunError",
    "EngineTimeoutError",
    "ExportError",
    "Frame",
    "FrameResult",
    "GateError",
    "GraphError",
    "ImageError",
    "InputError",
    "InputWarning",
    "IntegrityError",
    "ManifestError",
    "Masks",
    "Memory",
    "Model",
    "ParityError",
    "PeerError",
    "PlanBuildError",
    "PlanDamagedError",
    "PlanError",
    "PlanForeignError",
    "PlanGateError",
    "PlanMissingError",
    "PlanStaleError",
    "PromptError",
    "RemoteScene",
    "SamAutomaticMaskGenerator",
    "SamPredictor",
    "SamclipError",
    "SamclipWarning",
    "Scene",
    "SemanticMap",
    "ServerBusyError",
    "ServerError",
    "SignatureError",
    "StreamDamagedError",
    "StreamError",
    "StreamLostError",
    "StreamOpenError",
    "StreamTimeoutError",
    "Tracks",
    "TrainingError",
    "UnknownBackendError",
    "UnsafePathError",
    "UntrainedHeadWarning",
    "VideoStream",
    "Vocabulary",
    "VocabularyError",
    "Watch",
    "WriteError",
    "__version__",
    "load",
    "load_vocabulary",
    "open_video",
    "write_coco",
]

_HOMES = {
    "AnnotationWriter": "runtime.formats.annotations",
    "AutoMasks": "runtime.results.masks",
    "Classification": "runtime.results.classification",
    "Client": "client.client",
    "DeviceMasks": "runtime.results.device_masks",
    "DeviceTensor": "runtime.results.device_masks",
    "Frame": "video.frames",
    "FrameResult": "video.answers",
    "Masks": "runtime.results.masks",
    "Memory": "runtime.tasks.follow",
    "Model": "runtime.model",
    "OPENAI_IMAGENET_TEMPLATES": "runtime.text.templates",
    "RemoteScene": "client.remote_scene",
    "SIMPLE_IMAGENET_TEMPLATES": "runtime.text.templates",
    "SamAutomaticMaskGenerator": "runtime.mask_generator",
    "SamPredictor": "runtime.predictor",
    "Scene": "runtime.scene",
    "SemanticMap": "runtime.results.classification",
    "Tracks": "video.tracks",
    "VideoStream": "video.stream",
    "Vocabulary": "runtime.text.vocabulary",
    "Watch": "video.watch",
    "load": "runtime.loading",
    "load_vocabulary": "runtime.text.vocabulary",
    "open_video": "video.stream",
    "write_coco": "runtime.results.coco_export",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'samclip' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"samclip.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
