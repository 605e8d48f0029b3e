"""A stage that teaches names: its labelled photos, the student's new parts, the fit, the check.

A tenth of the labelled photos, or what `data.holdout` says, is held back. After the fit their
regions are named among the concepts, which gives the accuracy and the calibration of the stage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import msgspec
import numpy as np
import torch
import torch.nn.functional as F

from samclip.errors import ConfigError, TrainingError
from samclip.export.checkpoints.imagenet_classes import imagenet_names
from samclip.export.checkpoints.metadata import TaughtMetadata
from samclip.export.families.merged_assembly import Assembly
from samclip.export.families.stitched import embed_texts
from samclip.export.models.conse_head import ConseHead
from samclip.export.models.taught_names import TaughtTexts
from samclip.merge.config.stages import LabelSource, TeachStage
from samclip.merge.data.label_sources import (
    Concepts,
    LabelledPhoto,
    parse_concepts,
    read_label_source,
)
from samclip.merge.data.photo_sources import PhotoSource
from samclip.merge.data.seeds import SEED_BITS, derive_seed
from samclip.merge.students.merged_student import MergedStudent
from samclip.merge.teachers.output_cache import OutputCache
from samclip.merge.training.label_rows import PhotoRows, RowMaker, gather_rows
from samclip.merge.training.teaching import (
    LabelledRows,
    ReplayRows,
    expected_calibration_error,
    fit_taught,
)
from samclip.runtime.bundles.manifest import Confidence

FEWEST_PHOTOS = 2  # that show a concept


@dataclass(frozen=True)
class Lessons:
    """The concepts that are shown by labelled photos, and the photos of each source."""

    concepts: Concepts
    sources: tuple[tuple[LabelSource, tuple[LabelledPhoto, ...]], ...]

    @property
    def photos(self) -> int:
        """The number of photos of all sources."""
        return sum(len(photos) for _, photos in self.sources)


def read_lessons(stage: TeachStage, lines: Sequence[str]) -> Lessons:
    """Read the labelled photos of a stage; `lines` are those of its vocabulary.

    Concepts that fewer than two photos show are left out. Raises InputError, and TrainingError
    where no concept is left.
    """
    concepts = parse_concepts(lines)
    places = concepts.places()
    sources = tuple((source, tuple(read_label_source(source))) for source in stage.sources)
    shown = np.zeros(len(concepts.texts), np.int64)
    for _, photos in sources:
        for photo in photos:
            for place in {places[name] for name in photo.names if name in places}:
                shown[place] += 1
    chosen = np.flatnonzero(shown >= FEWEST_PHOTOS).tolist()
    if not chosen:
        raise TrainingError(
            f"stage {stage.name!r}: no concept of {stage.vocabulary} is a name in its sources; "
            "rename their classes in `names`"
        )
    return Lessons(concepts.picked(chosen), sources)


def add_taught_names(assembly: Assembly, stage: TeachStage, concepts: Concepts) -> Assembly:
    """Add the parts for taught names to a model, in place: texts of concepts, and zeros as scores.

    Raises ConfigError for a model whose head is not ConSE's, or that has no text tower.
    """
    model, metadata = assembly.model, assembly.metadata
    tower, head = model.text, model.clip_head
    if not isinstance(head, ConseHead) or tower is None or assembly.tokenizer is None:
        raise ConfigError(
            f"stage {stage.name!r} teaches names to a lite2 model with a text tower; give such a "
            "checkpoint as student.checkpoint"
        )
    most = max(map(len, concepts.texts))
    padded = [[*texts, *[texts[-1]] * (most - len(texts))] for texts in concepts.texts]
    described = TaughtMetadata(
        names=concepts.names,
        texts=most,
        sharpness=stage.sharpness,
        centre=stage.centre,
        slope=stage.slope,
        logit_scale=stage.logit_scale,
        conse_scale=stage.conse_scale,
        image_share=stage.image_share,
        untaught=stage.untaught,
    )
    sure = stage.region_confidence
    confidence = None if sure is None else Confidence(**msgspec.structs.asdict(sure))
    metadata = msgspec.structs.replace(
        metadata,
        taught=described,
        confidence=confidence,
        image_confidence=stage.image_confidence,
    )
    config = metadata.taught_config
    if config is None:
        raise TrainingError("metadata with taught names describes none: a defect, report it")
    vectors = embed_texts(tower, assembly.tokenizer, [one for each in padded for one in each])
    taught = TaughtTexts(config)
    taught.set_texts(vectors.reshape(config.concepts, most, -1))
    if metadata.text is not None:
        scale = stage.logit_scale * stage.confidence
        space = _joint_space(metadata.text.space, described, taught)
        text = msgspec.structs.replace(metadata.text, logit_scale=scale, space=space)
        metadata = msgspec.structs.replace(metadata, text=text)
    head.teach(config)
    model.taught = taught
    model.config = replace(model.config, taught=config)
    return Assembly(model.eval(), metadata, assembly.tokenizer)


def _joint_space(space: str, described: TaughtMetadata, taught: TaughtTexts) -> str:
    """Name the space that names are joined in: other taught names make another one."""
    digest = hashlib.sha256(space.encode())
    digest.update(msgspec.json.encode(described))
    digest.update(taught.texts.numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Teaching:
    """What a stage of kind teach works with; `replay` are the photos of `[data.names]`."""

    stage: TeachStage
    lessons: Lessons
    student: MergedStudent
    tokenizer: bytes
    replay: PhotoSource | None
    cache: OutputCache
    holdout: float
    seed: int


def teach(work: Teaching, advance: Callable[[str], None]) -> str:
    """Fit the student's taught names, and return a line about the held-back regions.

    `advance` is called after each photo and each step.
    """
    model, stage = work.student.model, work.stage
    head, taught = model.clip_head, model.taught
    if not isinstance(head, ConseHead) or head.taught is None or taught is None:
        raise TrainingError("the student has no parts for taught names: a defect, report it")
    maker = RowMaker(work.student, work.cache)
    places = work.lessons.concepts.places()
    train: list[LabelledRows] = []
    held: list[LabelledRows] = []
    for source, photos in work.lessons.sources:
        for photo, rows in zip(photos, gather_rows(photos, source, maker, advance), strict=True):
            is_held = derive_seed("holdout", work.seed, photo.key) < work.holdout * 2**SEED_BITS
            (held if is_held else train).append(_labelled(photo, rows, places))
    replay = None
    if stage.replay and work.replay is not None:
        replay = _replay(work, maker, advance)
    generator = torch.Generator().manual_seed(derive_seed(work.seed, stage.name))
    branch = fit_taught(stage, taught, _join(train), replay, generator, advance)
    head.taught.load_state_dict(branch.state_dict())
    if not held:
        return "no labelled photo is held back"
    return _judge(head, taught, _join(held), stage.confidence)


def _labelled(photo: LabelledPhoto, rows: PhotoRows, places: dict[str, int]) -> LabelledRows:
    """Name a photo's rows; those of names that are not taught are left out."""
    named = torch.tensor([places.get(name, -1) for name in photo.names])[rows.regions]
    kept = named >= 0
    features = rows.features[kept]
    context = rows.context.expand(len(features), -1)
    return LabelledRows(features, context, rows.conse[kept], named[kept])


