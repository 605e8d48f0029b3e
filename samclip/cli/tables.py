"""Tables for people: the answers of tasks, and the parts of a manifest for `samclip info`.

They hold what fits a terminal; `--json` has everything.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from samclip.cli.terminal import SafeConsole, in_one_line, out

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.measure import Measurement
    from rich.text import TextType

    from samclip.runtime.bundles.manifest import (
        Graph,
        Manifest,
        NamingHead,
        ParityRow,
        RoundingRow,
        TensorSpec,
    )
    from samclip.runtime.results.classification import Classification, SemanticMap
    from samclip.runtime.results.masks import Masks

MOST_ROWS = 20
BOX = "box x1,y1,x2,y2"  # a column
WIDEST = 100_000  # columns of a table that needs not fit a terminal


def make_table(
    *columns: str, left: Sequence[str] = ("name",), caption: TextType | None = None
) -> Table:
    """Make an empty table; columns named in `left` hold text, the others numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="", caption=caption)
    for column in columns:
        if column in left:
            table.add_column(column, overflow="fold")  # folded, for a name must not be cut
        else:
            table.add_column(column, justify="right", no_wrap=True)
    return table


def cell(text: str) -> str:
    """Return a name for a cell: no markup is read in it, and it stays on one line."""
    return escape(in_one_line(text))


def fit_words(
    table: Table, less: Sequence[str] = (), whole: Sequence[str] = (), wide: bool = False
) -> Table:
    """Return the table without as many columns of `less` as would have a word broken.

    `less`: columns, the least important first. `whole`: columns whose cells stay on one line. The
    caption names what is left out. Where even the rest is too wide, words are broken, for nothing
    may be cut. If `wide`, all columns stay.
    """
    for column in table.columns:
        cells = [Text.from_markup(str(part)).plain for part in (column.header, *column.cells)]
        words = [word for each in cells for word in each.split()]
        column.min_width = max(map(cell_len, cells if column.header in whole else words), default=0)
        column.no_wrap = column.no_wrap or column.min_width == max(map(cell_len, cells))
    left_out: list[str] = []
    for name in less:
        if wide or _full_measure(table).minimum <= out.width:
            break
        left_out += [str(column.header) for column in table.columns if column.header == name]
        table = _without_column(table, name)
    if not wide and _full_measure(table).minimum > out.width:
        for column in table.columns:
            column.min_width, column.no_wrap = None, column.overflow != "fold"
    if left_out:
        notes = [str(table.caption)] if table.caption else []
        table.caption = "; ".join([*notes, f"{', '.join(left_out)}: see --wide"])
    return table


def _without_column(table: Table, name: str) -> Table:
    """Return the table as `make_table` makes them, but for one column."""
    kept = [column for column in table.columns if column.header != name]
    made = make_table(caption=table.caption)
    for column in kept:
        made.add_column(
            column.header,
            justify=column.justify,
            overflow=column.overflow,
            min_width=column.min_width,
            no_wrap=column.no_wrap,
        )
    for cells in zip(*(column.cells for column in kept), strict=True):
        made.add_row(*cells)
    return made


