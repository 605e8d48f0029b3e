"""Export some graphs of a bundle again, or for the first time, on the weights that it has.

    python -m tools.regraph samclip/assets/bundles/samclip-tiny image_keys point_decoder

The model is rebuilt from the bundle, and the graphs are verified against it as in any export, for
every shape of input. All else stays as it is, byte for byte, also the weights files: where a graph
would need other weights, nothing is written. So a bundle gets what a newer exporter writes, without
the checkpoint that it came from.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from samclip.errors import ExportError
from samclip.export.canvases import at_canvases
from samclip.export.exporter import finish_graphs, store_graphs
from samclip.export.families.read_model import read_model
from samclip.export.graph_files import GraphFiles, with_graphs
from samclip.export.options import ExportOptions
from samclip.export.rebuilding.bundle_checkpoint import at_first_canvas
from samclip.export.verification import GraphPair, verify
from samclip.progress import SILENT
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import Graphs, WeightsDtype, base_name
from samclip.runtime.bundles.writing import write_bundle
from samclip.runtime.pixels.image import photo_paths

PHOTOS = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, and write the bundle once more."""
    parser = argparse.ArgumentParser(prog="python -m tools.regraph", description=__doc__)
    parser.add_argument("bundle", type=Path, help="the bundle's folder, which is replaced")
    parser.add_argument("graphs", nargs="+", choices=Graphs.__struct_fields__, metavar="GRAPH")
    given = parser.parse_args(arguments)
    regraph(given.bundle, given.graphs)


def regraph(path: Path, names: Sequence[str]) -> None:
    """Replace or add these graphs of the bundle at `path`; raises ExportError, ParityError."""
    bundle = Bundle.open_unsigned(path)
    manifest = bundle.manifest
    options = ExportOptions(checkpoint=path, output=path)
    model = at_first_canvas(manifest, read_model(options))
    models = at_canvases(model, manifest.canvases)
    photos = photo_paths(options.photos)[:PHOTOS]
    kept = [files for files in _graphs(bundle) if base_name(files.name) not in names]
    made = [
        graph.write(options.attention, _opset(bundle))
        for one in models
        for graph in one.graphs
        if base_name(graph.name) in names
    ]
    samples = [sample for one in models for photo in photos for sample in one.samples(photo)]
    pairs = store_graphs(made, lambda owner: _dtype(bundle, owner))
    exact = [GraphPair(pair.original, pair.original) for pair in pairs]  # stored as they are held
    proof = verify(exact, samples, SILENT)
    stored = finish_graphs([*kept, *(pair.stored for pair in pairs)])
    files = {name: data for graph in stored for name, data in graph.files.items()}
    own = {v.file for graph in _graphs(bundle) for v in graph.graph.variants}
    rest = {name: bundle.read(name) for name in manifest.files if name not in own}
    if changed := [name for name, data in rest.items() if files.get(name, data) != data]:
        raise ExportError(f"{', '.join(changed)} would change: the graphs have other weights")
    parity = tuple(row for row in manifest.parity if base_name(row.graph) not in names)
    manifest = replace(with_graphs(manifest, stored), parity=(*parity, *proof.parity))
    write_bundle(path, replace(manifest, files={}), {**rest, **files}, overwrite=True)


def _graphs(bundle: Bundle) -> Iterator[GraphFiles]:
    for name, graph in bundle.manifest.all_graphs.items():
        held = {v.file for v in graph.variants} | {v.weights for v in graph.variants if v.weights}
        yield GraphFiles(name, graph, {file: bundle.read(file) for file in sorted(held)})


def _dtype(bundle: Bundle, owner: str) -> WeightsDtype:
    graph = bundle.manifest.graph(owner)
    return "fp32" if graph is None else graph.variants[0].weights_dtype


def _opset(bundle: Bundle) -> int:
    return min(v.opset for graph in bundle.manifest.all_graphs.values() for v in graph.variants)


if __name__ == "__main__":
    main()
