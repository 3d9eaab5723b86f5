"""The worker: one thread steps every lane that has anything to do.

Owns the thread and the way in. What a step does is the lane's (`lane`), how its results reach those who wait is the
jobs' (`jobs`). A cancelled job leaves its seat before the next step.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping

from thinkroute.engines.embedded.jobs import Job, post
from thinkroute.engines.embedded.lane import Lane
from thinkroute.errors import EngineError, EngineInterrupted, Overloaded

logger = logging.getLogger(__name__)


class Scheduler:
    """Owns the worker thread over all lanes."""

    def __init__(self, lanes: Mapping[str, Lane], *, queue_limit: int) -> None:
        self._lanes = lanes
        self._queue_limit = queue_limit
        self._arrived: deque[Job] = deque()
        self._condition = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="thinkroute-embedded", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Rows that hold a seat now."""
        return sum(len(lane.rows) for lane in self._lanes.values())

    def prefilled_tokens(self, lane: str) -> int:
        """Prompt tokens a lane computed since the start."""
        return self._lanes[lane].prefilled_tokens

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            Overloaded: too many jobs wait already.
            EngineInterrupted: the engine is closed.
        """
        with self._condition:
            if self._closing:
                raise EngineInterrupted("the embedded engine is closed")
            waiting = len(self._arrived) + sum(len(lane.waiting) for lane in self._lanes.values())
            if waiting >= self._queue_limit:
                raise Overloaded(f"the embedded engine has {waiting} requests waiting, which is its limit")
            self._arrived.append(job)
            self._condition.notify()

    def cancel(self, job: Job) -> None:
        """Let a job go; its seat is free before the next step."""
        job.cancelled = True
        with self._condition:
            self._condition.notify()

    def close(self) -> None:
        """Stop the worker; unfinished jobs end with `EngineInterrupted`."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._take_arrivals():
            for name, lane in self._lanes.items():
                if lane.busy:
                    self._step(name, lane)
        for lane in self._lanes.values():
            post(lane.fail(EngineInterrupted("the embedded engine was closed")))

    def _take_arrivals(self) -> bool:
        """Wait for work; False when closing."""
        with self._condition:
            while not (self._closing or self._arrived or any(lane.busy for lane in self._lanes.values())):
                self._condition.wait()
            while self._arrived:
                job = self._arrived.popleft()
                self._lanes[job.model].waiting.append(job)
            return not self._closing

    def _step(self, name: str, lane: Lane) -> None:
        try:
            post(lane.step())
        except Exception as error:
            logger.exception("embedded member %s failed", name)
            post(lane.fail(EngineError(f"the embedded member {name!r} failed: {error}")))