def text_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Make a table of text; no cell is read as markup."""
    table = make_table(*columns, left=columns)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def format_bytes(size: int) -> str:
    """Return a size in units of 1000, as `41.2 MB`."""
    if size < 1000:
        return f"{size} B"
    number = size / 1000
    for unit in ("kB", "MB", "GB"):
        if number < 999.95:
            return f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def print_table(table: RenderableType, wide: bool = False) -> None:
    """Print a table on stdout; if `wide`, with lines as long as they need to be."""
    if wide:
        wide_out = SafeConsole(file=out.file, width=full_width(table), highlight=False, emoji=False)
        wide_out.print(table)  # a console prints nothing wider than itself
    else:
        out.print(table)


def full_width(table: RenderableType) -> int:
    """Return the columns that a table takes when no line of it is broken."""
    return _full_measure(table).maximum


def _full_measure(table: RenderableType) -> Measurement:
    return out.measure(table, options=out.options.update(width=WIDEST))


def list_shares(named: Iterable[tuple[str, float]], most: int) -> str:
    """Return the first `most` names with their shares of one whole in percent, in one line."""
    from samclip.runtime.results.shares import in_percent

    return ", ".join(f"{name} {text}" for name, _, text in in_percent(named)[:most])


def show_classification(answer: Classification, top: int) -> Table:
    """List the best names with their probabilities in percent."""
    from samclip.runtime.results.shares import in_percent

    table = make_table("probability", "name")
    for name, _, text in in_percent(answer.top(len(answer.names)), decimals=1)[:top]:
        table.add_row(text, cell(name))
    return table


def show_masks(answer: Masks, top: int | None = None, wide: bool = False) -> Table:
    """List masks with their share of the image; only the first ones when there are many.

    `top`: the best masks only, best first. Unless `wide`, columns that names leave no room for are
    left out, so that no name is broken: the box, then the object, then the score.
    """
    chosen = answer if top is None else answer.best(top)
    most = MOST_ROWS if top is None else top
    rows = [_mask_cells(chosen, row) for row in range(min(len(chosen), most))]
    table = make_table(*(rows[0] if rows else ("#",)))
    for cells in rows:
        table.add_row(*cells.values())
    more = len(answer) - len(rows)
    table.caption = f"and {more} more; --json lists all" if more else None
    return fit_words(table, less=(BOX, "object", "score"), whole=("name",), wide=wide)


def sum_up_masks(answer: Masks) -> str:
    """Return how many masks there are, and how many of each name, the most frequent first."""
    count = f"{len(answer):,} mask{'' if len(answer) == 1 else 's'}"
    found = Counter(answer.names or ()).most_common()
    names = ", ".join(f"{name} ({n})" if n > 1 else name for name, n in found)
    return f"{count}: {names}" if names else count


def sum_up_map(answer: SemanticMap) -> str:
    """Return the names found, with their shares of the image, the largest first."""
    from samclip.runtime.results.poster import area_shares

    shares = area_shares(answer).items()
    return list_shares(shares, len(shares)) or "no name"


def show_semantic(answer: SemanticMap) -> Table:
    """List the names found with their share of the image, largest first."""
    from samclip.runtime.results.shares import in_percent

    table = make_table("area", "score", "name")
    classes = answer.to_dict()["classes"]
    shares = in_percent(((found["name"], found["fraction"]) for found in classes), decimals=1)
    for found, (name, _, area) in zip(classes, shares, strict=True):
        table.add_row(area, _format_score(found["mean_score"], 2), cell(name))
    return table


def _format_score(score: float | None, decimals: int) -> str:
    """Return a score as text; a dash where none was predicted."""
    return "-" if score is None or math.isnan(score) else f"{score:.{decimals}f}"


def _mask_cells(answer: Masks, row: int) -> dict[str, str]:
    """Describe one mask: column -> text."""
    cells = {"#": str(row)}
    if answer.prompts:  # several masks may answer one prompt
        cells["object"] = str(int(answer.prompt_index[row]))
    if answer.names is not None and answer.name_probabilities is not None:
        cells["name"] = cell(answer.names[row])
        cells["probability"] = f"{answer.name_probabilities[row]:.1%}"
    height, width = answer.packed.size
    cells["score"] = _format_score(answer.confidences[row], 3)
    cells["area"] = f"{int(answer.areas[row]) / (height * width):.1%}"
    cells[BOX] = ",".join(f"{edge:.0f}" for edge in answer.boxes[row])
    return cells


def summary_table(manifest: Manifest) -> Table:
    """List the model's properties: type, inputs, precisions, storage, head, text space."""
    variants = [variant for graph in _graphs(manifest).values() for variant in graph.variants]
    properties = {
        "model": manifest.model_type,
        "image size": ", ".join(f"{width} x {height}" for height, width in manifest.canvases),
        "encoder takes": ", ".join(map(_describe_input, manifest.graphs.encoder.inputs)),
        "precision": ", ".join(sorted({variant.precision for variant in variants})),
        "weights": ", ".join(sorted({variant.weights_dtype for variant in variants})),
        _head_title(manifest): _describe_head(manifest.head),
        "text": _describe_text(manifest),
    }
    return text_table(("property", "value"), properties.items())


