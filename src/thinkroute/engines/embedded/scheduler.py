"""Continuous batching: one worker thread steps every running row of every member, admitting and dropping between steps.

Owns the thread, the queue and the seats. Everything between the worker and an event loop passes through
`Job.deliver`, called once per job and step with what became visible and, last, with how it ended. A cancelled job
leaves its seat before the next step.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from thinkroute.engines.embedded.decoder import Decoder
from thinkroute.engines.embedded.sampling import RowSampler, choose
from thinkroute.engines.embedded.transcript import Transcript
from thinkroute.errors import EngineError, EngineInterrupted, Overloaded, ThinkrouteError
from thinkroute.programs.protocol import Chunk

logger = logging.getLogger(__name__)

_MOST_PREFILLS = 16
"""Prompts taken in per step: bounds how long running rows wait for newcomers."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A job came to its end; the rest is in its transcript."""

    ttft_s: float | None
    latency_s: float


Delivery = list[Chunk | Ended | ThinkrouteError]


class Outlet(Protocol):
    """Where a job's deliveries go; called on the worker thread."""

    def __call__(self, delivery: Delivery, /) -> None:
        """Hand over; must not block."""
        ...


@dataclass(slots=True, eq=False)
class Job:
    """One generation: a prompt to continue and the row's state."""

    model: str
    prompt_ids: list[int]
    sampler: RowSampler
    transcript: Transcript
    outlet: Outlet
    stream: bool
    cancelled: bool = False
    submitted_s: float = field(default_factory=time.perf_counter)
    first_token_s: float | None = None
    held_tokens: int = 0
    """Tokens of this row in the cache."""
    held_chunks: list[Chunk] = field(default_factory=list[Chunk])
    """Chunks not delivered yet: all of them until the end when the call does not stream."""

    def advance(self, chunks: list[Chunk]) -> None:
        """Deliver what one step made, and the end if it came."""
        now = time.perf_counter()
        if self.first_token_s is None:
            self.first_token_s = now
        self.held_chunks += chunks
        ended = self.transcript.finish is not None
        delivery: Delivery = []
        if self.stream or ended:
            delivery += self.held_chunks
            self.held_chunks = []
        if ended:
            delivery.append(Ended(self.first_token_s - self.submitted_s, now - self.submitted_s))
        if delivery:
            self.outlet(delivery)


class Lane:
    """The rows of one member. Row i sits in seat i; rows stay packed at the front."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.waiting: deque[Job] = deque()
        self.rows: list[Job] = []

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.rows or self.waiting)

    def step(self) -> None:
        """Drop cancelled rows, advance the running ones by one token, take in new ones."""
        self._drop(row for row in self.rows if row.cancelled)
        if self.rows:
            self._decode()
        newcomers = self._newcomers()
        if newcomers:
            self._prefill(newcomers)
        if not self.rows:
            self.decoder.reset()

    def _newcomers(self) -> list[Job]:
        most = min(_MOST_PREFILLS, self.decoder.seats - len(self.rows))
        newcomers: list[Job] = []
        while self.waiting and len(newcomers) < most:
            job = self.waiting.popleft()
            if not job.cancelled:
                newcomers.append(job)
        return newcomers

    def _decode(self) -> None:
        ids_BT = np.array([[row.transcript.token_ids[-1]] for row in self.rows], dtype=np.int64)
        start_B = np.array([row.held_tokens for row in self.rows], dtype=np.int64)
        self._advance(0, ids_BT, start_B, np.zeros(len(self.rows), dtype=np.int64))

    def _prefill(self, newcomers: list[Job]) -> None:
        longest = max(len(job.prompt_ids) for job in newcomers)
        ids_BT = np.zeros((len(newcomers), longest), dtype=np.int64)
        for index, job in enumerate(newcomers):
            ids_BT[index, : len(job.prompt_ids)] = job.prompt_ids
        last_B = np.array([len(job.prompt_ids) - 1 for job in newcomers], dtype=np.int64)
        first = len(self.rows)
        self.rows += newcomers
        self._advance(first, ids_BT, np.zeros(len(newcomers), dtype=np.int64), last_B)

    def _advance(
        self,
        first: int,
        ids_BT: np.ndarray[tuple[int, int], np.dtype[np.int64]],
        start_B: np.ndarray[tuple[int], np.dtype[np.int64]],
        last_B: np.ndarray[tuple[int], np.dtype[np.int64]],
    ) -> None:
        logits_BV = self.decoder.step(first, ids_BT, start_B, last_B)
        rows = self.rows[first:]
        for row, choice, new_tokens in zip(
            rows, choose(logits_BV, [row.sampler for row in rows]), last_B + 1, strict=True
        ):
            row.held_tokens += int(new_tokens)
            row.advance(row.transcript.push(choice))
        self._drop(row for row in rows if row.transcript.finish is not None)

    def _drop(self, leaving: Iterable[Job]) -> None:
        """Free seats, moving the last row into each gap."""
        for job in list(leaving):
            seat, last = self.rows.index(job), len(self.rows) - 1
            if seat != last:
                self.rows[seat] = self.rows[last]
                self.decoder.move(last, seat)
            self.rows.pop()

    def fail(self, error: ThinkrouteError) -> None:
        """End every job with an error."""
        for job in (*self.rows, *self.waiting):
            if not job.cancelled:
                job.outlet([error])
        self.rows.clear()
        self.waiting.clear()
        self.decoder.reset()


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
            lane.fail(EngineInterrupted("the embedded engine was closed"))

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
            lane.step()
        except Exception as error:
            logger.exception("embedded member %s failed", name)
            lane.fail(EngineError(f"the embedded member {name!r} failed: {error}"))
