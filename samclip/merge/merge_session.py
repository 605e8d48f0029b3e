"""One call of `samclip-merge`: the preparation of the run's folder, the work, and its result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from rich.console import Console

from samclip.cli.progress import ConsoleProgress
from samclip.disk.partial_files import as_write_error, remove_abandoned, result_file
from samclip.disk.paths import user_path
from samclip.disk.places import try_place
from samclip.disk.user_files import read_user_file
from samclip.errors import TrainingError
from samclip.export.checkpoints.checkpoint import weights_name
from samclip.export.checkpoints.fetch import packaged_license, resolve_checkpoint
from samclip.export.checkpoints.weights_files import digest_weights
from samclip.export.checkpoints.weights_paths import find_weights
from samclip.export.families.merged_assembly import Assembly, save_merged
from samclip.export.families.ovsam_assembly import OvsamAssembly, save_ovsam
from samclip.merge.config.run import MAX_FILE_BYTES, RunConfig
from samclip.merge.config.stages import Stage, TeachStage, TrainStage
from samclip.merge.config.tables import TeachersConfig
from samclip.merge.data.batches import Processes
from samclip.merge.data.photo_sources import PhotoSource
from samclip.merge.factories import (
    make_accelerator,
    make_learner,
    make_sources,
    make_student,
    make_teachers,
    make_vocabulary,
    read_lines,
    read_student,
)
from samclip.merge.precompute import plan_work, precompute
from samclip.merge.students.base import Learner
from samclip.merge.training.evaluation import Evaluator
from samclip.merge.training.lessons import Lessons, add_taught_names, read_lessons
from samclip.merge.training.state import State, StateFolder
from samclip.merge.training.trainer import Run, Trainer
from samclip.progress import SILENT, Progress
from samclip.runtime.bundles.manifest import Source

CHECKPOINT = "merged.safetensors"
CONFIG = "config.toml"
EVALUATIONS = "evaluation.json"
HELD_BACK = "held_back.txt"  # the photos that are not trained on
NAMING_PARTS = ("clip_head", "roi_classifier")

STEPS_BETWEEN_LINES = 50  # of progress, where stderr is not a terminal


@dataclass(frozen=True)
class SessionOptions:
    """The run's folder, its file, and the treatment of a state that the folder holds.

    `photos`: the folder that stands for those of the file; the run's configuration has it already.
    """

    output: Path
    file: Path
    photos: Path | None = None
    resume: bool = False
    restart: bool = False


class MergeSession:
    """A run's configuration with its teachers, photos and devices."""

    def __init__(self, config: RunConfig, options: SessionOptions, console: Console) -> None:
        self._config = config
        self._options = options
        require_place(options.output)
        self._accelerator = make_accelerator(config)
        main = self._accelerator.is_main_process
        self._progress: Progress = ConsoleProgress(console, STEPS_BETWEEN_LINES) if main else SILENT
        output = options.output
        given = config.data.cache
        cache = user_path(given, "the cache") if given else output / "cache"
        self._teachers = make_teachers(config, cache, self._accelerator.device)
        annotations = self._teachers.annotations
        self._train, self._held = make_sources(config.data, config.seed, annotations)

    def train(self) -> None:
        """Train from the start or from the folder's state, and write the merged checkpoint."""
        self._prepare_folder()
        assembly = make_student(self._config.student)
        assembly, lessons = self._prepare_lessons(assembly)
        assembly.model.to(self._accelerator.device)
        student = make_learner(assembly)
        run = Run(
            config=self._config,
            output=self._options.output,
            student=student,
            teachers=self._teachers,
            sources=self._train,
            evaluator=self._evaluator(student, self._options.output / EVALUATIONS),
            accelerator=self._accelerator,
            progress=self._progress,
            curves=lessons is None,
            lessons=lessons,
            tokenizer=b"" if assembly.tokenizer is None else assembly.tokenizer,
        )
        Trainer(run).train(self._read_state(StateFolder(self._options.output / "state")))
        if self._accelerator.is_main_process:
            path = write_result(self._config, assembly, self._options.output / CHECKPOINT)
            self._progress.note(f"the merged model is {path}; export it with samclip-export")

    def _prepare_lessons(
        self, assembly: Assembly | OvsamAssembly
    ) -> tuple[Assembly | OvsamAssembly, Lessons | None]:
        """Read the labelled photos of a stage of kind teach, and give the student its new parts."""
        stage = next((s for s in self._config.stages if isinstance(s, TeachStage)), None)
        if stage is None or not isinstance(assembly, Assembly):
            return assembly, None
        lessons = read_lessons(stage, read_lines(stage.vocabulary))
        count = len(lessons.concepts.texts)
        self._progress.note(f"{count} names are taught by {lessons.photos} labelled photos")
        return add_taught_names(assembly, stage, lessons.concepts), lessons

    def evaluate(self, checkpoint: Path) -> None:
        """Evaluate a merged checkpoint on the held-back photos."""
        assembly = read_student(checkpoint)
        assembly.model.to(self._accelerator.device)
        student = make_learner(assembly)
        evaluator = self._evaluator(student, None)
        if evaluator is None:
            raise TrainingError(
                "an evaluation needs both teachers and held-back photos: data.holdout above 0"
            )
        self._progress.note(evaluator.evaluate(student, checkpoint.name, None).line())

    def precompute(self) -> None:
        """Ask the teachers about all fixed views of the stages, and keep their answers."""
        accelerator = self._accelerator
        processes = Processes(accelerator.process_index, accelerator.num_processes)
        works = plan_work(self._config.stages, self._train, self._teachers, self._config.seed)
        if not works:
            raise TrainingError("no stage has fixed views to precompute; set views in its batches")
        for work in works:
            with self._progress.stage(work.title, work.photos // processes.world) as stage:
                count = precompute(work, processes, stage.advance)
            self._progress.note(f"{work.title}: {count} views")

    def _evaluator(self, student: Learner, file: Path | None) -> Evaluator | None:
        """Make the evaluator; None, with a note, where teachers or photos are missing."""
        names = self._config.teachers.names
        source = self._held.get("masks", self._held.get("names"))
        if names is None or self._config.teachers.masks is None or not source or not len(source):
            self._progress.note("nothing is evaluated: it takes both teachers and data.holdout")
            return None
        config = self._config.evaluation
        return Evaluator(
            config=config,
            teachers=self._teachers,
            source=source,
            vocabulary=make_vocabulary(names, self._teachers.names),
            size=config.size or student.image_size,
            file=file,
        )

    def _prepare_folder(self) -> None:
        """Prepare the run's folder. Raises TrainingError when it holds another run's state."""
        output, options = self._options.output, self._options
        states = StateFolder(output / "state")
        if self._accelerator.is_main_process:
            if options.restart:
                states.remove()
            if options.restart or not states.file.exists():
                (output / EVALUATIONS).unlink(missing_ok=True)
            if options.resume and not states.file.exists():
                raise TrainingError(f"{output} holds no state to resume; leave --resume out")
            self._read_state(states)  # refuses another run's before anything is written
            for folder in (output, states.file.parent):
                remove_abandoned(folder)
            with result_file(output / CONFIG) as file:
                if options.photos is not None:
                    file.write(f"# run with --photos {str(options.photos)!a}\n".encode())
                file.write(read_user_file(options.file, MAX_FILE_BYTES, "the file of a run"))
            with result_file(output / HELD_BACK) as file:
                file.write(_list_photos(self._held.values()))
        self._accelerator.wait_for_everyone()

    def _read_state(self, states: StateFolder) -> State | None:
        """Read the folder's state. Raises TrainingError for another run's, except with --resume."""
        state = states.read(None if self._options.resume else self._config.digest)
        if state is not None and state.place.stage > len(self._config.stages):
            raise TrainingError(
                f"the state stands at stage {state.place.stage + 1}, and the file has "
                f"{len(self._config.stages)}; give the run's own file, or start again with "
                "--restart"
            )
        return state


def require_place(output: Path) -> None:
    """Make a run's folder, and check that it can be written to, before the teachers are read.

    Raises WriteError.
    """
    with as_write_error(output):
        output.mkdir(parents=True, exist_ok=True)
        try_place(output / CHECKPOINT)


def _list_photos(sources: Iterable[PhotoSource]) -> bytes:
    """List the photos of all sources, one SHA-256 a line."""
    keys = {source.key(index) for source in sources for index in range(len(source))}
    return "".join(f"{key}\n" for key in sorted(keys)).encode()


def write_result(config: RunConfig, assembly: Assembly | OvsamAssembly, path: Path) -> Path:
    """Write a run's model to `path`, with the run's facts in its metadata. Raises WriteError."""
    teachers = teacher_sources(config.teachers)
    facts = {
        "name": config.name,
        "license": config.license,
        "notes": config.notes,
        "head_trained": assembly.metadata.head_trained or trains_head(config),
        "sources": tuple(dict.fromkeys((*assembly.metadata.sources, *teachers))),
    }
    if isinstance(assembly, OvsamAssembly):
        metadata = msgspec.structs.replace(assembly.metadata, **facts)
        return save_ovsam(replace(assembly, metadata=metadata), path)
    merged = msgspec.structs.replace(assembly.metadata, **facts)
    return save_merged(Assembly(assembly.model, merged, assembly.tokenizer), path)


def teacher_sources(teachers: TeachersConfig) -> tuple[Source, ...]:
    """Return the teachers' checkpoints with their SHA-256, each once.

    Raises CheckpointError for one that is missing.
    """
    sources = []
    for teacher in (teachers.names, teachers.masks):
        if teacher is None:
            continue
        path = find_weights(resolve_checkpoint(teacher.checkpoint))
        digest = digest_weights(path)
        sources.append(
            Source(
                role="teacher",
                file=weights_name(path),
                sha256=digest,
                license=packaged_license(digest) or "unknown",
            )
        )
    return tuple(dict.fromkeys(sources))


def trains_head(config: RunConfig) -> bool:
    """Return whether any stage trains a part that names: a CLIP head, or a region classifier."""
    return any(_trains_head(stage) for stage in config.stages)


def _trains_head(stage: Stage) -> bool:
    if isinstance(stage, TrainStage):
        return any(part.startswith(NAMING_PARTS) for part in stage.train)
    return isinstance(stage, TeachStage)