def _describe_input(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} {'x'.join(map(str, spec.shape))}"


def _head_title(manifest: Manifest) -> str:
    return "CLIP head" if manifest.clip_tower is None else "second tower"


def _describe_head(head: NamingHead | None) -> str:
    from samclip.runtime.bundles.manifest import ClipHead, ClipTower

    if head is None:
        return "none: cannot name anything"
    state = "trained" if head.trained else "UNTRAINED: names mean nothing"
    if isinstance(head, ClipTower):
        return (
            f"{state}; CLIP at {head.image_size} x {head.image_size}; {head.embed_dim}-d, "
            f"{head.grid} x {head.grid} tokens; names masks by {head.name_by}"
        )
    names = f"{head.grid} x {head.grid} tokens" if isinstance(head, ClipHead) else "names regions"
    return f"{state}; {head.embed_dim}-d, {names}"


def _describe_text(manifest: Manifest) -> str:
    text = manifest.text
    if text is None:
        return "none"
    templates = text.templates if isinstance(text.templates, str) else len(text.templates)
    has_encoder = manifest.graphs.text_encoder is not None
    source = "any name" if has_encoder else "only its ready-made labels"
    return f"{text.model}, {text.embed_dim}-d, templates: {templates}; {source}"


def graphs_table(manifest: Manifest, all_shapes: bool = True) -> Table:
    """List every variant of every graph; without `all_shapes`, of those for the first shape."""
    columns = ("graph", "file", "precision", "weights", "attention", "opset", "backends")
    table = make_table(*columns, left=[name for name in columns if name != "opset"])
    for name, graph in _graphs(manifest, all_shapes).items():
        for variant in graph.variants:
            attention = variant.attention or "-"
            backends = ", ".join(map(variant.reader, variant.backends))
            formats = (variant.precision, variant.weights_dtype)
            cells = (name, cell(variant.file), *formats, attention)
            table.add_row(*cells, str(variant.opset), backends)
    return table


def tensors_table(manifest: Manifest, all_shapes: bool = True) -> Table:
    """List the inputs and outputs of every graph, or of those for the first shape."""
    rows = [
        (name, direction, spec.name, spec.dtype, " x ".join(map(str, spec.shape)) or "scalar")
        for name, graph in _graphs(manifest, all_shapes).items()
        for direction, specs in (("in", graph.inputs), ("out", graph.outputs))
        for spec in specs
    ]
    return text_table(("graph", "direction", "tensor", "dtype", "shape"), rows)


def files_table(manifest: Manifest) -> Table:
    """List the files with their sizes, and the sum."""
    table = make_table("file", "size", "sha256", left=("file", "sha256"))
    for name, entry in sorted(manifest.files.items()):
        table.add_row(cell(name), format_bytes(entry.size), entry.sha256[:16])
    total = sum(entry.size for entry in manifest.files.values())
    table.add_row(f"{len(manifest.files)} files", format_bytes(total), "")
    return table


def provenance_table(manifest: Manifest) -> Table:
    """List the checkpoints that the bundle was exported from."""
    table = make_table("source", "file", "licence", "sha256", left=("source", "file", "licence"))
    for source in manifest.provenance.sources:
        table.add_row(source.role, cell(source.file), cell(source.license), source.sha256[:16])
    return table


