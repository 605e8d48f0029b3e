"""A model repository for Triton, written from a bundle: whole, or not at all.

::

    repository/
        samclip-triton.json            its source, and the SHA-256 of each file
        street/                        the front model: scenes, prompts, names
            config.pbtxt
            1/model.py, front.json, bundle/, vocabulary.safetensors
        street-encoder/                each graph of the bundle
            config.pbtxt
            1/model.onnx, encoder.safetensors
        street-mask_decoder/ ...

Each model's folder holds all that it needs, because Triton may copy one by one from a bucket. Files
are copied and never linked: a bundle may be replaced while the server runs.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from samclip.disk.directory_swap import partial_directory, put_in_place
from samclip.disk.partial_files import as_write_error, sync_tree
from samclip.disk.paths import user_path
from samclip.engines.steps import ChangeSettings
from samclip.errors import DeployError, InputError, IntegrityError, VocabularyError
from samclip.progress import SILENT, Progress, track
from samclip.runtime.backend_choice import check_precision
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.files import is_ignored
from samclip.runtime.bundles.home import find_bundle
from samclip.runtime.bundles.manifest import FileEntry, Text, base_name
from samclip.runtime.bundles.signature import chosen_public_key
from samclip.runtime.bundles.writing import write_entry
from samclip.runtime.deploy.releases import identify_bundle, own_files
from samclip.runtime.example_regions import check_saved
from samclip.runtime.graph_outputs import STAND_INS
from samclip.runtime.text.vocabulary import load_vocabulary
from samclip.triton.config_text import ModelConfig, Sequences
from samclip.triton.graph_models import (
    BACKENDS,
    GraphModel,
    GraphSettings,
    make_graph_model,
)
from samclip.triton.questions import INPUTS, OUTPUTS
from samclip.triton.records import (
    BUNDLE_FOLDER,
    FRONT_RECORD,
    GRAPH_RECORD,
    MARKER,
    VOCABULARY,
    FrontRecord,
    GraphRecord,
    InnerGraph,
    RepositoryRecord,
    encode,
    read_record,
)
from samclip.version import __version__

VERSION = "1"  # of each model, as Triton counts them
CONFIG = "config.pbtxt"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MODEL_PY = '''"""A model in Triton's Python back end, whose Python must have samclip installed."""

from samclip.triton.{module} import {name} as TritonPythonModel

