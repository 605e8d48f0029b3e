"""A stage of gradient training: one step after another, the same on any number of processes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from samclip.errors import ConfigError, TrainingError
from samclip.merge.config.stages import Batch, InstanceBatch, MaskBatch, TrainStage
from samclip.merge.data.batches import Processes, StageInputs, StepInput, ViewBatch
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.students.merged_student import Learner
from samclip.merge.training.objective import PerPhoto, instance_terms, mask_terms, name_terms
from samclip.merge.training.optimiser import (
    PartsOptimiser,
    freeze_all_but,
    learning_rate,
    select_parts,
)
from samclip.merge.training.reporting import StepRecord
from samclip.merge.training.state import State
from samclip.merge.training.targets import (
    Teachers,
    instance_targets,
    mask_targets,
    name_targets,
    prompt_seed,
)


class Descent:
    """The optimiser of one stage with all that a step needs.

    Every process computes its slice of the global batch; each photo's share of the loss is 1 / the
    global batch, so the sum of the processes' gradients is the gradient of one process alone. They
    are summed after the last backward pass, as one vector: what a step computes differs between
    streams and stages, which a wrapper around the model would have to be told.
    """

    def __init__(
        self,
        stage: TrainStage,
        student: Learner,
        teachers: Teachers,
        seed: int,
        length: int,
        accelerator: Accelerator,
    ) -> None:
        self._stage, self._student, self._teachers = stage, student, teachers
        self._seed, self._length, self._accelerator = seed, length, accelerator
        self._processes = Processes(accelerator.process_index, accelerator.num_processes)
        if stage.batch_norms == "moving" and self._processes.world > 1:
            raise ConfigError(
                f'stage {stage.name!r} has batch_norms = "moving", whose statistics would differ '
                f"between {self._processes.world} processes; give --processes 1"
            )
        self._trained = select_parts(student.model, stage.train)
        freeze_all_but(student.model, self._trained, stage.batch_norms)
        self.optimiser = PartsOptimiser(self._trained, stage)
        self._average = {
            part.name: part.parameter.detach().clone() for part in self._trained if stage.ema
        }

    def steps(self, inputs: StageInputs, start: int, end: int) -> Iterator[StepRecord]:
        """Run the steps from `start` to before `end`.

        Raises TrainingError when a loss or the gradient is no number.
        """
        for given in inputs.between(start, end):
            yield self.step(given)

    def step(self, given: StepInput) -> StepRecord:
        """Run one step."""
        begin = time.perf_counter()
        self.optimiser.clear()
        terms = self._accumulate(given)
        norm = self._gather_gradients(given.step)
        rate = learning_rate(self._stage, given.step, self._length)
        self.optimiser.step(rate)
        self._update_average()
        loss = sum(self._weight(term) * value for term, value in terms.items())
        seconds = time.perf_counter() - begin
        return StepRecord(self._stage.name, given.step, loss, terms, rate, norm, seconds)

    def _weight(self, term: str) -> float:
        weight: float = getattr(self._stage.losses, term)
        return weight

    def _accumulate(self, given: StepInput) -> dict[str, float]:
        """Go forwards and backwards through every micro-batch; return the terms' global means."""
        totals: dict[str, Tensor] = {}
        for name, batch in given.streams.items():
            config: Batch = getattr(self._stage, name)
            micro = config.micro or len(batch.samples)
            for start in range(0, len(batch.samples), micro):
                places = range(start, min(start + micro, len(batch.samples)))
                terms = self._backward(batch.pick(places), config, given.step, start)
                for term, value in terms.items():
                    # `region` may come from both streams: the means of the two add up
                    totals[term] = totals.get(term, torch.zeros_like(value)) + value
        return self._checked(totals, given.step)

    def _backward(
        self, batch: ViewBatch, config: Batch, step: int, start: int
    ) -> dict[str, Tensor]:
        """Add a micro-batch's gradients; `start` is its place in this process's slice."""
        student, stage = self._student, self._stage
        first = self._processes.rank * (config.batch // self._processes.world) + start
        seeds = [
            prompt_seed(self._seed, stage.name, step, first + i) for i in range(len(batch.samples))
        ]
        pixels = batch.pixels.to(student.device)
        with student.recomputing(pixels.size, stage.gradient_checkpointing):
            terms = self._terms(batch, pixels, config, seeds)
            means = {term: values.sum() / config.batch for term, values in terms.items()}
            loss = sum(self._weight(term) * value for term, value in means.items())
            if isinstance(loss, Tensor) and loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
        return {term: value.detach() for term, value in means.items()}

    def _terms(
        self, batch: ViewBatch, pixels: PixelBatch, config: Batch, seeds: Sequence[int]
    ) -> PerPhoto:
        """Ask the teachers about a micro-batch, and compare the student with what they say."""
        student, stage = self._student, self._stage
        if isinstance(config, MaskBatch):
            asked = mask_targets(self._teachers, batch, stage, config, seeds)
            with self._accelerator.autocast():
                return mask_terms(student, pixels, asked, stage)
        if isinstance(config, InstanceBatch):
            prompted = instance_targets(self._teachers, batch, config, seeds)
            with self._accelerator.autocast():
                return instance_terms(student, pixels, prompted, stage)
        wanted = name_targets(self._teachers, batch, stage, config)
        with self._accelerator.autocast():
            return name_terms(student, pixels, wanted)

    def _checked(self, totals: dict[str, Tensor], step: int) -> dict[str, float]:
        """Add up the terms of all processes; raises TrainingError for one that is no number."""
        terms = sorted(totals)
        values: Tensor = torch.stack([totals[term].float() for term in terms])
        numbers = self._summed(values).tolist()
        for term, value in zip(terms, numbers, strict=True):
            self._require_finite(f"the loss {term!r}", value, step)
        return dict(zip(terms, numbers, strict=True))

    def _gather_gradients(self, step: int) -> float:
        """Add up the gradients of all processes and clip them; return their norm before it.

        A parameter that no loss reached this time has a gradient of 0, on every process.
        """
        parameters = self.optimiser.parameters
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self._processes.world > 1:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            flat = self._summed(torch.cat([gradient.flatten() for gradient in gradients]))
            parts = torch.split(flat, [gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.reshape(gradient.shape))
        limit = math.inf if self._stage.clip_norm is None else self._stage.clip_norm
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
        self._require_finite("the gradient", norm, step)
        return norm

    def _summed(self, tensor: Tensor) -> Tensor:
        if self._processes.world == 1:
            return tensor
        total: Tensor = self._accelerator.reduce(tensor, reduction="sum")
        return total

    def _require_finite(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"{what} is {value} in step {step} of stage {self._stage.name!r}, which was not "
                'taken. Lower learning_rate or clip_norm, or use precision = "fp32"; the state '
                "before is kept"
            )

    @torch.no_grad()
    def _update_average(self) -> None:
        """Move the running average of weights (Polyak and Juditsky, 1992; exponential)."""
        for part in self._trained:
            if self._stage.ema and part.name in self._average:
                self._average[part.name].lerp_(part.parameter.detach(), 1 - self._stage.ema)

    def state(self, state: State) -> State:
        """Return `state` with the optimiser's moments and the average of weights."""
        return State(state.place, state.model, self.optimiser.state(), self._average)

    def load(self, state: State) -> None:
        """Take over what `state` gave; raises TrainingError when it is of other parameters.

        A stage that keeps an average only since its file was changed begins it here.
        """
        self.optimiser.load(state.optimiser)
        for name in self._average.keys() & state.average.keys():
            self._average[name].copy_(state.average[name])

    @torch.no_grad()
    def finish(self) -> None:
        """End the stage: the average of weights, where one is kept, becomes the weights.

        Statistics of batch norms move no more.
        """
        self._student.model.eval()
        for part in self._trained:
            if part.name in self._average:
                part.parameter.copy_(self._average[part.name])