def parity_table(manifest: Manifest, all_shapes: bool = True) -> Table:
    """List the worst error of each output against the torch model, over all photos.

    Without `all_shapes` the worst of all shapes of a graph is one row.
    """
    from samclip.runtime.bundles.manifest import base_name

    columns = ("graph", "output", "variants x photos", "worst error", "tolerance")
    table = make_table(*columns, left=columns[:2])
    by_output: dict[tuple[str, str], list[ParityRow]] = {}
    for row in manifest.parity:
        graph = row.graph if all_shapes else base_name(row.graph)
        by_output.setdefault((graph, row.output), []).append(row)
    for (graph, output), rows in by_output.items():
        worst = max(rows, key=lambda row: row.max_rel_error / row.tolerance)
        errors = (f"{worst.max_rel_error:.1e}", f"{worst.tolerance:.0e}")
        table.add_row(cell(graph), cell(output), str(len(rows)), *errors)
    return table


def rounding_table(manifest: Manifest, all_shapes: bool = True) -> Table:
    """List how far rounded weights moved each output, on the photo where they moved it most.

    Without `all_shapes` the worst of all shapes of a graph is one row.
    """
    from samclip.runtime.bundles.manifest import base_name

    columns = ("graph", "output", "weights", "measure", "worst", "limit", "photo")
    table = make_table(*columns, left=("graph", "output", "weights", "measure", "photo"))
    worst: dict[tuple[str, str], RoundingRow] = {}
    for row in manifest.rounding:
        key = (row.graph if all_shapes else base_name(row.graph), row.output)
        if key not in worst or row.margin < worst[key].margin:
            worst[key] = row
    for (graph, output), row in worst.items():
        names = (cell(graph), cell(output), row.weights_dtype, row.measure)
        table.add_row(*names, f"{row.value:.5f}", f"{row.limit:g}", cell(row.image))
    return table


def gates_table(manifest: Manifest) -> Table:
    """List the accuracy of every reduced precision on held-back photos, relative to FP32."""
    columns = ("precision", "measure", "value", "at least", "samples", "photos")
    table = make_table(*columns, left=columns[:2])
    for reduction in manifest.reductions:
        for row in reduction.gates:
            limit = "-" if row.limit is None else f"{row.limit:g}"
            cells = (f"{row.value:.5f}", limit, f"{row.samples:,}", str(reduction.photos))
            form = f" ({row.attention})" if row.attention else ""
            table.add_row(reduction.precision + form, row.measure.replace("_", " "), *cells)
    return table


def exceptions_table(manifest: Manifest) -> Table:
    """List the parts that are not in the precision of their variants, and the checks left out."""
    rows: list[tuple[str, str, str]] = []
    for reduction in manifest.reductions:
        for node in reduction.kept:
            form = f" ({node.attention})" if node.attention else ""
            what = f"{node.graph}{form} {node.node}"
            why = f"FP32: {node.reason} ({node.tensor} reaches {node.peak:,.0f})"
            rows.append((reduction.precision, what, why))
        fallen_back = "not INT8: the gate would not hold"
        rows += [(reduction.precision, layer, fallen_back) for layer in reduction.fallen_back]
        rows += [(reduction.precision, name, "FP32: --keep-fp32") for name in reduction.keep]
        rows += [(reduction.precision, "-", note) for note in reduction.skipped]
    return text_table(("precision", "what", "why"), rows)


def _graphs(manifest: Manifest, all_shapes: bool = True) -> dict[str, Graph]:
    """Return the graphs that the bundle has, by name, in the order in which they run."""
    names = (
        "encoder",
        "token_aggregation",
        "clip_head",
        "clip_encoder",
        "mask_decoder",
        "image_keys",
        "point_decoder",
        "mask_upscaler",
        "roi_classifier",
        "clip_roi",
        "text_encoder",
    )
    from samclip.runtime.bundles.manifest import base_name

    graphs = {
        name: graph
        for name, graph in manifest.all_graphs.items()
        if all_shapes or base_name(name) == name
    }
    return {name: graphs[name] for name in sorted(graphs, key=lambda n: names.index(base_name(n)))}
