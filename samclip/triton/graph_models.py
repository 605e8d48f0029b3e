"""The graphs of a bundle as models of Triton: the back end of each, its tensors, batches, files.

Shapes and types are read from the graph's bytes, or from its TensorRT plan, and not from the
manifest. A graph has a batch axis where all of its inputs and outputs begin with one dynamic size.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from samclip.engines.base import GraphSource
from samclip.engines.graphs.signature import TensorSignature
from samclip.engines.limits import MAX_CROPS, PROMPTS_PER_BATCH
from samclip.engines.plans.sidecar import PlanTensor
from samclip.engines.plans.store import StoredPlan, list_plans, read_plan, search_folders
from samclip.engines.steps import BuildPlans
from samclip.errors import DeployError, PlanGateError, PlanMissingError
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import base_name
from samclip.runtime.plans.state import find_variant
from samclip.triton.config_text import ANY, Kind, ModelConfig, TensorConfig

TritonBackend = Literal["onnxruntime", "openvino", "tensorrt", "python"]
BACKENDS: tuple[TritonBackend, ...] = ("onnxruntime", "openvino", "tensorrt", "python")
MODEL_FILE, PLAN_FILE = "model.onnx", "model.plan"
BATCHES = {"texts": PROMPTS_PER_BATCH, "crops": MAX_CROPS}  # the most of each batch axis
QUEUE_DELAY_US = 500  # for which a request may wait for others to share its batch


@dataclass(frozen=True)
class GraphModel:
    """One graph as a model: its configuration, and the files of its version by name.

    `token_rows` is that of the graph's signature.
    """

    graph: str
    config: ModelConfig
    files: Mapping[str, bytes]
    precision: str
    token_rows: int | None = None


@dataclass(frozen=True)
class GraphSettings:
    """How graphs are served: by which of Triton's back ends, where, and how many at once.

    `engine`: for "python", the backend of samclip that runs them; `threads`: of the CPU for one
    run, None for the library's own choice; `capability`: that of the GPU whose plans are taken,
    None where there are plans for one kind alone.
    """

    backend: TritonBackend = "onnxruntime"
    device: Kind = "cpu"
    gpu: int = 0
    engine: str = "onnxruntime"
    precision: str | None = None
    instances: int = 1
    threads: int | None = None
    capability: str | None = None

    @property
    def reader(self) -> str:
        """The backend of samclip whose variants of the graphs are taken."""
        if self.backend == "onnxruntime" and self.device == "gpu":
            return "cuda"
        return self.engine if self.backend == "python" else self.backend


def make_graph_model(bundle: Bundle, graph: str, name: str, settings: GraphSettings) -> GraphModel:
    """Make the model called `name` of a graph of the bundle; reads and checks its files.

    Raises DeployError, PlanError for a plan, and what `Bundle.source` raises.
    """
    source = bundle.source(graph, settings.reader, _precision(bundle, graph, settings))
    signature = source.signature
    if signature is None:
        raise DeployError(f"the graph {graph!r} was not checked. Open the bundle from its folder.")
    if settings.backend == "tensorrt":
        plan = find_plan(bundle, graph, source.precision, settings.capability)
        inputs, outputs, batch = _plan_tensors(plan)
        files = {PLAN_FILE: read_plan(plan)}
    else:
        axis = batch_axis([*signature.inputs, *signature.outputs])
        batch = BATCHES.get(axis or "", 0)
        inputs = tuple(_tensor(each, batch > 0) for each in signature.inputs)
        outputs = tuple(_tensor(each, batch > 0) for each in signature.outputs)
        files = onnx_files(source)
    config = ModelConfig(
        name=name,
        backend=settings.backend,
        platform={"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}.get(
            settings.backend, ""
        ),
        file=MODEL_FILE if settings.backend == "openvino" else "",
        inputs=inputs,
        outputs=outputs,
        max_batch_size=batch,
        queue_delay_us=QUEUE_DELAY_US,
        count=settings.instances,
        kind=settings.device,
        gpu=settings.gpu,
        parameters=_parameters(settings),
    )
    return GraphModel(graph, config, files, source.precision, signature.token_rows)


def batch_axis(tensors: Iterable[TensorSignature]) -> str | None:
    """Return the name of the batch axis: the dynamic size with which every tensor begins."""
    firsts = {tensor.dims[0] if tensor.dims else None for tensor in tensors}
    (first, *others) = firsts or {None}
    return first if isinstance(first, str) and not others else None


def onnx_files(source: GraphSource) -> dict[str, bytes]:
    """Return a graph's file and the weights files that it names, by their places in one folder.

    ONNX Runtime and OpenVINO look for weights from the graph's folder on, and not above it.
    Raises DeployError for weights elsewhere.
    """
    files = {MODEL_FILE: source.onnx, **source.files}
    for name in source.files:
        if posixpath.normpath(name) != name or name.startswith(("/", "..")) or name == MODEL_FILE:
            raise DeployError(
                f"the graph {source.name!r} keeps its weights in {name!r}, outside its "
                "folder, where Triton's back ends do not look. Export the bundle again."
            )
    return files


def find_plan(bundle: Bundle, graph: str, precision: str, capability: str | None) -> StoredPlan:
    """Find the newest TensorRT plan of a graph that Triton can load; reads sidecars alone.

    Raises PlanMissingError, PlanGateError for one that did not agree with FP32, and DeployError
    where plans for several kinds of GPU are there and none is named.
    """
    found = [
        stored
        for stored in list_plans(search_folders(str(bundle.path)))
        if (built := stored.sidecar) is not None
        and built.library == "tensorrt"
        and built.serves.name == graph
        and built.serves.precision == precision
        and not built.options.strip_weights  # Triton does not refit plans
        and find_variant(bundle.manifest, built.serves) is not None
        and capability in {None, *built.target.capabilities}
    ]
    kinds = sorted({", ".join(one.sidecar.target.capabilities) for one in found if one.sidecar})
    if not found:
        wanted = f" for compute capability {capability}" if capability else ""
        raise PlanMissingError(
            f"there is no TensorRT plan of {graph!r} in {precision}{wanted} that holds its "
            "weights. Build it on the GPU that Triton will use, by the TensorRT of Triton's image.",
            steps=(BuildPlans(),),
        )
    if len(kinds) > 1:
        raise DeployError(
            f"there are plans of {graph!r} for GPUs of the compute capabilities "
            f"{'; '.join(kinds)}. Say which GPU Triton will use."
        )
    stored = found[0]
    if stored.sidecar is not None and stored.sidecar.gate.state == "failed":
        raise PlanGateError(
            f"the plan {stored.path} of {graph!r} does not agree with FP32, so it is not served. "
            "Build it again, or choose another precision."
        )
    return stored


def _precision(bundle: Bundle, graph: str, settings: GraphSettings) -> str | None:
    """Return the precision asked for where the graph has it; the encoder must have it."""
    described = bundle.manifest.graph(graph)
    wanted = settings.precision
    if described is None or base_name(graph) == "encoder":
        return wanted
    return wanted if described.variant_for(settings.reader, wanted) is not None else None


def _tensor(tensor: TensorSignature, batched: bool) -> TensorConfig:
    dims = tuple(dim if isinstance(dim, int) else ANY for dim in tensor.dims)
    return TensorConfig(tensor.name, tensor.dtype, dims[1:] if batched else dims)


def _plan_tensors(
    stored: StoredPlan,
) -> tuple[tuple[TensorConfig, ...], tuple[TensorConfig, ...], int]:
    """Return a plan's inputs, outputs and largest batch, 0 where it has no batch axis."""
    tensors: Sequence[PlanTensor] = () if stored.sidecar is None else stored.sidecar.tensors
    inputs = [tensor for tensor in tensors if tensor.mode == "input"]
    batch = 0
    if tensors and all(tensor.shape[:1] == (ANY,) for tensor in tensors) and len(inputs) == 1:
        batch = (inputs[0].most or (0,))[0]

    def config(tensor: PlanTensor) -> TensorConfig:
        dims = tensor.shape[1:] if batch else tensor.shape
        return TensorConfig(tensor.name, tensor.dtype, dims)

    outputs = [tensor for tensor in tensors if tensor.mode == "output"]
    return tuple(map(config, inputs)), tuple(map(config, outputs)), batch


def _parameters(settings: GraphSettings) -> dict[str, str]:
    found: dict[str, str] = {}
    if settings.threads is not None and settings.backend != "tensorrt":
        key = {"onnxruntime": "intra_op_thread_count", "openvino": "INFERENCE_NUM_THREADS"}
        found[key.get(settings.backend, "threads")] = str(settings.threads)
    if settings.backend == "python":
        found["engine"] = settings.engine
    return found
