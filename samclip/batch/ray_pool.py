"""Workers of Ray: a pool of actors, each with its own model, fed by Ray Data."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from samclip.batch.annotator import ItemAnnotator, raise_reported
from samclip.batch.items import Item, item_table
from samclip.batch.job import Job
from samclip.batch.packages import import_ray
from samclip.batch.sources import Listing
from samclip.engines.registry import AUTO, get_backend
from samclip.errors import BatchError, brief
from samclip.runtime.devices import parse_device

if TYPE_CHECKING:
    import pyarrow as pa

ADDRESS_VARIABLE = "RAY_ADDRESS"
BATCH = 16  # images that a worker is given at once, and loses when it is killed
TASKS_PER_WORKER = 2  # the next batch waits while one is answered
STORE_BYTES = 2**29  # of a Ray that is started here: items and rows are small


@dataclass(frozen=True)
class RayPool:
    """Runs a job on `workers` actors of Ray, each with its own process and model.

    `address`: of a cluster, None for the one that `$RAY_ADDRESS` names or that this process uses
    already, else Ray is started here for the length of the job. `batch_size`: images of a task.

    A worker that dies is started again by Ray, and its batches are answered again; rows come
    from batches that were finished, so each image comes once.
    """

    workers: int = 2
    address: str | None = None
    batch_size: int = BATCH

    def run(self, job: Job, listing: Listing, items: Sequence[Item]) -> Iterator[pa.Table]:
        """Yield a table for each batch, in the order in which they are finished.

        Raises CapabilityError without Ray, BatchError where it fails, and errors of workers.
        """
        ray = import_ray()
        started = self._connect(ray)
        try:
            yield from self._tables(ray, job, listing, items)
        except ray.exceptions.RayError as error:
            raise BatchError(
                f"Ray ended the job: {brief(str(error), 500)}. What was answered is in the folder; "
                "check the memory and the logs of its workers, and run it again."
            ) from error
        finally:
            if started:
                ray.shutdown()

    def _tables(
        self, ray: Any, job: Job, listing: Listing, items: Sequence[Item]
    ) -> Iterator[pa.Table]:
        ray.data.DataContext.get_current().enable_progress_bars = False  # the job has its own
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        starts = range(0, len(items), self.batch_size)
        tables = [item_table(items[start : start + self.batch_size]) for start in starts]
        arguments = self._resources(job)
        threads = arguments["num_cpus"]
        device = {"device": "cuda"} if uses_gpu(job) else {}  # an actor sees its own GPU alone
        answered = ray.data.from_arrow(tables).map_batches(
            ItemAnnotator,
            fn_constructor_kwargs={
                "question": job.question,
                "load_options": {**job.load_options, **device, "threads": threads, "streams": 1},
                "column": listing.column,
            },
            batch_size=self.batch_size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                size=min(self.workers, len(tables)),
                max_tasks_in_flight_per_actor=TASKS_PER_WORKER,
            ),
            **arguments,
        )
        found = answered.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        for table in found:
            raise_reported(table)
            yield table

    def _connect(self, ray: Any) -> bool:
        """Connect to a cluster, or start Ray here; return whether it ends with this job."""
        if ray.is_initialized():
            return False
        quiet = {"logging_level": "error", "log_to_driver": False}
        address = self._cluster
        try:
            if address:
                ray.init(address=address, **quiet)
            else:
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machine
                ray.init(
                    address="local",
                    num_cpus=max(self.workers + 1, os.cpu_count() or 1),
                    object_store_memory=STORE_BYTES,
                    include_dashboard=False,
                    **quiet,
                )
        except (ray.exceptions.RayError, RuntimeError, ConnectionError, ValueError) as error:
            where = f"at {address}" if address else "here"
            raise BatchError(
                f"Ray cannot be used {where}: {error}. Check the address and Ray's logs, or let "
                "this process do the work."
            ) from error
        return True

    @property
    def _cluster(self) -> str | None:
        """The address of the cluster; None or "" for a Ray of this machine."""
        return self.address or os.environ.get(ADDRESS_VARIABLE)

    def _resources(self, job: Job) -> dict[str, Any]:
        """Return the resources of an actor: the CPUs of its threads, and a GPU where one is asked.

        Here the cores are shared among the workers; in a cluster an actor has one, unless said.
        """
        share = 1 if self._cluster else max(1, (os.cpu_count() or 1) // self.workers)
        return {
            "num_cpus": job.load_options.get("threads") or share,
            **({"num_gpus": 1} if uses_gpu(job) else {}),
        }


def uses_gpu(job: Job) -> bool:
    """Whether the workers of a job need a GPU, by the device or the backend that it names."""
    device, backend = job.load_options.get("device"), job.load_options.get("backend") or AUTO
    if device is not None:
        return not parse_device(device).on_host
    return backend != AUTO and not get_backend(backend).traits.on_host
