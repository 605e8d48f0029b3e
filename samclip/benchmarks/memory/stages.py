"""The stages of a fresh process, each with those before it, and what each reads of the bundle."""

from __future__ import annotations

from dataclasses import dataclass

from samclip.errors import CapabilityError
from samclip.runtime.bundles.manifest import Graph, Manifest, Text


@dataclass(frozen=True)
class Stage:
    """A stage: its name, the step that the process does last, and the graphs first used by it.

    `names_by`: the parts of a bundle of which it needs one, beside text.
    """

    name: str
    step: str | None = None
    graphs: tuple[str, ...] = ()
    names_by: frozenset[str] = frozenset()


TOKENS, REGIONS = "clip_head", "region_head"
MAPS, EITHER = frozenset({TOKENS}), frozenset({TOKENS, REGIONS})


STAGES = (
    Stage("import samclip"),
    Stage("load: encoder ready", "load", ("encoder",)),
    Stage("encode a photo", "encode"),
    Stage("segment a point", "segment", ("mask_decoder",)),
    Stage("classify 20 names", "classify", ("clip_head", "clip_roi", "text_encoder"), EITHER),
    Stage("name a mask, 20 names", "name", ("roi_classifier",), frozenset({REGIONS})),
    Stage("semantic coarse, 20 names", "semantic", names_by=MAPS),
    Stage("semantic refined, 20 names", "refine", names_by=MAPS),
)
EVERYTHING = Stage("everything, 1,024 points", "everything")


def stages_of(manifest: Manifest, everything: bool) -> tuple[Stage, ...]:
    """List the stages that a bundle can go through, in order.

    Raises CapabilityError where `everything` is asked of one that names boxes.
    """
    text = manifest.text is not None
    heads = {name for name in EITHER if text and getattr(manifest, name) is not None}
    stages = tuple(stage for stage in STAGES if not stage.names_by or stage.names_by & heads)
    if everything and manifest.region_head is not None:
        raise CapabilityError(
            f"bundle {manifest.name!r} gives one mask for each prompt, and cannot segment "
            "everything. Leave out --everything, or choose another bundle."
        )
    return (*stages, EVERYTHING) if everything else stages


def bytes_read(
    manifest: Manifest, stages: tuple[Stage, ...], backend: str, precision: str | None
) -> int:
    """Add up the files of the bundle that a process reads which went through `stages`.

    Weights that graphs share count once; the manifest itself is not counted.
    """
    used = {name for stage in stages for name in stage.graphs}
    files: set[str] = set()
    for name in used:
        graph: Graph | None = getattr(manifest.graphs, name)
        if graph is not None:
            files |= _files(graph, backend, precision)
    if any(stage.names_by for stage in stages) and manifest.text is not None:
        files |= _text_files(manifest.text)
    return sum(manifest.files[name].size for name in files)


def _files(graph: Graph, backend: str, precision: str | None) -> set[str]:
    """Name the files of the variant that the runtime would take."""
    variant = graph.variant_for(backend, precision) or graph.variant_for(backend)
    if variant is None:
        return set()
    return {variant.file} | ({variant.weights} if variant.weights is not None else set())


def _text_files(text: Text) -> set[str]:
    named = (text.tokenizer, text.labels, text.label_embeddings)
    return {name for name in named if name is not None}
