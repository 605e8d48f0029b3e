"""A stand-in for the module `tensorrt`, at the boundary: it has no name that TensorRT has not.

Every attribute that is read or set on its objects must be in the recorded API of its version
(tests/support/tensorrt_api, made by scripts/record-tensorrt-api); anything else is an
AttributeError. It parses nothing: a `Script` says what comes out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FOLDER = Path(__file__).parent / "tensorrt_api"
VERSIONS = tuple(sorted(path.name.removesuffix(".json") for path in FOLDER.glob("[0-9]*.json")))
RTX = "rtx-1.7.1.116"  # TensorRT for RTX


def recorded_api(version: str) -> dict[str, list[str]]:
    """The classes of a version, or of RTX, with the names that they have."""
    found: dict[str, list[str]] = json.loads((FOLDER / f"{version}.json").read_text())
    return found


@dataclass(frozen=True)
class Built:
    """What was parsed last, the builder's level, and how many outputs and casts were added."""

    onnx: bytes
    level: int | None
    marked: int
    casts: int


@dataclass
class Script:
    """What the stand-in answers, and, in `calls`, what was asked of it.

    `inputs`: name -> (type, shape, names of axes); `layers`: (type, output type), each with the
    output of the one before it as its input; `errors`: what the parser says of nodes: (node,
    operator, description). `plan` None: the build fails; a function makes it of what was built.
    """

    inputs: dict[str, tuple[str, tuple[int, ...], tuple[str | None, ...]]] = field(
        default_factory=lambda: {"x": ("FLOAT", (1, 4), (None, None))}
    )
    outputs: dict[str, tuple[str, tuple[int, ...]]] = field(
        default_factory=lambda: {"y": ("FLOAT", (1, 3))}
    )
    layers: tuple[tuple[str, str], ...] = (("MATRIX_MULTIPLY", "FLOAT"),)
    errors: tuple[tuple[str, str, str], ...] = ()
    plan: bytes | Callable[[Built], bytes] | None = b"a plan"
    says: tuple[str, ...] = ()
    timings: bytes = b"timings"
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def named(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of every call of `name`."""
        return [call[1:] for call in self.calls if call[0] == name]


class Recorded:
    """An object of a TensorRT class; names that begin with an underscore are the stand-in's own."""

    def __init__(self, module: FakeTensorRT, kind: str, **values: Any) -> None:
        object.__setattr__(self, "_module", module)
        object.__setattr__(self, "_kind", kind)
        object.__setattr__(self, "_values", values)

    def __getattr__(self, name: str) -> Any:
        self._module._require(self._kind, name)
        if name == "weights":  # NumPy 2 misreads what bindings before 10.16 give: strides of 0
            raise AssertionError("weights are read through TensorRT")
        if name in self._values:
            return self._values[name]
        return lambda *arguments: self._module._script.calls.append((name, *arguments))

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__class__":  # how a layer is cast
            object.__setattr__(self, "_kind", value._kind)
            return
        self._module._require(self._kind, name)
        self._values[name] = value
        self._module._script.calls.append((name, value))


class FakeTensorRT:
    """The module, of a recorded version; `__name__` and `__version__` as a module has them."""

    def __init__(self, version: str, script: Script) -> None:
        self.__name__ = f"fake tensorrt {version} {id(self)}"  # a separate logger
        self.__version__ = version
        self._script = script
        self._api = recorded_api(version)
        self.ILogger = _logger_class(self._api)
        self.IProgressMonitor = type("IProgressMonitor", (), {})

    def __getattr__(self, name: str) -> Any:
        members = self._api.get(name)
        if members is None:
            raise AttributeError(f"TensorRT {self.__version__} has no {name}")
        if members and all(member.isupper() for member in members):
            return IntEnum(name, [(member, i) for i, member in enumerate(members)])
        maker = getattr(self, f"_make_{name}", None)
        return maker or SimpleNamespace(_kind=name)

    def _require(self, kind: str, name: str) -> None:
        if name not in self._api[kind]:
            raise AttributeError(f"{kind} of TensorRT {self.__version__} has no {name!r}")

    def _new(self, kind: str, **values: Any) -> Recorded:
        return Recorded(self, kind, **values)

    def _make_Builder(self, logger: Any) -> Recorded:  # noqa: N802 - the class's name
        script = self._script

        def build(network: Any, config: Any) -> bytes | None:
            script.calls.append(("build", network, config))
            for text in script.says:
                logger.log(self.ILogger.Severity.ERROR, text)
            monitor = config.progress_monitor
            monitor.phase_start("Building", None, 2)
            if not monitor.step_complete("Building", 0):
                return None
            monitor.phase_finish("Building")
            if not callable(script.plan):
                return script.plan
            level = config._values.get("builder_optimization_level")
            parsed = [c[1] for c in script.calls if c[0] in {"parse", "load_model_proto"}][-1]
            last = max(i for i, c in enumerate(script.calls) if c[0] == "create_network")
            names = [call[0] for call in script.calls[last:]]
            added = names.count("mark_output"), names.count("add_cast")
            return script.plan(Built(parsed, level, *added))

        return self._new(
            "Builder",
            create_network=self._make_network,
            create_builder_config=self._make_config,
            create_optimization_profile=lambda: self._new("IOptimizationProfile"),
            build_serialized_network=build,
        )

    def _make_network(self, flags: int) -> Recorded:
        script = self._script
        script.calls.append(("create_network", flags))
        inputs = [self._tensor(n, *rest) for n, rest in script.inputs.items()]
        outputs = [self._tensor(n, *rest, ()) for n, rest in script.outputs.items()]
        layers: list[Recorded] = []
        for types in script.layers:
            before = layers[-1].get_output(0) if layers else None
            layers.append(self._layer(len(layers), *types, before))

        def add_cast(tensor: Any, kind: Any) -> Recorded:
            script.calls.append(("add_cast", tensor, kind))
            return self._layer(1000 + len(script.calls), "CAST", kind.name, tensor)

        return self._new(
            "INetworkDefinition",
            num_inputs=len(inputs),
            get_input=inputs.__getitem__,
            num_outputs=len(outputs),
            get_output=outputs.__getitem__,
            num_layers=len(layers),
            get_layer=layers.__getitem__,
            add_cast=add_cast,
            add_constant=lambda shape, values: script.calls.append(("add_constant", shape, values)),
        )

    def _tensor(
        self, name: str, dtype: str, shape: tuple[int, ...], axes: tuple[str | None, ...]
    ) -> Recorded:
        kind = SimpleNamespace(name=dtype)
        return self._new(
            "ITensor",
            name=name,
            dtype=kind,
            shape=shape,
            get_dimension_name=axes.__getitem__,
            is_network_output=name in self._script.outputs,
        )

    def _layer(self, index: int, kind: str, dtype: str, before: Any = None) -> Recorded:
        output = self._tensor(f"{kind.lower()}.{index}", dtype, (2, 2), (None, None))
        return self._new(
            "IConstantLayer" if kind == "CONSTANT" else "ILayer",
            name=f"layer {index}",
            type=SimpleNamespace(name=kind),
            num_inputs=int(before is not None),
            get_input=lambda _: before,
            num_outputs=1,
            get_output=lambda _: output,
        )

    def _make_OnnxParser(self, network: Any, logger: Any) -> Recorded:  # noqa: N802
        script = self._script

        def answer(name: str) -> Any:
            def call(*arguments: Any) -> bool:
                script.calls.append((name, *arguments))
                return not script.errors

            return call

        errors = [
            self._new(
                "ParserError",
                node_name=lambda node=node: node,
                node_operator=lambda operator=operator: operator,
                desc=lambda text=text: text,
                code=lambda: "UNSUPPORTED_NODE",
            )
            for node, operator, text in script.errors
        ]
        names = ("parse", "load_initializer", "parse_model_proto")
        return self._new(
            "OnnxParser",
            num_errors=len(errors),
            get_error=errors.__getitem__,
            load_model_proto=lambda data: script.calls.append(("load_model_proto", data)) or True,
            **{name: answer(name) for name in names},
        )

    def _make_config(self) -> Recorded:
        script = self._script
        cache = self._new("ITimingCache", serialize=lambda: script.timings)

        def create(data: bytes) -> Recorded:
            script.calls.append(("create_timing_cache", data))
            return cache

        def add(profile: Any) -> int:
            script.calls.append(("add_optimization_profile", profile))
            return 0

        return self._new(
            "IBuilderConfig",
            create_timing_cache=create,
            get_timing_cache=lambda: cache,
            set_timing_cache=lambda *_: True,
            add_optimization_profile=add,
        )


def _logger_class(api: dict[str, list[str]]) -> Any:
    names = api["ILogger.Severity"]
    severity = IntEnum("Severity", [(name, i) for i, name in enumerate(names)])
    return type("ILogger", (), {"Severity": severity})
