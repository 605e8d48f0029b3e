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
    SignatureError,
    TrainingError,
    UnknownBackendError,
    UnsafePathError,
    UntrainedHeadWarning,
    VocabularyError,
    WriteError,
)
from samclip.version import __version__

if TYPE_CHECKING:
    from samclip.engines.device_tensor import DeviceTensor
    from samclip.runtime.formats.annotations import AnnotationWriter
    from samclip.runtime.mask_generator import SamAutomaticMaskGenerator
    from samclip.runtime.model import Model, load
    from samclip.runtime.predictor import SamPredictor
    from samclip.runtime.results.classification import Classification, SemanticMap
    from samclip.runtime.results.coco_export import write_coco
    from samclip.runtime.results.device_masks import DeviceMasks
    from samclip.runtime.results.masks import AutoMasks, Masks
    from samclip.runtime.scene import Scene
    from samclip.runtime.text.templates import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES
    from samclip.runtime.text.vocabulary import Vocabulary

__all__ = [
    "OPENAI_IMAGENET_TEMPLATES",
    "SIMPLE_IMAGENET_TEMPLATES",
    "AnnotationWriter",
    "AutoMasks",
    "BackendUnavailableError",
    "BundleError",
    "BundleNotFoundError",
    "CalibrationError",
    "CapabilityError",
    "CheckpointError",
    "Classification",
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
    "GateError",
    "GraphError",
    "ImageError",
    "InputError",
    "InputWarning",
    "IntegrityError",
    "ManifestError",
    "Masks",
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
    "SamAutomaticMaskGenerator",
    "SamPredictor",
    "SamclipError",
    "SamclipWarning",
    "Scene",
    "SemanticMap",
    "SignatureError",
    "TrainingError",
    "UnknownBackendError",
    "UnsafePathError",
    "UntrainedHeadWarning",
    "Vocabulary",
    "VocabularyError",
    "WriteError",
    "__version__",
    "load",
    "write_coco",
]

_HOMES = {
    "AnnotationWriter": "formats.annotations",
    "AutoMasks": "results.masks",
    "Classification": "results.classification",
    "DeviceMasks": "results.device_masks",
    "DeviceTensor": "results.device_masks",
    "Masks": "results.masks",
    "Model": "model",
    "OPENAI_IMAGENET_TEMPLATES": "text.templates",
    "SIMPLE_IMAGENET_TEMPLATES": "text.templates",
    "SamAutomaticMaskGenerator": "mask_generator",
    "SamPredictor": "predictor",
    "Scene": "scene",
    "SemanticMap": "results.classification",
    "Vocabulary": "text.vocabulary",
    "load": "model",
    "write_coco": "results.coco_export",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'samclip' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"samclip.runtime.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
