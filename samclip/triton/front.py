"""The front model: a scene for each sequence of requests, answered by the server's other models.

The first request of a sequence has an image, which is encoded; the next ones ask about it. Triton
sends all requests of a sequence to one instance of this model, which keeps the encoder's outputs on
their device. The code that answers is the same as that of `samclip.load`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from samclip.engines.base import EngineOptions, GraphSource
from samclip.engines.graphs.signature import GraphSignature
from samclip.errors import CapabilityError, InputError, SamclipError, collect_warnings
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest_file import read_manifest
from samclip.runtime.model import Model
from samclip.runtime.scene import Scene
from samclip.runtime.text.vocabulary import Vocabulary, load_vocabulary
from samclip.server.answers import AnyAnswer, list_warnings
from samclip.server.problems import ProblemError
from samclip.server.questions import Classify, Everything, Segment
from samclip.server.settings import Limits
from samclip.triton.inner_calls import InnerBackend
from samclip.triton.questions import Request, TaskQuestion, answer_tensors, read_request
from samclip.triton.records import (
    BUNDLE_FOLDER,
    FRONT_RECORD,
    VOCABULARY,
    FrontRecord,
    InnerGraph,
    read_record,
)
from samclip.triton.served_graph import check_arrays, triton_module, version_folder


class FrontBundle(Bundle):
    """The part of a bundle that the front model has: its manifest and texts, and no graphs."""

    inner: Mapping[str, InnerGraph]

    @staticmethod
    def read_from(folder: Path, inner: Mapping[str, InnerGraph]) -> FrontBundle:
        """Read the manifest in `folder`; the digests of files are checked as each is read."""
        bundle = FrontBundle(folder, read_manifest(folder))
        object.__setattr__(bundle, "inner", inner)
        return bundle

    def source(
        self,
        graph: str,
        backend: str,  # noqa: ARG002
        precision: str | None = None,  # noqa: ARG002
        version: str | None = None,  # noqa: ARG002
    ) -> GraphSource:
        """Return a source without bytes: another model has the graph."""
        signature = GraphSignature((), (), token_rows=self.inner[graph].token_rows)
        return GraphSource(graph, b"", origin=str(self.path), signature=signature)


class Front:
    """The front model; what Triton calls a TritonPythonModel."""

    _record: FrontRecord
    _model: Model
    _scenes: SequenceScenes
    _saved: Vocabulary | None = None
    _limits = Limits()

    def initialize(self, arguments: dict[str, str]) -> None:
        """Read the record and the bundle's texts; other models are asked from `execute` on."""
        check_arrays(triton_module())
        folder = version_folder(arguments)
        self._record = read_record(folder / FRONT_RECORD, FrontRecord)
        backend = InnerBackend(
            self._record.graphs, self._record.gpu if self._record.device == "gpu" else None
        )
        bundle = FrontBundle.read_from(folder / BUNDLE_FOLDER, self._record.graphs)
        self._model = Model(bundle, backend, EngineOptions(), max_pixels=self._limits.pixels)
        if self._record.vocabulary:
            self._saved = self._model.vocabulary(load_vocabulary(folder / VOCABULARY))
        self._scenes = SequenceScenes(self._record.scenes, self._record.idle_seconds)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests, each of another sequence."""
        return [self._respond(request) for request in requests]

    def finalize(self) -> None:
        """Let all scenes go."""
        self._scenes.clear()
        self._model.close()

    def _respond(self, request: Any) -> Any:
        module = triton_module()
        try:
            asked = read_request(
                {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}, self._limits
            )
            outputs = self._answer(asked, request.requested_output_names())
        except SamclipError as error:
            return module.InferenceResponse(error=module.TritonError(_message(error)))
        return module.InferenceResponse(
            output_tensors=[module.Tensor(name, array) for name, array in outputs.items()]
        )

    def _answer(self, asked: Request, wanted: Any) -> dict[str, Any]:
        if asked.begins:
            self._scenes.remove(asked.sequence)
            with collect_warnings() as warned:
                scene = self._model.encode(asked.image)
            if not asked.ends:
                self._scenes.add(asked.sequence, scene)
        else:
            warned = []
            scene = self._scenes.get(asked.sequence)
        try:
            with collect_warnings() as later:
                answer = None
                if asked.question is not None:
                    answer = self._ask(scene, asked.question, asked.prompts)
            head = {
                "task": type(asked.question).__name__.lower(),
                "bundle": self._record.bundle,
                "timings": {} if answer is None else dict(answer.timings),
                "warnings": list_warnings([*warned, *later]),
            }
            return answer_tensors(scene, answer, head, wanted)
        finally:
            if asked.ends:
                self._scenes.remove(asked.sequence)
                scene.close()

    def _ask(self, scene: Scene, question: TaskQuestion, prompts: Mapping[str, Any]) -> AnyAnswer:
        names, templates = question.names_for(self._model, self._saved)
        if isinstance(question, Segment):
            return scene.segment(
                **prompts,
                multimask=question.multimask,
                names=names,
                templates=templates,
                name_by=question.name_by,
            )
        if isinstance(question, Everything):
            return scene.everything(names, templates, **question.options())
        if names is None:
            raise InputError("there are no names. Give some to choose from, in `names`.")
        if isinstance(question, Classify):
            return scene.classify(names, templates)
        return scene.semantic(
            names, templates, refine=question.refine, background=question.background
        )


class SequenceScenes:
    """The scenes of one instance by sequence: a bounded number, the least used of them goes first.

    Triton ends a sequence that was idle for too long without saying so, and has at most `most` open
    for an instance. So where there are more scenes, the one used longest ago is of an ended one.
    """

    def __init__(
        self, most: int, idle_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._kept: OrderedDict[int, tuple[Scene, float]] = OrderedDict()  # used longest ago first

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, sequence: int, scene: Scene) -> None:
        """Keep the scene of a sequence that begins."""
        oldest = self._clock() - self._idle_seconds
        for known, (_, used) in list(self._kept.items()):
            if used < oldest or len(self._kept) >= self._most:
                self.remove(known)
        self._kept[sequence] = (scene, self._clock())

    def get(self, sequence: int) -> Scene:
        """Return the scene of a sequence, which is used now; InputError where there is none."""
        if sequence not in self._kept:
            raise InputError(
                f"the sequence {sequence} has no scene here: its first request failed, or it had "
                "no request for too long. Start a sequence with the image."
            )
        scene, _ = self._kept.pop(sequence)
        self._kept[sequence] = (scene, self._clock())
        return scene

    def remove(self, sequence: int) -> None:
        """Let the scene of a sequence go; none: do nothing."""
        found = self._kept.pop(sequence, None)
        if found is not None:
            found[0].close()

    def clear(self) -> None:
        """Let all scenes go."""
        for sequence in list(self._kept):
            self.remove(sequence)


def _message(error: SamclipError) -> str:
    """Return what a client reads of an error: the reason for one of its request, else where it is.

    Messages of the server's own failures may name its files: they go to its log.
    """
    if isinstance(error, (InputError, ProblemError, CapabilityError)):
        return f"{type(error).__name__}: {error}"
    triton_module().Logger.log_error(f"{type(error).__name__}: {error}")
    return f"{type(error).__name__}: the server failed to answer. Its log has the reason."
