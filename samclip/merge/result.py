"""What comes of a run: the trained model, with what the run did in its metadata."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec

from samclip.export.families.merged_assembly import Assembly, save_merged
from samclip.export.families.ovsam_assembly import OvsamAssembly, save_ovsam
from samclip.merge.config import RunConfig
from samclip.merge.provenance import teacher_sources
from samclip.merge.stages import TrainStage

HEADS = ("clip_head", "roi_classifier")


def write_result(config: RunConfig, assembly: Assembly | OvsamAssembly, path: Path) -> Path:
    """Write a run's model to `path`. Raises WriteError when the disk refuses."""
    taught_by = teacher_sources(config.teachers)
    said = {
        "name": config.name,
        "license": config.license,
        "notes": config.notes,
        "head_trained": assembly.metadata.head_trained or trains_head(config),
        "sources": tuple(dict.fromkeys((*assembly.metadata.sources, *taught_by))),
    }
    if isinstance(assembly, OvsamAssembly):
        metadata = msgspec.structs.replace(assembly.metadata, **said)
        return save_ovsam(replace(assembly, metadata=metadata), path)
    merged = msgspec.structs.replace(assembly.metadata, **said)
    return save_merged(Assembly(assembly.model, merged, assembly.tokenizer), path)


def trains_head(config: RunConfig) -> bool:
    """Whether any stage trains what names: a CLIP head, or a classifier of regions."""
    return any(
        isinstance(stage, TrainStage) and any(part.startswith(HEADS) for part in stage.train)
        for stage in config.stages
    )
