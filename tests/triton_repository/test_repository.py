"""Model repositories: what Triton's own classes read, whole or absent, and nothing foreign lost."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fake_triton import FRONT, FakeRequest, FakeTensor, fake_triton
from plan_samples import sample_sidecar
from tiny_bundle import write_tiny_bundle
from triton_client import parse_config

from samclip.engines.base import GraphSource
from samclip.engines.graphs.signature import TensorSignature
from samclip.engines.plans.gate.verdict import Verdict
from samclip.engines.plans.sidecar import AxisRange, BuildOptions, BuiltFor, PlanTensor, identify
from samclip.engines.plans.store import plan_folder, write_plan
from samclip.errors import (
    DeployError,
    InputError,
    IntegrityError,
    PlanGateError,
    PlanMissingError,
)
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.home import find_bundle
from samclip.runtime.bundles.manifest import base_name
from samclip.runtime.graph_outputs import STAND_INS
from samclip.triton import repository as repository_module
from samclip.triton.config_text import ModelConfig, TensorConfig, quote
from samclip.triton.graph_models import GraphSettings, batch_axis, make_graph_model, onnx_files
from samclip.triton.records import GRAPH_RECORD, MARKER, read_graph
from samclip.triton.repository import RepositorySettings, verify_repository, write_repository


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "python"])
def test_configurations_have_the_shapes_and_types_of_the_graphs(
    backend: Any, tmp_path: Path
) -> None:
    graphs = GraphSettings(backend=backend, threads=2, instances=3)
    record = write_repository("samclip-tiny", tmp_path / "r", RepositorySettings(graphs, FRONT))
    bundle = Bundle.open(find_bundle("samclip-tiny"))
    served = {
        name: graph
        for name, graph in bundle.manifest.all_graphs.items()
        if base_name(name) not in STAND_INS  # the mask decoder answers all prompts
    }
    assert set(record.models) == {FRONT, *(f"{FRONT}-{name}" for name in served)}
    numbers = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}
    for name, graph in served.items():
        folder = tmp_path / "r" / f"{FRONT}-{name}"
        config = parse_config((folder / "config.pbtxt").read_text())
        assert (config.name, config.backend) == (folder.name, backend)
        batched = name == "text_encoder"  # alone has one dynamic size in front of all its tensors
        assert config.max_batch_size == (64 if batched else 0)
        assert config.HasField("dynamic_batching") is batched
        (group,) = config.instance_group
        assert (group.count, group.KIND_CPU) == (3, group.kind)
        for found, declared in ((config.input, graph.inputs), (config.output, graph.outputs)):
            shapes = {
                one.name: [dim if isinstance(dim, int) else -1 for dim in one.shape]
                for one in declared
            }
            types = {one.name: numbers[one.dtype] for one in declared}
            dims = {one.name: [*([-1] if batched else []), *one.dims] for one in found}
            assert dims == shapes
            kinds = type(config.input[0]).DESCRIPTOR.fields_by_name["data_type"].enum_type
            assert {o.name: kinds.values_by_number[o.data_type].name for o in found} == types
        files = {path.name for path in (folder / "1").iterdir()}
        assert {"model.onnx", graph.variants[0].weights} <= files  # where ONNX Runtime looks for it
        if backend == "openvino":
            assert config.default_model_filename == "model.onnx"
        if backend == "python":
            assert read_graph(folder / "1")[1].signature is not None
    front = parse_config((tmp_path / "r" / FRONT / "config.pbtxt").read_text())
    assert all(each.optional for each in front.input)
    assert front.sequence_batching.oldest.max_candidate_sequences == 16
    assert front.sequence_batching.max_sequence_idle_microseconds == 300_000_000
    assert verify_repository(tmp_path / "r") == record
    sizes = [path.stat().st_size for path in (tmp_path / "r").rglob("*") if path.is_file()]
    left_out = {
        graph.variants[0].file
        for name, graph in bundle.manifest.all_graphs.items()
        if name not in served
    }
    held = {
        name: entry.size for name, entry in bundle.manifest.files.items() if name not in left_out
    }
    shared = [graph.variants[0].weights for graph in served.values() if graph.variants[0].weights]
    copies = sum(held[name] for name in shared) - sum(held[name] for name in set(shared))
    total = sum(held.values()) + copies  # each model's folder holds all that it needs
    assert total < sum(sizes) < total + 400_000


def test_a_gpu_keeps_what_runs_on_it_together(tmp_path: Path) -> None:
    graphs = GraphSettings(device="gpu", gpu=1)
    write_repository("samclip-tiny", tmp_path / "r", RepositorySettings(graphs, FRONT, fronts=4))
    for folder in (path for path in (tmp_path / "r").iterdir() if path.is_dir()):
        (group,) = parse_config((folder / "config.pbtxt").read_text()).instance_group
        assert (group.kind, list(group.gpus)) == (group.KIND_GPU, [1])
        assert group.count == (4 if folder.name == FRONT else 1)
    front = json.loads((tmp_path / "r" / FRONT / "1" / "front.json").read_text())
    assert (front["device"], front["gpu"]) == ("gpu", 1)


def test_other_folders_are_never_replaced(tmp_path: Path) -> None:
    place = tmp_path / "r"
    place.mkdir()
    (place / ".DS_Store").touch()
    settings = RepositorySettings()
    write_repository("samclip-tiny", place, settings)  # an empty folder, but for rubbish
    with pytest.raises(DeployError, match="holds a repository of the bundle 'samclip-tiny'"):
        write_repository("samclip-tiny", place, settings)
    again = RepositorySettings(name="other", overwrite=True)
    assert write_repository("samclip-tiny", place, again).models[0] == "other"
    assert not (place / "samclip-tiny").exists()
    (place / "their-model").mkdir()
    before = sorted(place.rglob("*"))
    with pytest.raises(DeployError, match="'their-model', which samclip did not write"):
        write_repository("samclip-tiny", place, again)
    assert sorted(place.rglob("*")) == before
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").touch()
    link = tmp_path / "link"
    link.symlink_to(place)
    inside = write_tiny_bundle(tmp_path / "bundle")
    for target, message in (
        (foreign, "something other than a model repository"),
        (link, "is a link or a file"),
        (inside / "r", "lies in the bundle"),
    ):
        with pytest.raises(DeployError, match=message):
            write_repository(inside, target, again)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "foreign", "link", "r"]


def test_a_failure_leaves_the_old_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "r"
    bundle = write_tiny_bundle(tmp_path / "bundle")
    record = write_repository(bundle, place)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(repository_module, "sync_tree", fail)
    with pytest.raises(OSError, match="could not be written"):
        write_repository(bundle, place, RepositorySettings(overwrite=True, name="new"))
    assert verify_repository(place) == record
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "r"]


def test_changed_files_are_found(tmp_path: Path) -> None:
    place = tmp_path / "r"
    graphs = GraphSettings(backend="python")
    write_repository(write_tiny_bundle(tmp_path / "bundle"), place, RepositorySettings(graphs, "t"))
    weights = next((place / "t-encoder" / "1").glob("*.safetensors"))
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + b"?")
    with pytest.raises(IntegrityError, match="changed"):
        verify_repository(place)
    with pytest.raises(IntegrityError, match="were deployed"):  # what Triton would load
        read_graph(place / "t-encoder" / "1")
    weights.write_bytes(data)
    verify_repository(place)
    (place / "t" / "1" / "model2.py").touch()
    with pytest.raises(IntegrityError, match="was added"):
        verify_repository(place)
    (place / "t" / "1" / "model2.py").unlink()
    (place / "t-encoder" / "1" / GRAPH_RECORD).unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        verify_repository(place)
    (place / MARKER).write_text("{}")
    with pytest.raises(DeployError, match="cannot be read as a record"):
        verify_repository(place)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"graphs": {"backend": "tensorrt"}}, "TensorRT runs on GPUs"),
        ({"graphs": {"backend": "openvino", "device": "gpu"}}, "on the CPU alone"),
        ({"graphs": {"backend": "python", "device": "gpu"}}, "copy features to the host"),
        ({"graphs": {"backend": "python", "engine": "cuda"}}, "by onnxruntime or openvino"),
        ({"graphs": {"backend": "pytorch"}}, "Triton runs graphs by"),
        ({"graphs": {"instances": 0}}, "instances must be from 1"),
        ({"scenes": 5000}, "scenes must be from 1"),
        ({"idle_seconds": 0.0}, "1 to 86,400 s"),
        ({"name": "../x"}, "a model's name has letters"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RepositorySettings(**{**settings, "graphs": GraphSettings(**settings.get("graphs", {}))})


def test_a_batch_axis_is_one_size_in_front_of_every_tensor() -> None:
    def tensors(*dims: tuple[int | str, ...]) -> list[TensorSignature]:
        return [TensorSignature(f"t{index}", "float32", each) for index, each in enumerate(dims)]

    assert batch_axis(tensors(("texts", 64), ("texts", 510))) == "texts"
    assert batch_axis(tensors(("prompts", 2), (1, 256))) is None
    assert batch_axis(tensors(("height",), ("width",))) is None
    assert batch_axis(tensors((1, 3), (1, 4))) is None
    assert batch_axis(tensors(("texts",), ())) is None
    outside = GraphSource("encoder", b"", files={"../weights": b""})
    with pytest.raises(DeployError, match="outside its folder"):
        onnx_files(outside)


def test_texts_are_quoted_as_protobuf_reads_them() -> None:
    odd = 'a "quoted"\\ näme\n\x00'
    config = ModelConfig("x", "python", (), (TensorConfig("y", "bool", ()),), parameters={odd: odd})
    read = parse_config(config.to_text())
    assert read.parameters[odd].string_value == odd
    assert quote("plain-1.0") == '"plain-1.0"'


def plan_of(bundle: Bundle, capability: str = "8.9", **changes: Any) -> None:
    """Store a plan of the tiny encoder, batched as its graph is."""
    source = bundle.source("encoder", "tensorrt")
    batch = AxisRange(least=1, best=2, most=8)
    tensors = (
        PlanTensor(
            name="x", mode="input", dtype="float32", shape=(-1, 4),
            least=(1, 4), best=(2, 4), most=(8, 4),
        ),
        PlanTensor(name="y", mode="output", dtype="float32", shape=(-1, 3)),
    )  # fmt: skip
    sidecar = sample_sidecar(source, tensors=tensors, axes={"n": batch}, graph=identify(source))
    target = BuiltFor(capabilities=(capability,), system="Linux x86_64")
    sidecar = msgspec.structs.replace(sidecar, target=target, **changes)
    write_plan(plan_folder(), f"plan {capability} {changes}".encode(), sidecar)


def test_plans_are_served_where_triton_can_load_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path / "cache"))
    bundle = Bundle.open(write_tiny_bundle(tmp_path / "bundle"))
    settings = GraphSettings(backend="tensorrt", device="gpu")

    def make(**changes: Any) -> Any:
        return make_graph_model(bundle, "encoder", "t-encoder", replace(settings, **changes))

    plan_of(bundle, options=BuildOptions(strip_weights=True))  # Triton does not refit it
    with pytest.raises(PlanMissingError, match="no TensorRT plan of 'encoder'"):
        make()
    plan_of(bundle)
    model = make()
    assert model.files == {"model.plan": b"plan 8.9 {}"}
    config = parse_config(model.config.to_text())
    assert (config.platform, config.max_batch_size) == ("tensorrt_plan", 8)
    assert [(one.name, list(one.dims)) for one in config.input] == [("x", [4])]
    assert [(one.name, list(one.dims)) for one in config.output] == [("y", [3])]
    plan_of(bundle, "8.6")
    with pytest.raises(DeployError, match=r"capabilities 8\.6; 8\.9"):
        make()
    assert make(capability="8.6").files == {"model.plan": b"plan 8.6 {}"}
    plan_of(bundle, "7.5", gate=Verdict(state="failed", reason="other masks"))
    with pytest.raises(PlanGateError, match="does not agree with FP32"):
        make(capability="7.5")


def test_a_graph_in_the_python_back_end_is_the_engine_itself(tmp_path: Path) -> None:
    graphs = GraphSettings(backend="python", threads=1)
    bundle = write_tiny_bundle(tmp_path / "bundle")
    write_repository(bundle, tmp_path / "r", RepositorySettings(graphs, "t"))
    shutil.rmtree(tmp_path / "r" / "t")  # the tiny bundle has no tasks
    with fake_triton(tmp_path / "r") as server:
        rows = np.ones((2, 4), np.float32)
        answer = server.answer("t-encoder", [FakeTensor("x", rows)], {"y"})
        (tensor,) = answer.output_tensors()
        assert (tensor.name(), tensor.array.shape) == ("y", (2, 3))
        wrong = server.models["t-encoder"].execute
        bad = FakeTensor("x", rows.astype(np.float64))
        (refused,) = wrong([FakeRequest([bad], {"y"})])
        assert "expected float32" in refused.error().message()