def _join(parts: Sequence[LabelledRows]) -> LabelledRows:
    return LabelledRows(
        features=torch.cat([part.features for part in parts]),
        context=torch.cat([part.context for part in parts]),
        conse=torch.cat([part.conse for part in parts]),
        concepts=torch.cat([part.concepts for part in parts]),
    )


def _replay(work: Teaching, maker: RowMaker, advance: Callable[[str], None]) -> ReplayRows | None:
    """Return whole photos, to be shared among ImageNet's names."""
    source, tower = work.replay, work.student.model.text
    if source is None or tower is None:
        return None
    names = embed_texts(tower, work.tokenizer, imagenet_names())  # KxD
    rows = []
    for index in range(len(source)):
        read = partial(source.photo, index)
        rows.append(maker.whole(source.key(index), read, work.student.image_size))
        advance(f"photo {index + 1} of the replay")
    conse = torch.stack([row.image_conse for row in rows])
    features = torch.stack([row.context for row in rows])
    return ReplayRows(features, conse, names)


@torch.inference_mode()
def _judge(head: ConseHead, taught: TaughtTexts, rows: LabelledRows, confidence: float) -> str:
    """Name held-back rows among the concepts, as a model does, and describe how well that went."""
    branch = head.taught
    if branch is None:
        raise TrainingError("the head has no taught names: a defect, report it")
    features, context = rows.features.float(), rows.context.float()
    pictures = branch.join(rows.conse, branch.local(features) + branch.context(context))
    config = taught.config
    plain = taught.texts.reshape(config.concepts, config.texts, -1)[:, 0]
    logits = config.logit_scale * F.normalize(pictures, dim=1) @ taught(plain).T
    shares, answers = (logits * confidence).softmax(dim=1).max(dim=1)
    correct = (answers == rows.concepts).numpy()
    error = expected_calibration_error(shares.numpy(), correct)
    return (
        f"held-back regions and tokens: {correct.mean():.3f} of {len(correct)} get the right one "
        f"of {config.concepts} names, expected calibration error {error:.3f}"
    )