__all__ = ["TritonPythonModel"]
'''
ENGINES = ("onnxruntime", "openvino")  # of samclip, for Triton's Python back end
Files = dict[str, bytes]


@dataclass(frozen=True)
class RepositorySettings:
    """How a bundle is served by Triton.

    `graphs`: which back end runs its graphs, and where; `name`: that of the front model, and the
    beginning of all others, None for the bundle's; `fronts`: instances of the front model, each a
    process; `scenes`: kept at once by each of them, and `idle_seconds` after its last request one
    goes; `vocabulary`: a file of saved names, by which the front answers questions with these
    names; `overwrite`: replace a repository that this wrote; `public_key`: as for `samclip.load`.

    Raises InputError.
    """

    graphs: GraphSettings = field(default_factory=GraphSettings)
    name: str | None = None
    fronts: int = 1
    scenes: int = 16
    idle_seconds: float = 300.0
    vocabulary: str | PathLike[str] | None = None
    overwrite: bool = False
    public_key: str | PathLike[str] | None = None

    def __post_init__(self) -> None:
        graphs = self.graphs
        if graphs.backend not in BACKENDS:
            raise InputError(
                f"Triton runs graphs by {', '.join(BACKENDS)}; got {graphs.backend!r:.60}."
            )
        if graphs.backend == "tensorrt" and graphs.device == "cpu":
            raise InputError("TensorRT runs on GPUs alone. Choose the device gpu.")
        if graphs.backend == "openvino" and graphs.device == "gpu":
            raise InputError("Triton's OpenVINO runs on the CPU alone. Choose the device cpu.")
        if graphs.backend == "python":
            if graphs.device == "gpu":
                raise InputError(
                    "Triton's Python back end would copy features to the host. Choose the device "
                    "cpu, or the back end onnxruntime."
                )
            if graphs.engine not in ENGINES:
                raise InputError(
                    f"Triton's Python back end runs graphs by {' or '.join(ENGINES)} here; got "
                    f"{graphs.engine!r:.60}."
                )
        for what, value in (
            ("instances", graphs.instances),
            ("fronts", self.fronts),
            ("scenes", self.scenes),
            ("threads", 1 if graphs.threads is None else graphs.threads),
        ):
            if not 1 <= value <= 1024:
                raise InputError(f"{what} must be from 1 to 1,024; got {value}.")
        if not 1 <= self.idle_seconds <= 86_400:
            raise InputError(
                f"scenes go after 1 to 86,400 s without a request; got {self.idle_seconds:g}."
            )
        if self.name is not None and not NAME.fullmatch(self.name):
            raise InputError(
                f"a model's name has letters, digits, dots, hyphens and underscores, at most 100; "
                f"got {self.name!r:.120}."
            )


def write_repository(
    bundle: str | PathLike[str],
    to: str | PathLike[str],
    settings: RepositorySettings | None = None,
    progress: Progress = SILENT,
) -> RepositoryRecord:
    """Write the repository of a bundle, by path or name, to the folder `to`; return its record.

    It is written next to `to` and renamed, so a server that polls sees the old one or the new one.
    Raises DeployError for a folder with anything but a repository of samclip's, BundleError and
    PlanError as `Bundle.source` and `find_plan` do, WriteError, InputError; VocabularyError and
    CapabilityError for saved names that the bundle cannot use.
    """
    asked = settings or RepositorySettings()
    source = Bundle.open(find_bundle(bundle), chosen_public_key(asked.public_key))
    check_precision(asked.graphs.precision, source)
    if asked.vocabulary is not None:
        check_saved(load_vocabulary(asked.vocabulary), source)
    path = user_path(to, "the model repository").absolute()
    if path.is_relative_to(source.path):
        raise DeployError(
            f"the repository {path} lies in the bundle {source.path}, which holds only its own "
            "files. Write it to a folder outside."
        )
    name = asked.name or source.manifest.name
    if not NAME.fullmatch(name):
        raise InputError(f"Triton takes no model called {name!r:.120}. Give another name.")
    check_place(path, asked.overwrite)
    with as_write_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_directory(path) as partial:
            record = _fill(partial, source, name, asked, progress)
            sync_tree(partial)
            verify_repository(partial)  # what is on the disk, and not what was meant to be
            check_place(path, asked.overwrite)
            put_in_place(partial, path, overwrite=True)
    return record


def check_place(path: Path, overwrite: bool) -> None:
    """Check that a repository may be written to `path`; raises DeployError.

    It may be free, an empty folder, or with `overwrite` a repository that `write_repository` made
    and to which nobody added models.
    """
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir():
        raise DeployError(f"{path} is a link or a file, so it is not replaced. Choose another one.")
    entries = {entry.name for entry in path.iterdir() if not is_ignored(entry.name)}
    if not entries:
        return
    if MARKER not in entries:
        raise DeployError(
            f"{path} holds something other than a model repository of samclip's, so it is not "
            "replaced. Choose another folder, or empty it first."
        )
    record = read_record(path / MARKER, RepositoryRecord)
    if strange := sorted(entries - {MARKER, *record.models}):
        raise DeployError(
            f"{path} also holds {strange[0]!r:.100}, which samclip did not write, so it is not "
            "replaced. Move that elsewhere: Triton takes several repositories."
        )
    if not overwrite:
        raise DeployError(
            f"{path} holds a repository of the bundle {record.bundle!r} already. Choose another "
            "folder, or overwrite it on purpose.",
            steps=(ChangeSettings(("overwrite",)),),
        )


def verify_repository(path: str | PathLike[str]) -> RepositoryRecord:
    """Check the size and SHA-256 of each file of a repository; return its record.

    Raises DeployError for a folder that is none, IntegrityError for a file that changed, is missing
    or was added.
    """
    root = user_path(path, "the model repository")
    record = read_record(root / MARKER, RepositoryRecord)
    found = {
        file.relative_to(root).as_posix(): file
        for model in record.models
        for file in sorted((root / model).rglob("*"))
        if not file.is_dir() and "__pycache__" not in file.parts
    }
    if odd := sorted(found.keys() ^ record.files.keys()):
        state = "was added to" if odd[0] in found else "is missing from"
        raise IntegrityError(f"{odd[0]} {state} the repository {root}. Deploy the bundle again.")
    for name, entry in record.files.items():
        if _entry_of(found[name].read_bytes()) != entry:
            raise IntegrityError(f"{name} of the repository {root} changed. Deploy it again.")
    return record


def _fill(
    partial: Path, bundle: Bundle, name: str, asked: RepositorySettings, progress: Progress
) -> RepositoryRecord:
    """Write all models, one after the other, so that the weights of one are in memory at a time."""
    entries: dict[str, FileEntry] = {}
    inner: dict[str, InnerGraph] = {}
    graphs = [name for name in bundle.manifest.all_graphs if base_name(name) not in STAND_INS]
    for graph in track(progress, graphs, "writing models"):
        model = make_graph_model(bundle, graph, f"{name}-{graph}", asked.graphs)
        inner[graph] = InnerGraph(
            model=model.config.name,
            inputs=tuple(tensor.name for tensor in model.config.inputs),
            outputs=tuple(tensor.name for tensor in model.config.outputs),
            token_rows=model.token_rows,
        )
        entries |= _write_model(partial, model.config, _graph_files(model, asked.graphs))
    config = front_config(name, asked)
    entries |= _write_model(partial, config, _front_files(bundle, inner, asked))
    record = RepositoryRecord(
        name=name,
        bundle=bundle.manifest.name,
        identity=identify_bundle(bundle.path),
        backend=asked.graphs.backend,
        device=asked.graphs.device,
        samclip=__version__,
        models=(name, *(graph.model for graph in inner.values())),
        files=dict(sorted(entries.items())),
    )
    write_entry(partial / MARKER, [encode(record)])
    return record


def front_config(name: str, asked: RepositorySettings) -> ModelConfig:
    """Return the configuration of the front model."""
    graphs = asked.graphs
    return ModelConfig(
        name=name,
        backend="python",
        inputs=INPUTS,
        outputs=OUTPUTS,
        count=asked.fronts,
        kind=graphs.device,
        gpu=graphs.gpu,
        sequences=Sequences(asked.scenes, asked.idle_seconds),
    )


def _write_model(partial: Path, config: ModelConfig, files: Files) -> dict[str, FileEntry]:
    """Write a model's folder; return its files by their paths in the repository."""
    named = {
        f"{config.name}/{CONFIG}": config.to_text().encode(),
        **{f"{config.name}/{VERSION}/{file}": data for file, data in files.items()},
    }
    return {path: write_entry(partial / path, [data]) for path, data in named.items()}


def _graph_files(model: GraphModel, settings: GraphSettings) -> Files:
    if settings.backend != "python":
        return dict(model.files)
    record = GraphRecord(
        name=model.graph,
        files={file: _entry_of(data) for file, data in model.files.items()},
        precision=model.precision,
        outputs=tuple(tensor.name for tensor in model.config.outputs),
        batched=model.config.max_batch_size > 0,
    )
    script = MODEL_PY.format(module="served_graph", name="ServedGraph").encode()
    return {**model.files, GRAPH_RECORD: encode(record), "model.py": script}


def _front_files(
    bundle: Bundle, inner: Mapping[str, InnerGraph], asked: RepositorySettings
) -> Files:
    graphs = asked.graphs
    record = FrontRecord(
        bundle=bundle.manifest.name,
        device=graphs.device,
        gpu=graphs.gpu,
        graphs=dict(inner),
        scenes=asked.scenes,
        idle_seconds=asked.idle_seconds,
        vocabulary=asked.vocabulary is not None,
    )
    saved = {} if asked.vocabulary is None else {VOCABULARY: _read_saved(asked.vocabulary)}
    texts = {name: bundle.read(name) for name in text_files(bundle.manifest.text)}
    own = {name: (bundle.path / name).read_bytes() for name in own_files(bundle.path)}
    whole = {**own, **texts}
    return {
        "model.py": MODEL_PY.format(module="front", name="Front").encode(),
        FRONT_RECORD: encode(record),
        **saved,
        **{f"{BUNDLE_FOLDER}/{name}": data for name, data in whole.items()},
    }


def _read_saved(given: str | PathLike[str]) -> bytes:
    """Return the bytes of a vocabulary that was read before; the front checks their digest."""
    path = user_path(given, "the vocabulary's path")
    try:
        return path.read_bytes()
    except OSError as error:
        raise VocabularyError(f"{path} cannot be read: {error.strerror}. Deploy again.") from error


def text_files(text: Text | None) -> list[str]:
    """List the files of a bundle that are texts, or embeddings of them."""
    if text is None:
        return []
    files = [text.tokenizer, text.labels, text.label_embeddings]
    files += [file for each in text.baked for file in (each.labels, each.label_embeddings)]
    return list(dict.fromkeys(file for file in files if file is not None))


def _entry_of(data: bytes) -> FileEntry:
    return FileEntry(size=len(data), sha256=hashlib.sha256(data).hexdigest())
