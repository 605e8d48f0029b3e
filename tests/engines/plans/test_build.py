"""Building with TensorRT proper, against the API that its bindings of 10.3 and 11.4 have."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from plan_samples import HOST, ORIN, RTX_3090, fake_library, sample_source
from recorded_progress import RecordedProgress
from recorded_tensorrt import VERSIONS, Script
from tiny_bundle import WEIGHTS_FILE, affine_model

from samclip.engines.machine import free_memory
from samclip.engines.plans import build as build_module
from samclip.engines.plans import library as library_module
from samclip.engines.plans import preflight
from samclip.engines.plans.build import build_plan
from samclip.engines.plans.library import PlanGpu
from samclip.engines.plans.match import find_plan
from samclip.engines.plans.request import BuildRequest
from samclip.engines.plans.sidecar import AxisRange, BuildOptions
from samclip.engines.plans.store import list_plans, plan_folder, read_plan
from samclip.engines.plans.timing_cache import LOCK_NAME
from samclip.errors import PlanBuildError

DYNAMIC = {
    "coords": ("FLOAT", (-1, -1, 2), ("prompts", "points", None)),
    "image": ("FLOAT", (1, 4), (None, None)),
}
FORBIDDEN = {"FP16", "INT8", "BF16", "FP8", "OBEY_PRECISION_CONSTRAINTS"}


class Interrupting(RecordedProgress):
    """Raises what Ctrl-C does at the first step."""

    def advance(self, text: str = "") -> None:
        raise KeyboardInterrupt


def request(**changes: Any) -> BuildRequest:
    return BuildRequest(**{"source": sample_source(), "capabilities": ("8.7",), **changes})


def flags(script: Script, name: str = "set_flag") -> set[str]:
    return {flag.name for (flag,) in script.named(name)}


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return request.param


def test_versions_of_both_kinds_are_recorded() -> None:
    assert {version.partition(".")[0] for version in VERSIONS} >= {"10", "11"}


def test_a_plan_is_built_kept_and_found(version: str) -> None:
    library = fake_library(Script(plan=b"built"), version)
    built = build_plan(request(), library)
    assert not built.reused
    plan = find_plan(sample_source(), replace(HOST, version=version))
    assert plan.data == b"built"
    sidecar = plan.sidecar
    assert (sidecar.library, sidecar.library_version) == ("tensorrt", version)
    assert (sidecar.target.gpu, sidecar.target.driver, sidecar.target.cuda) == (
        "Orin",
        "540.4",
        "12.6",
    )
    assert [(t.name, t.mode, t.dtype, t.shape) for t in sidecar.tensors] == [
        ("x", "input", "float32", (1, 4)),
        ("y", "output", "float32", (1, 3)),
    ]


def test_networks_are_strongly_typed_and_no_precision_is_set(version: str) -> None:
    script = Script()
    library = fake_library(script, version)
    build_plan(request(), library)
    bit = library.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert script.named("create_network") == [(1 << int(bit),)]
    assert flags(script) == set()
    assert flags(script, "clear_flag") == {"TF32"}


def test_every_option_reaches_tensorrt(version: str) -> None:
    script = Script()
    options = BuildOptions(workspace=2**28, level=4, strip_weights=True)
    build_plan(request(options=options), fake_library(script, version))
    assert flags(script) == {"STRIP_PLAN", "REFIT_IDENTICAL"}
    assert not flags(script) & FORBIDDEN
    ((pool, size),) = script.named("set_memory_pool_limit")
    assert (pool.name, size) == ("WORKSPACE", 2**28)
    assert script.named("builder_optimization_level") == [(4,)]
    assert script.named("profiling_verbosity")[0][0].name == "DETAILED"
    assert script.named("num_compute_capabilities") == []  # TensorRT for RTX's alone


def test_dynamic_axes_get_their_ranges(version: str) -> None:
    script = Script(inputs=DYNAMIC)
    axes = {
        "prompts": AxisRange(least=1, best=2, most=3),
        "points": AxisRange(least=0, best=5, most=7),
        "texts": AxisRange(least=1, best=1, most=1),
    }
    built = build_plan(request(axes=axes), fake_library(script, version))
    assert script.named("set_shape") == [("coords", (1, 0, 2), (2, 5, 2), (3, 7, 2))]
    assert len(script.named("add_optimization_profile")) == 1
    sidecar = built.stored.sidecar
    assert sidecar is not None
    assert set(sidecar.axes) == {"prompts", "points"}
    assert sidecar.tensors[0].most == (3, 7, 2)
    assert sidecar.tensors[1].most is None


def test_a_graph_of_fixed_shapes_gets_no_profile(version: str) -> None:
    script = Script()
    build_plan(request(), fake_library(script, version))
    assert script.named("add_optimization_profile") == []


def test_an_axis_of_no_known_range_is_refused(version: str) -> None:
    inputs = {"x": ("FLOAT", (-1,), ("frames",))}
    with pytest.raises(PlanBuildError, match="dynamic axis 'frames'"):
        build_plan(request(), fake_library(Script(inputs=inputs), version))


def test_verified_bytes_reach_the_parser_and_nothing_stays(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    script = Script()
    source = sample_source()
    seen: list[bytes] = []

    class Watching(list):
        def append(self, call: tuple[Any, ...]) -> None:
            if call[0] == "parse":
                seen.append(Path(call[2]).with_name(WEIGHTS_FILE).read_bytes())
            super().append(call)

    script.calls = Watching()
    build_plan(request(source=source), fake_library(script, version))
    if script.named("load_model_proto"):  # newer parsers take weights in memory
        assert script.named("load_model_proto") == [(source.onnx,)]
        assert {call[0] for call in script.named("load_initializer")} == set(source.weights)
    else:
        assert script.named("parse")[0][0] == source.onnx
        assert seen == [source.files[WEIGHTS_FILE]]
    assert not list(tmp_path.glob("samclip-build-*"))


def test_weights_outside_of_the_folder_are_refused() -> None:
    onnx, data = affine_model("../../evil")
    source = sample_source(onnx=onnx, files={"../../evil": data})
    with pytest.raises(PlanBuildError, match="outside of its folder"):
        build_plan(request(source=source), fake_library(Script(), "10.3.0"))


def test_the_error_lists_every_node_that_the_parser_refuses(version: str) -> None:
    errors = (("/a/Attention", "Attention", "no importer"), ("/b/Foo", "Foo", "no\n such op"))
    with pytest.raises(PlanBuildError, match="cannot take the graph 'encoder'") as caught:
        build_plan(request(), fake_library(Script(errors=errors), version))
    text = str(caught.value)
    assert "node '/a/Attention' (Attention): no importer" in text
    assert "node '/b/Foo' (Foo): no such op" in text
    assert list_plans([plan_folder()]) == []


def test_a_failed_build_has_tensorrts_messages(version: str) -> None:
    script = Script(plan=None, says=("Error Code 10: no tactic", "Error Code 2: OutOfMemory"))
    with pytest.raises(PlanBuildError, match="could not build the graph") as caught:
        build_plan(request(), fake_library(script, version))
    assert "- Error Code 10: no tactic\n- Error Code 2: OutOfMemory" in str(caught.value)


@pytest.mark.parametrize(
    ("precision", "types", "passes"),
    [
        ("fp16", ("HALF", "FLOAT"), True),
        ("fp16", ("FLOAT",), False),
        ("bf16", ("HALF",), False),
        ("int8", ("INT8", "FLOAT"), True),
        ("int8_fp16", ("INT8", "FLOAT"), False),
        ("int8_fp16", ("INT8", "HALF"), True),
    ],
)
def test_no_graph_runs_in_fp32_under_another_name(
    precision: str, types: tuple[str, ...], passes: bool
) -> None:
    layers = tuple(("MATRIX_MULTIPLY", name) for name in types)
    stored = (("CONSTANT", "HALF"), ("CAST", "INT8"))  # how weights are stored does not count
    library = fake_library(Script(layers=layers + stored))
    wanted = request(source=sample_source(precision=precision))
    if passes:
        assert build_plan(wanted, library).stored.sidecar is not None
    else:
        with pytest.raises(PlanBuildError, match="it would run in FP32"):
            build_plan(wanted, library)


def test_an_equal_plan_is_not_built_again() -> None:
    script = Script()
    library = fake_library(script)
    first = build_plan(request(), library)
    again = build_plan(request(), library)
    assert again.reused
    assert again.stored == first.stored
    assert len(script.named("build")) == 1
    assert not build_plan(request(force=True), library).reused
    assert len(script.named("build")) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"options": BuildOptions(level=5)},
        {"source": sample_source(onnx=b"changed")},
        {"axes": {"prompts": AxisRange(least=1, best=1, most=1)}},
    ],
)
def test_another_recipe_or_graph_is_built(change: dict[str, Any]) -> None:
    script = Script(inputs={"x": ("FLOAT", (-1,), ("prompts",))})
    library = fake_library(script)
    build_plan(request(), library)
    assert not build_plan(request(**change), library).reused


@pytest.mark.parametrize("location", ["/etc/passwd", "../../secret", "*/_ORT_MEM_ADDR_/*", "w"])
def test_the_parser_sees_no_graph_whose_weights_are_elsewhere(location: str) -> None:
    """It would read files that nobody verified, wherever they are."""
    script = Script()
    source = sample_source(onnx=affine_model(location)[0])
    with pytest.raises(PlanBuildError, match=r"keeps weights at .* and comes with the files"):
        build_plan(request(source=source), fake_library(script))
    assert not script.named("parse")
    assert not script.named("load_model_proto")
    assert not script.named("build")


def test_a_damaged_plan_is_built_again() -> None:
    library = fake_library(Script())
    stored = build_plan(request(), library).stored
    stored.path.write_bytes(b"x" * len(stored.path.read_bytes()))
    again = build_plan(request(), library)
    assert not again.reused
    assert read_plan(again.stored) == b"a plan"


def test_a_new_plan_takes_the_place_of_a_stale_one() -> None:
    build_plan(request(source=sample_source(onnx=b"older")), fake_library(Script(plan=b"older")))
    new = build_plan(request(), fake_library(Script(plan=b"newer")))
    assert [plan.path for plan in list_plans([plan_folder()])] == [new.stored.path]


def test_timings_are_kept_and_given_to_the_next_build(version: str) -> None:
    script = Script(timings=b"milliseconds")
    library = fake_library(script, version)
    build_plan(request(force=True), library)
    build_plan(request(force=True), library)
    assert script.named("create_timing_cache") == [(b"",), (b"milliseconds",)]


@pytest.mark.parametrize("damage", [b"", b"short", b"0" * 64 + b"milliseconds"])
def test_damaged_timings_are_left_out(damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    script = Script(timings=b"milliseconds")
    library = fake_library(script)
    build_plan(request(force=True), library)
    (file,) = (plan_folder() / "timings").iterdir()
    good = hashlib.sha256(b"milliseconds").hexdigest().encode() + b"milliseconds"
    assert file.read_bytes() == good
    file.write_bytes(damage)
    build_plan(request(force=True), library)
    assert script.named("create_timing_cache")[-1] == (b"",)
    assert "damaged" in caplog.text
    assert file.read_bytes() == good


def test_progress_is_reported_and_can_end_a_build() -> None:
    progress = RecordedProgress()
    build_plan(request(), fake_library(Script()), progress)
    assert progress.events == [("begin", "Building", 2, 0), ("step", ""), ("end", "Building")]
    interrupted = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        build_plan(request(force=True), fake_library(Script()), interrupted)
    assert interrupted.events[-1] == ("end", "Building")


@pytest.mark.parametrize(
    ("gpu", "free", "message"),
    [
        (RTX_3090, 10**9, r"needs about 1\.1 GB of memory .* 1\.0 GB are free"),
        # CPU and GPU need the same memory: 1.88 GB of libraries and a quarter for the workspace
        (ORIN, 2 * 10**9, r"2\.4 GB of memory, which Orin shares, .* 2\.0 GB are free"),
    ],
)
def test_a_build_that_cannot_fit_is_refused_with_figures(
    gpu: PlanGpu, free: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "available_memory", lambda: free)
    script = Script()
    library = fake_library(script, gpu=gpu)
    with pytest.raises(PlanBuildError, match=message):
        build_plan(request(), library)
    assert script.named("build") == []
    build_plan(request(preflight=False), library)
    assert len(script.named("build")) == 1


@pytest.mark.parametrize(
    ("gpu", "free", "limit"),
    [(ORIN, 3 * 10**9, 75 * 10**7), (ORIN, 6 * 10**9, 2**30), (RTX_3090, 6 * 10**9, None)],
)
def test_the_workspace_of_a_jetson_is_bounded_by_default(
    gpu: PlanGpu, free: int, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "available_memory", lambda: free)
    script = Script()
    build_plan(request(), fake_library(script, gpu=gpu))
    sizes = [size for _, size in script.named("set_memory_pool_limit")]
    assert sizes == ([] if limit is None else [limit])


def test_the_builder_works_on_the_gpu_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[int] = []

    class Device:
        def __init__(self, index: int) -> None:
            self.index = index

        @contextmanager
        def active(self) -> Iterator[None]:
            current.append(self.index)
            yield
            current.pop()

    script = Script()
    library = fake_library(script, device=1)
    seen: list[list[int]] = []
    parse = build_module.parse_network
    monkeypatch.setattr(library_module, "open_device", Device)

    def spy(*arguments: Any) -> Any:
        seen.append(list(current))
        return parse(*arguments)

    monkeypatch.setattr(build_module, "parse_network", spy)
    build_plan(request(), library)
    assert seen == [[1]]
    assert current == []


def test_a_tight_build_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "available_memory", lambda: 12 * 10**8)
    progress = RecordedProgress()
    build_plan(request(), fake_library(Script(), gpu=RTX_3090), progress)
    assert progress.notes[0].startswith("warning: this build needs about 1.1 GB")


def test_the_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"MEMORY_INFO": "MemTotal: 9 kB\nMemAvailable: 1000 kB\n", "CONTAINER_USE": "5000\n"}
    files |= {"CONTAINER_LIMIT": "7000\n", "CONTAINER_PARTS": "anon 3000\ninactive_file 1500\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(free_memory, name, str(tmp_path / name))
    assert free_memory.available_memory() == 7000 - 5000 + 1500
    (tmp_path / "CONTAINER_LIMIT").write_text("max\n")
    assert free_memory.available_memory() == 1_024_000
    (tmp_path / "MEMORY_INFO").unlink()
    assert free_memory.available_memory() is None


def test_builds_of_threads_come_one_after_the_other() -> None:
    running: list[int] = []
    most: list[int] = []

    class Counting(RecordedProgress):
        @contextmanager
        def stage(self, name: str, total: int | None = None, done: int = 0) -> Iterator[Any]:
            running.append(1)
            most.append(len(running))
            time.sleep(0.05)
            yield self
            running.pop()

    def build(index: int) -> None:
        source = sample_source(onnx=b"%d" % index)
        build_plan(request(source=source), fake_library(Script()), Counting())

    threads = [threading.Thread(target=build, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(most) == 4


def test_another_process_is_waited_for() -> None:
    plan_folder().mkdir(parents=True)
    code = (
        "import sys, filelock\n"
        f"with filelock.FileLock({str(plan_folder() / LOCK_NAME)!r}):\n"
        "    print('held', flush=True); sys.stdin.read(1)\n"
    )
    command = [sys.executable, "-c", code]
    progress = RecordedProgress()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdout.readline()
        thread = threading.Thread(
            target=build_plan, args=(request(), fake_library(Script()), progress)
        )
        thread.start()
        while not progress.notes:
            time.sleep(0.01)
        assert list_plans([plan_folder()]) == []
        other.stdin.close()
        thread.join()
    assert progress.notes == ["another process builds a plan: waiting for it to end"]
    assert len(list_plans([plan_folder()])) == 1


@pytest.mark.skipif(os.getuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_an_error(cache: Path) -> None:
    cache.mkdir(mode=0o500)
    with pytest.raises(PlanBuildError, match="SAMCLIP_CACHE_DIR"):
        build_plan(request(), fake_library(Script()))


def test_the_lock_is_free_after_a_failure() -> None:
    with pytest.raises(PlanBuildError):
        build_plan(request(), fake_library(Script(plan=None)))
    with FileLock(plan_folder() / LOCK_NAME, timeout=0):
        pass
