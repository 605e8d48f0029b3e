"""A run from its first stage to the merged checkpoint, or from where it was stopped.

Ctrl-C and SIGTERM, heeded between steps.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from samclip.errors import SamclipError, TrainingError
from samclip.merge.config.run import RunConfig
from samclip.merge.config.stages import Stage, StitchStage, StreamName, TrainStage
from samclip.merge.data.batches import Processes, StageInputs
from samclip.merge.data.photo_sources import PhotoSource
from samclip.merge.students.merged_student import Learner
from samclip.merge.training.curves import draw_curves
from samclip.merge.training.descent import Descent
from samclip.merge.training.evaluation import Evaluator
from samclip.merge.training.optimiser import (
    counted_stream,
    eval_mode,
    schedule_length,
    select_parts,
    steps_to_run,
    trained_norms,
)
from samclip.merge.training.reporting import Reporter, StepLog
from samclip.merge.training.state import Place, State, StateFolder
from samclip.merge.training.stitching import fit_stitch
from samclip.merge.training.targets import Teachers


class Interrupts:
    """Remembers that the run was asked to stop; a second Ctrl-C stops it at once.

    `number`: the signal that asked; Ctrl-C's where another process of the run was asked.
    """

    def __init__(self) -> None:
        self.asked = False
        self.number: int = signal.SIGINT

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Within, the first signal is remembered instead of ending the process."""

        def remember(number: int, frame: FrameType | None) -> None:
            del frame
            if self.asked and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.asked, self.number = True, number

        before = {number: signal.signal(number, remember) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


STITCHED = "image_encoder.stitch"


class StoppedError(SamclipError):
    """A run was asked to stop, by the signal `number`; its state is written."""

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


@dataclass(frozen=True)
class Run:
    """All that a run works with; `sources` are the photos to train on.

    `curves`: whether its losses are drawn at the end of each stage.
    """

    config: RunConfig
    output: Path
    student: Learner
    teachers: Teachers
    sources: Mapping[StreamName, PhotoSource]
    evaluator: Evaluator | None
    accelerator: Accelerator
    reporter: Reporter
    curves: bool = True


class Trainer:
    """Runs the stages that are still to be run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._folder = StateFolder(run.output / "state")
        self._log = StepLog(run.output / "log.csv")
        self._interrupts = Interrupts()
        self._changed = changed_names(run.student, run.config.stages)

    def train(self, state: State | None = None) -> None:
        """Run from a state, or from the start, to the end; the student then is what comes of it.

        Raises StoppedError after a signal, TrainingError when training cannot go on.
        """
        place = Place(self._run.config.digest) if state is None else state.place
        if state is not None:
            self._restore(state)
        elif self._run.accelerator.is_main_process:
            self._log.clear()
        with self._interrupts.heeded():
            if state is not None:
                self._catch_up(place)
            for index in range(place.stage, len(self._run.config.stages)):
                stage = self._run.config.stages[index]
                if isinstance(stage, StitchStage):
                    self._stitch(stage)
                else:
                    self._descend(stage, index, state if index == place.stage else None)
                self._finish(stage, index)

    def _restore(self, state: State) -> None:
        """Put a state's weights into the student, and the log back to where the state was.

        Raises TrainingError when the state is of another model.
        """
        model = named_tensors(self._run.student.model)
        foreign = [n for n, t in state.model.items() if n not in model or model[n].shape != t.shape]
        if foreign:
            raise TrainingError(
                f"the state is of another model: its {foreign[0]} does not fit the student; begin "
                "anew with --restart, or give another --output"
            )
        with torch.no_grad():
            for name, tensor in state.model.items():
                model[name].copy_(tensor)
        stages = [stage.name for stage in self._run.config.stages]
        if self._run.accelerator.is_main_process:
            done, ahead = stages[: state.place.stage], stages[state.place.stage :]
            self._log.keep(done, ahead[0] if ahead else None, state.place.step)
        self._run.reporter.note(self._continuing(state.place, stages))

    def _catch_up(self, place: Place) -> None:
        """Judge the student where the run was killed between writing its state and judging it."""
        run, due = self._run, self._judged_at(place)
        if due is None:
            return
        main = run.accelerator.is_main_process
        lacks = main and not (run.evaluator is None or run.evaluator.has_record(*due))
        self._evaluate(*due, wanted=lacks)
        if lacks and run.curves:
            self._draw()

    def _judged_at(self, place: Place) -> tuple[str, int | None] | None:
        """Name the stage and step at which a student of this place is judged, None for no such."""
        stages = self._run.config.stages
        if not place.step:
            return (stages[place.stage - 1].name, None) if place.stage else None
        stage = stages[place.stage]
        eval_mode = isinstance(stage, TrainStage) and _is_judged(stage, place.step)
        return (stage.name, place.step) if eval_mode else None

    def _continuing(self, place: Place, stages: list[str]) -> str:
        if place.stage == len(stages):
            return "every stage is done already"
        return f"continuing with step {place.step} of stage {stages[place.stage]!r}"

    def _descend(self, stage: TrainStage, index: int, state: State | None) -> None:
        """Run a training stage from its beginning or from a state."""
        run = self._run
        photos = len(run.sources[counted_stream(stage)])
        length, end = schedule_length(stage, photos), steps_to_run(stage, photos)
        seed, accelerator = run.config.seed, run.accelerator
        descent = Descent(stage, run.student, run.teachers, seed, length, accelerator)
        start = 0 if state is None else state.place.step
        if state is not None and start:
            descent.load(state)
        processes = Processes(accelerator.process_index, accelerator.num_processes)
        inputs = StageInputs(stage, dict(run.sources), seed, processes)
        with run.reporter.stage(stage.name, start, end):
            for record in descent.steps(inputs, start, end):
                if accelerator.is_main_process:
                    self._log.add(record)
                run.reporter.step(record)
                done = record.step + 1
                if self._stop_asked() and done < end:
                    self._save(index, done, descent)
                    raise self._stopped(f"step {record.step} of stage {stage.name!r}")
                if done % run.config.save_every == 0 and done < end:
                    self._save(index, done, descent)
                if _is_judged(stage, done) and done < end:
                    self._evaluate(stage.name, done)
        descent.finish()

    def _stitch(self, stage: StitchStage) -> None:
        run = self._run
        teacher = run.teachers.mask_encoder()
        with run.reporter.stage(stage.name, 0, stage.length):
            source, seed, advance = run.sources["masks"], run.config.seed, run.reporter.advance
            fit_stitch(stage, run.student, teacher, source, seed, advance)

    def _finish(self, stage: Stage, index: int) -> None:
        """Write the state after a stage, judge the student and draw the curves."""
        self._save(index + 1, 0, None)
        self._evaluate(stage.name, None)
        if self._run.curves and self._run.accelerator.is_main_process:
            self._draw()
        if self._stop_asked() and index + 1 < len(self._run.config.stages):
            raise self._stopped(f"stage {stage.name!r}")

    def _evaluate(self, stage: str, step: int | None, *, wanted: bool = True) -> None:
        run = self._run
        if wanted and run.evaluator is not None and run.accelerator.is_main_process:
            with eval_mode(run.student.model):
                record = run.evaluator.evaluate(run.student, stage, step)
            run.reporter.note(record.line())
        run.accelerator.wait_for_everyone()

    def _draw(self) -> None:
        """Draw the curves so far; a run does not end for want of a picture."""
        stages = [stage.name for stage in self._run.config.stages]
        try:
            draw_curves(self._run.output, stages)
        except TrainingError as error:
            self._run.reporter.note(str(error))

    def _save(self, stage: int, step: int, descent: Descent | None) -> None:
        """Write the state; all processes hold the same, so the first one does it."""
        if self._run.accelerator.is_main_process:
            place = Place(self._run.config.digest, stage, step)
            state = State(place, self._weights())
            self._folder.write(state if descent is None else descent.state(state))
        self._run.accelerator.wait_for_everyone()

    def _weights(self) -> dict[str, Tensor]:
        tensors = named_tensors(self._run.student.model)
        return {name: tensors[name].detach() for name in self._changed}

    def _stopped(self, place: str) -> StoppedError:
        return StoppedError(f"stopped after {place}", self._interrupts.number)

    def _stop_asked(self) -> bool:
        """Tell whether any process was asked to stop; all of them hear the same."""
        asked = torch.tensor([float(self._interrupts.asked)])
        if self._run.accelerator.num_processes > 1:
            device = self._run.accelerator.device
            asked = self._run.accelerator.reduce(asked.to(device), reduction="sum").cpu()
        return bool(asked.item())


def _is_judged(stage: TrainStage, done: int) -> bool:
    """Tell whether the student is judged after so many steps of a stage, unless that ends there."""
    return stage.evaluate_every is not None and done % stage.evaluate_every == 0


def changed_names(student: Learner, stages: tuple[Stage, ...]) -> tuple[str, ...]:
    """Name the parameters and statistics that a run's stages change, in the model's order."""
    changed: set[str] = set()
    for stage in stages:
        parts = {STITCHED: 1.0} if isinstance(stage, StitchStage) else stage.train
        names = {part.name for part in select_parts(student.model, parts)}
        changed |= names
        if isinstance(stage, TrainStage) and stage.batch_norms == "moving":
            norms = trained_norms(student.model, names).items()
            changed |= {f"{name}.{key}" for name, norm in norms for key, _ in norm.named_buffers()}
    return tuple(name for name in named_tensors(student.model) if name in changed)


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Give a model's own parameters and buffers, by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
