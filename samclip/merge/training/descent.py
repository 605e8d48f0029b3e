"""Gradient descent for one stage: its steps, the same on any number of processes."""

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
from samclip.merge.students.base import Learner
from samclip.merge.teachers.cached_teachers import Teachers
from samclip.merge.training.objective import PerPhoto, instance_terms, mask_terms, name_terms
from samclip.merge.training.optimiser import (
    PartsOptimiser,
    freeze_all_but,
    learning_rate,
    select_parts,
)
from samclip.merge.training.state import State
from samclip.merge.training.step_log import StepRecord
from samclip.merge.training.targets import (
    instance_targets,
    mask_targets,
    name_targets,
    prompt_seed,
)


class Descent:
    """The optimiser of one stage, with everything that a step needs.

    Every process computes its slice of the global batch. Each photo's weight in the loss is 1 / the
    global batch, so the sum of the processes' gradients is the gradient of a single process. They
    are summed after the last backward pass, as one vector. A wrapper around the model, such as
    DistributedDataParallel, would have to know which parameters each stream and stage uses.
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
        self._stage = stage
        self._student = student
        self._teachers = teachers
        self._seed = seed
        self._length = length
        self._accelerator = accelerator
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

        Raises TrainingError when a loss or the gradient is not finite.
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
        return StepRecord(
            stage=self._stage.name,
            step=given.step,
            loss=loss,
            terms=terms,
            learning_rate=rate,
            gradient_norm=norm,
            seconds=time.perf_counter() - begin,
        )

    def _weight(self, term: str) -> float:
        weight: float = getattr(self._stage.losses, term)
        return weight

    def _accumulate(self, given: StepInput) -> dict[str, float]:
        """Add up the gradients of every micro-batch; return the terms' global means."""
        totals: dict[str, Tensor] = {}
        for name, batch in given.streams.items():
            config: Batch = getattr(self._stage, name)
            micro = config.micro or len(batch.samples)
            for start in range(0, len(batch.samples), micro):
                places = range(start, min(start + micro, len(batch.samples)))
                parts = self._backward(batch.pick(places), config, given.step, start)
                for term, value in parts.items():
                    # `region` may come from both streams: the two means add up.
                    totals[term] = totals.get(term, torch.zeros_like(value)) + value
        terms = sorted(totals)
        summed = self._sum_processes(torch.stack([totals[term].float() for term in terms]))
        means = dict(zip(terms, summed.tolist(), strict=True))
        for term, value in means.items():
            self._require_finite(f"the loss {term!r}", value, given.step)
        return means

    def _backward(
        self, batch: ViewBatch, config: Batch, step: int, start: int
    ) -> dict[str, Tensor]:
        """Add a micro-batch's gradients, and return its part of the terms' means.

        `start` is its place in this process's slice.
        """
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
        """Compare the student's outputs for a micro-batch with the teachers'."""
        student, stage = self._student, self._stage
        if isinstance(config, MaskBatch):
            masks = mask_targets(self._teachers, batch, stage, config, seeds)
            with self._accelerator.autocast():
                return mask_terms(student, pixels, masks, stage)
        if isinstance(config, InstanceBatch):
            instances = instance_targets(self._teachers, batch, config, seeds)
            with self._accelerator.autocast():
                return instance_terms(student, pixels, instances, stage)
        names = name_targets(self._teachers, batch, stage, config)
        with self._accelerator.autocast():
            return name_terms(student, pixels, names)

    def _gather_gradients(self, step: int) -> float:
        """Add up the gradients of all processes and clip them; return their norm before clipping.

        A parameter that no loss reached in this step has a gradient of 0, on every process.
        """
        parameters = self.optimiser.parameters
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self._processes.world > 1:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            flat = self._sum_processes(torch.cat([gradient.flatten() for gradient in gradients]))
            parts = torch.split(flat, [gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.reshape(gradient.shape))
        limit = math.inf if self._stage.clip_norm is None else self._stage.clip_norm
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
        self._require_finite("the gradient", norm, step)
        return norm

    def _sum_processes(self, tensor: Tensor) -> Tensor:
        if self._processes.world == 1:
            return tensor
        total: Tensor = self._accelerator.reduce(tensor, reduction="sum")
        return total

    def _require_finite(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"{what} is {value} in step {step} of stage {self._stage.name!r}. The step was not "
                "taken, and the last state is kept. Lower learning_rate or clip_norm, or use "
                'precision = "fp32"'
            )

    @torch.no_grad()
    def _update_average(self) -> None:
        """Update the exponential running average of weights (after Polyak and Juditsky, 1992)."""
        for part in self._trained:
            if self._stage.ema and part.name in self._average:
                self._average[part.name].lerp_(part.parameter.detach(), 1 - self._stage.ema)

    def state(self, state: State) -> State:
        """Return `state` with the optimiser's moments and the average of weights."""
        return State(
            place=state.place,
            model=state.model,
            optimiser=self.optimiser.state(),
            average=self._average,
        )

    def load(self, state: State) -> None:
        """Restore the result of `state`; raises TrainingError for that of other parameters.

        Where the state holds no average, because the file was changed to keep one, it starts here.
        """
        self.optimiser.load(state.optimiser)
        for name in self._average.keys() & state.average.keys():
            self._average[name].copy_(state.average[name])

    @torch.no_grad()
    def finish(self) -> None:
        """End the stage: stop batch norms, and set the weights to their average if one is kept."""
        self._student.model.eval()
        for part in self._trained:
            if part.name in self._average:
                part.parameter.copy_(self._average[part.name])
