"""Graphs of a bundle exported again, on the weights that it has."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from samclip.errors import ExportError
from samclip.export.exporter import export_bundle
from samclip.export.options import ExportOptions, WeightsDtypes
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import WeightsDtype, base_name
from samclip.runtime.bundles.writing import write_bundle
from tools.regraph import main

ADDED = ["image_keys", "point_decoder"]


def without_added(source: Path, target: Path, dtype: WeightsDtype = "fp32") -> Path:
    """Write a bundle as an older exporter did; `dtype`: how its decoder is said to be stored."""
    bundle = Bundle.open_unsigned(source)
    manifest = bundle.manifest
    left_out = {
        variant.file
        for name, graph in manifest.all_graphs.items()
        if base_name(name) in ADDED
        for variant in graph.variants
    }
    files = {name: bundle.read(name) for name in manifest.files if name not in left_out}
    decoder = manifest.graphs.mask_decoder
    said = replace(
        decoder, variants=tuple(replace(each, weights_dtype=dtype) for each in decoder.variants)
    )
    bare = replace(
        manifest,
        files={},
        graphs=replace(manifest.graphs, mask_decoder=said, image_keys=None, point_decoder=None),
        shapes=tuple(
            replace(shaped, image_keys=None, point_decoder=None) for shaped in manifest.shaped
        )
        or manifest.shapes,
    )
    return write_bundle(target, bare, files)


@pytest.mark.slow
@pytest.mark.parametrize("shapes", [False, True])
def test_a_bundle_gets_graphs_on_its_own_weights(
    shapes: bool, lite2_bundle: Path, lite2_checkpoint: Path, tmp_path: Path
) -> None:
    """With shapes, the encoder computed the padding before its own weights were rounded."""
    complete = lite2_bundle
    if shapes:
        complete = tmp_path / "shapes"
        options = ExportOptions(
            lite2_checkpoint,
            complete,
            aspects=("1:1", "4:3"),
            weights_dtype=WeightsDtypes("int8"),
            verify=False,  # random weights do not bear INT8
        )
        export_bundle(options)
    path = without_added(complete, tmp_path / "lite2", "int8" if shapes else "fp32")
    before = Bundle.open_unsigned(path).manifest
    assert not {*map(base_name, before.all_graphs)} & {*ADDED}
    main([str(path), *ADDED])
    bundle, whole = Bundle.open_unsigned(path), Bundle.open_unsigned(complete)
    bundle.verify()
    assert bundle.manifest.all_graphs == whole.manifest.all_graphs
    assert {n: e for n, e in bundle.manifest.files.items() if n in before.files} == before.files
    assert {base_name(row.graph) for row in bundle.manifest.parity} >= {*ADDED}


@pytest.mark.slow
def test_other_weights_are_refused_and_nothing_is_written(
    lite2_bundle: Path, tmp_path: Path
) -> None:
    """Weights that the bundle holds in FP32 would be stored in FP16, too."""
    path = without_added(lite2_bundle, tmp_path / "lite2", "fp16")
    kept = shutil.copytree(path, tmp_path / "kept")
    with pytest.raises(ExportError, match=r"mask_decoder\.safetensors would change"):
        main([str(path), *ADDED])
    for file in kept.iterdir():
        assert (path / file.name).read_bytes() == file.read_bytes()
