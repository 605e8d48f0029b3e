"""The stages of a run one after the other, from the start or from where the run was stopped.

Ctrl-C and SIGTERM take effect between two steps: the state is written first.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from samclip.errors import SamclipError, TrainingError
from samclip.merge.config.run import RunConfig
from samclip.merge.config.stages import Stage, StitchStage, StreamName, TeachStage, TrainStage
from samclip.merge.data.batches import Processes, StageInputs
from samclip.merge.data.photo_sources import PhotoSource
from samclip.merge.students.base import Learner
from samclip.merge.students.merged_student import MergedStudent
from samclip.merge.teachers.cached_teachers import Teachers
from samclip.merge.teachers.output_cache import OutputCache
from samclip.merge.training.curves import draw_curves
from samclip.merge.training.descent import Descent
from samclip.merge.training.evaluation import Evaluator
from samclip.merge.training.launcher import handle_stop_signals
from samclip.merge.training.lessons import Lessons, Teaching, teach
from samclip.merge.training.optimiser import (
    counted_stream,
    eval_mode,
    schedule_length,
    select_parts,
    steps_to_run,
    trained_norms,
)
from samclip.merge.training.state import Place, State, StateFolder
from samclip.merge.training.step_log import StepLog
from samclip.merge.training.stitching import fit_stitch
from samclip.progress import Progress

TAUGHT = ("clip_head.taught", "taught")  # the parts that a stage of kind teach changes
STITCH = "image_encoder.stitch"  # the part that a stitch stage changes


class StoppedError(SamclipError):
    """A run was stopped by the signal `number`; its state is written."""

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


class StopRequest:
    """Remembers that the run was asked to stop.

    `number`: the signal that asked; SIGINT where it was another process of the run that was asked.
    """

    def __init__(self) -> None:
        self.asked = False
        self.number: int = signal.SIGINT

    @contextmanager
    def deferred_signals(self) -> Iterator[None]:
        """Within the block, the first signal is remembered; a second Ctrl-C raises at once."""

        def remember(number: int) -> None:
            if self.asked and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.asked = True
            self.number = number

        with handle_stop_signals(remember):
            yield


@dataclass(frozen=True)
class Run:
    """Everything that a run works with; `sources` are the photos to train on.

    `curves`: whether the losses are drawn at the end of each stage. `lessons` and `tokenizer`, the
    content of the student's `tokenizer.json`, are for stages of kind teach.
    """

    config: RunConfig
    output: Path
    student: Learner
    teachers: Teachers
    sources: Mapping[StreamName, PhotoSource]
    evaluator: Evaluator | None
    accelerator: Accelerator
    progress: Progress
    curves: bool = True
    lessons: Lessons | None = None
    tokenizer: bytes = b""


class Trainer:
    """Runs the remaining stages of a run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._folder = StateFolder(run.output / "state")
        self._log = StepLog(run.output / "log.csv")
        self._stop = StopRequest()
        self._changed = changed_names(run.student, run.config.stages)

    def train(self, state: State | None = None) -> None:
        """Train the student from a state, or from the start, to the end of the run.

        Raises StoppedError after a signal, TrainingError when training cannot go on.
        """
        place = Place(self._run.config.digest) if state is None else state.place
        if state is not None:
            self._restore(state)
        elif self._run.accelerator.is_main_process:
            self._log.clear()
        with self._stop.deferred_signals():
            if state is not None:
                self._add_missing_evaluation(place)
            for index in range(place.stage, len(self._run.config.stages)):
                stage = self._run.config.stages[index]
                if isinstance(stage, StitchStage):
                    self._stitch(stage)
                elif isinstance(stage, TeachStage):
                    self._teach(stage)
                else:
                    self._descend(stage, index, state if index == place.stage else None)
                self._finish_stage(stage, index)

    def _restore(self, state: State) -> None:
        """Load a state's weights into the student, and cut the log back to the state's step.

        Raises TrainingError when the state is of another model.
        """
        model = named_tensors(self._run.student.model)
        foreign = [n for n, t in state.model.items() if n not in model or model[n].shape != t.shape]
        if foreign:
            raise TrainingError(
                f"the state is of another model: its {foreign[0]} does not fit the student; start "
                "again with --restart, or give another --output"
            )
        with torch.no_grad():
            for name, tensor in state.model.items():
                model[name].copy_(tensor)
        stages = [stage.name for stage in self._run.config.stages]
        done, remaining = stages[: state.place.stage], stages[state.place.stage :]
        if self._run.accelerator.is_main_process:
            self._log.keep(done, remaining[0] if remaining else None, state.place.step)
        if remaining:
            note = f"continuing with step {state.place.step} of stage {remaining[0]!r}"
        else:
            note = "every stage is done already"
        self._run.progress.note(note)

    def _add_missing_evaluation(self, place: Place) -> None:
        """Evaluate the student if the run was killed after writing its state and before this."""
        run = self._run
        stages = run.config.stages
        step: int | None = None
        if place.step:
            stage = stages[place.stage]
            step = place.step
            if not (isinstance(stage, TrainStage) and _is_evaluated(stage, step)):
                return
        elif place.stage:
            stage = stages[place.stage - 1]
        else:
            return
        main = run.accelerator.is_main_process
        missing = main and not (run.evaluator is None or run.evaluator.has_record(stage.name, step))
        self._evaluate(stage.name, step, wanted=missing)
        if missing and run.curves:
            self._draw_curves()

    def _descend(self, stage: TrainStage, index: int, state: State | None) -> None:
        """Run a training stage from its start or from a state."""
        run = self._run
        accelerator = run.accelerator
        seed = run.config.seed
        photos = len(run.sources[counted_stream(stage)])
        end = steps_to_run(stage, photos)
        descent = Descent(
            stage=stage,
            student=run.student,
            teachers=run.teachers,
            seed=seed,
            length=schedule_length(stage, photos),
            accelerator=accelerator,
        )
        start = 0 if state is None else state.place.step
        if state is not None and start:
            descent.load(state)
        processes = Processes(accelerator.process_index, accelerator.num_processes)
        inputs = StageInputs(stage, run.sources, seed, processes)
        with run.progress.stage(stage.name, end, start) as shown:
            for record in descent.steps(inputs, start, end):
                if accelerator.is_main_process:
                    self._log.add(record)
                shown.advance(record.line())
                done = record.step + 1
                if self._stop_asked() and done < end:
                    self._save(index, done, descent)
                    raise self._stopped(f"step {record.step} of stage {stage.name!r}")
                if done % run.config.save_every == 0 and done < end:
                    self._save(index, done, descent)
                if _is_evaluated(stage, done) and done < end:
                    self._evaluate(stage.name, done)
        descent.finish()

    def _stitch(self, stage: StitchStage) -> None:
        run = self._run
        with run.progress.stage(stage.name, stage.length) as shown:
            fit_stitch(
                stage=stage,
                student=run.student,
                teacher=run.teachers.mask_encoder(),
                source=run.sources["masks"],
                seed=run.config.seed,
                advance=shown.advance,
            )

    def _teach(self, stage: TeachStage) -> None:
        run = self._run
        lessons, student = run.lessons, run.student
        if lessons is None or not isinstance(student, MergedStudent):
            raise TrainingError(f"stage {stage.name!r} was given no labelled photos")
        work = Teaching(
            stage=stage,
            lessons=lessons,
            student=student,
            tokenizer=run.tokenizer,
            replay=run.sources.get("names"),
            cache=OutputCache(run.teachers.cache / "labels"),
            holdout=run.config.data.holdout,
            seed=run.config.seed,
        )
        with run.progress.stage(stage.name) as shown:
            line = teach(work, shown.advance)
        run.progress.note(line)

    def _finish_stage(self, stage: Stage, index: int) -> None:
        """Write the state after a stage, evaluate the student and draw the curves."""
        self._save(index + 1, 0, None)
        self._evaluate(stage.name, None)
        if self._run.curves and self._run.accelerator.is_main_process:
            self._draw_curves()
        if self._stop_asked() and index + 1 < len(self._run.config.stages):
            raise self._stopped(f"stage {stage.name!r}")

    def _evaluate(self, stage: str, step: int | None, *, wanted: bool = True) -> None:
        run = self._run
        if wanted and run.evaluator is not None and run.accelerator.is_main_process:
            with eval_mode(run.student.model):
                record = run.evaluator.evaluate(run.student, stage, step)
            run.progress.note(record.line())
        run.accelerator.wait_for_everyone()

    def _draw_curves(self) -> None:
        """Draw the curves so far; a run does not fail when they cannot be drawn."""
        stages = [stage.name for stage in self._run.config.stages]
        try:
            draw_curves(self._run.output, stages)
        except TrainingError as error:
            self._run.progress.note(str(error))

    def _save(self, stage: int, step: int, descent: Descent | None) -> None:
        """Write the state from the first process; all processes hold the same."""
        if self._run.accelerator.is_main_process:
            tensors = named_tensors(self._run.student.model)
            weights = {name: tensors[name].detach() for name in self._changed}
            state = State(Place(self._run.config.digest, stage, step), weights)
            self._folder.write(state if descent is None else descent.state(state))
        self._run.accelerator.wait_for_everyone()

    def _stopped(self, place: str) -> StoppedError:
        return StoppedError(f"stopped after {place}", self._stop.number)

    def _stop_asked(self) -> bool:
        """Return whether any process was asked to stop; the same in all of them."""
        asked = torch.tensor([float(self._stop.asked)])
        if self._run.accelerator.num_processes > 1:
            device = self._run.accelerator.device
            asked = self._run.accelerator.reduce(asked.to(device), reduction="sum").cpu()
        return bool(asked.item())


def _is_evaluated(stage: TrainStage, done: int) -> bool:
    """Return whether the student is evaluated after `done` steps within a stage."""
    return stage.evaluate_every is not None and done % stage.evaluate_every == 0


def changed_names(student: Learner, stages: tuple[Stage, ...]) -> tuple[str, ...]:
    """Return the parameters and statistics that a run's stages change, in the model's order."""
    changed: set[str] = set()
    for stage in stages:
        if isinstance(stage, TeachStage):
            changed |= {n for n in named_tensors(student.model) if n.startswith(TAUGHT)}
            continue
        parts = {STITCH: 1.0} if isinstance(stage, StitchStage) else stage.train
        names = {part.name for part in select_parts(student.model, parts)}
        changed |= names
        if isinstance(stage, TrainStage) and stage.batch_norms == "moving":
            norms = trained_norms(student.model, names).items()
            changed |= {f"{name}.{key}" for name, norm in norms for key, _ in norm.named_buffers()}
    return tuple(name for name in named_tensors(student.model) if name in changed)


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's parameters and buffers by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
