"""The workers: each is a thread that steps every lane of its own that has anything to do.

Owns the threads and the way in. What a step does is the lane's (`lane`), how its results reach those who wait is the
jobs' (`jobs`). A job goes to the worker with the fewest jobs among those with a free seat for its member, and stays
there. A cancelled job leaves its seat, or its place among those who wait, before the next step.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence

from thinkroute.engines.embedded.jobs import Job, post
from thinkroute.engines.embedded.lane import Lane
from thinkroute.errors import EngineError, EngineInterrupted, Overloaded

logger = logging.getLogger(__name__)


class Scheduler:
    """Owns the workers.

    Args:
        lanes: For each worker, its lane of every member.
        queue_limit: Jobs that may wait for a seat, of all members together. Who finds a free seat is never refused.
    """

    def __init__(self, lanes: Sequence[Mapping[str, Lane]], *, queue_limit: int) -> None:
        self._workers = [_Worker(own) for own in lanes]
        self._queue_limit = queue_limit
        self._closing = False
        self._lock = threading.Lock()

    @property
    def running(self) -> int:
        """Rows that hold a seat now."""
        return sum(worker.running for worker in self._workers)

    def prefilled_tokens(self, lane: str) -> int:
        """Prompt tokens that were computed for a member since the start."""
        return sum(worker.lanes[lane].prefilled_tokens for worker in self._workers)

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            Overloaded: too many jobs wait already.
            EngineInterrupted: the engine is closed.
        """
        with self._lock:
            if self._closing:
                raise EngineInterrupted("the embedded engine is closed")
            worker = min(self._workers, key=lambda worker: (worker.is_full(job.model), worker.load))
            if worker.is_full(job.model):
                waiting = sum(worker.waiting for worker in self._workers)
                if waiting >= self._queue_limit:
                    raise Overloaded(
                        f"the embedded engine has {waiting} requests waiting, which is its limit"
                    )
            worker.submit(job)

    def cancel(self, job: Job) -> None:
        """Let a job go; its seat is free before the next step."""
        job.cancelled = True
        for worker in self._workers:
            worker.wake()

    def close(self) -> None:
        """Stop the workers; unfinished jobs end with `EngineInterrupted`."""
        with self._lock:
            self._closing = True
        for worker in self._workers:
            worker.close()


class _Worker:
    """One thread over its lanes."""

    def __init__(self, lanes: Mapping[str, Lane]) -> None:
        self.lanes = lanes
        self._arrived: dict[str, list[Job]] = {name: [] for name in lanes}
        """By member: lanes are the thread's own, so jobs reach them between steps."""
        self._condition = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="thinkroute-embedded", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        return sum(len(lane.rows) for lane in self.lanes.values())

    @property
    def load(self) -> int:
        """Jobs that run or wait."""
        return sum(map(self._jobs, self.lanes))

    @property
    def waiting(self) -> int:
        """Jobs that wait for a seat, rather than for the step under way."""
        return sum(max(0, self._jobs(name) - lane.decoder.seats) for name, lane in self.lanes.items())

    def is_full(self, member: str) -> bool:
        """Whether one more job of this member would wait for a seat."""
        return self._jobs(member) >= self.lanes[member].decoder.seats

    def _jobs(self, member: str) -> int:
        return len(self._arrived[member]) + self.lanes[member].load

    def submit(self, job: Job) -> None:
        with self._condition:
            self._arrived[job.model].append(job)
            self._condition.notify()

    def wake(self) -> None:
        with self._condition:
            self._condition.notify()

    def close(self) -> None:
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._take_arrivals():
            for name, lane in self.lanes.items():
                if lane.busy:
                    self._step(name, lane)
        for lane in self.lanes.values():
            post(lane.fail(EngineInterrupted("the embedded engine was closed")))

    def _take_arrivals(self) -> bool:
        """Wait for work; False when closing."""
        with self._condition:
            while not (
                self._closing or any(self._arrived.values()) or any(lane.busy for lane in self.lanes.values())
            ):
                self._condition.wait()
            for member, jobs in self._arrived.items():
                self.lanes[member].waiting.extend(jobs)
                jobs.clear()
            return not self._closing

    def _step(self, name: str, lane: Lane) -> None:
        try:
            post(lane.step())
        except Exception as error:
            logger.exception("embedded member %s failed", name)
            post(lane.fail(EngineError(f"the embedded member {name!r} failed: {error}")))
