"""The rows of one member: taking prompts in, advancing all rows by a token, letting rows go.

Owns the seats and what each row holds. Row i sits in seat i; rows stay packed at the front. Everything that happens to
every token happens to all rows at once, in arrays over seats; only what is delivered is touched row by row.

A newcomer takes over the keys and values of the longest beginning of its prompt that the lane still knows: of a row
that runs now, or of one that ended (`prefixes`). A row that leaves, whether it ended or was cancelled, leaves its own
behind.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thinkroute.engines.embedded.decoder import Decoder, Floats, Integers
from thinkroute.engines.embedded.jobs import Delivery, Job, Mail
from thinkroute.engines.embedded.prefixes import PrefixStore, shared_length
from thinkroute.engines.embedded.sampling import choose
from thinkroute.errors import ThinkrouteError

_MOST_NEWCOMERS = 16
"""Prompts taken in per step: bounds how long running rows wait for newcomers."""
_MOST_PADDING = 8
"""Tokens a prompt may be padded by to share a run: about what a run of its own costs besides its tokens."""


@dataclass(slots=True)
class _Newcomer:
    job: Job
    ids_T: Integers
    known: int = 0
    """Ids whose keys and values need not be computed. Never all: the last one's logits are needed."""
    keys_values: Floats | None = None
    """Them, where they do not come from the row of `seat`."""
    seat: int = -1

    @property
    def unknown(self) -> int:
        return len(self.ids_T) - self.known


class Lane:
    """Continuous batching of one member.

    Args:
        decoder: Its computation.
        prefixes: Where keys and values of ended rows are kept; None reuses nothing.
    """

    def __init__(self, decoder: Decoder, prefixes: PrefixStore | None) -> None:
        self.decoder = decoder
        self.waiting: deque[Job] = deque()
        self.rows: list[Job] = []
        self.prefilled_tokens = 0
        """Prompt tokens computed since the start."""
        self._prefixes = prefixes
        seats = decoder.seats
        # `_held`: ids of each row that are in the cache, all but the last; `_left`: tokens it may still generate.
        self._seats = np.arange(seats)
        self._tokens = np.zeros((seats, decoder.positions), dtype=np.int64)
        """Every row's ids, prompt and generated."""
        self._state = np.zeros((6, seats), dtype=np.int64)
        """What the lane must know of each row at every step, so that rows move in one piece."""
        self._held, self._left, self._end, self._other_end, self._eager, self._special = self._state
        self._nothing = np.zeros(seats, dtype=np.int64)
        self._entering: list[Job] = []
        self._promised = 0
        """Seats that are taken once those who enter now are in them; 0 while nobody enters."""
        self._mail: Mail = []

    @property
    def load(self) -> int:
        """Jobs that run, enter or wait; read by other threads to choose where a job goes."""
        return max(len(self.rows), self._promised) + len(self.waiting)

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.rows or self.waiting)

    def step(self) -> Mail:
        """Drop cancelled rows, take in new ones, advance all by one token; returns what to deliver."""
        self._drop([seat for seat, row in enumerate(self.rows) if row.cancelled])
        running = len(self.rows)
        if self.waiting:
            self._admit()
        entered = self.rows[running:]
        if running:
            self._decode(running)
        if self.rows:
            self._choose()
        for job in entered:
            job.first_token_s = time.perf_counter()
        mail, self._mail = self._mail, []
        return mail

    def fail(self, error: ThinkrouteError) -> Mail:
        """End every job with an error, after what a step that broke off had to deliver."""
        jobs = dict.fromkeys((*self.rows, *self._entering, *self.waiting))
        mail: Mail = [*self._mail, *((job, error) for job in jobs if not job.cancelled)]
        self._mail, self._entering, self._promised = [], [], 0
        self.rows.clear()
        self.waiting.clear()
        return mail

    def _decode(self, rows: int) -> None:
        """Read the newest token of the first rows."""
        held_B = self._held[:rows]
        ids_BT = self._tokens[self._seats[:rows], held_B][:, None]
        self.decoder.step(0, ids_BT, held_B, self._nothing[:rows])
        held_B += 1

    def _choose(self) -> None:
        """Choose every row's next token, deliver, and let go the rows that ended."""
        rows = len(self.rows)
        special = self._special[:rows].nonzero()[0].tolist()
        ids_B, choices = choose(
            self.decoder.logits_BV[:rows], {seat: self.rows[seat].sampler for seat in special}
        )
        for seat, choice in choices.items():
            self.rows[seat].choices.append(choice)
        self._tokens[self._seats[:rows], self._held[:rows]] = ids_B
        self._left[:rows] -= 1
        ended_B = (ids_B == self._end[:rows]) | (ids_B == self._other_end[:rows]) | (self._left[:rows] == 0)
        for seat in (self._eager[:rows] | ended_B).nonzero()[0].tolist():
            self._deliver(seat, int(ids_B[seat]), ended=bool(ended_B[seat]))
        self._drop(ended_B.nonzero()[0].tolist())

    def _deliver(self, seat: int, token_id: int, *, ended: bool) -> None:
        row = self.rows[seat]
        token_ids = [token_id]
        if not row.eager:
            token_ids = self._tokens[seat, len(row.prompt_ids) : self._held[seat] + 1].tolist()
        self._mail.append((row, Delivery(token_ids, row.choices, ended)))
        row.choices = []

    def _drop(self, leaving: Sequence[int]) -> None:
        """Free seats, given in ascending order, moving the last row into each gap."""
        for seat in reversed(leaving):
            self._remember(seat)
            last = len(self.rows) - 1
            if seat != last:
                self._move(last, seat)
            self.rows.pop()

    def _remember(self, seat: int) -> None:
        held = int(self._held[seat])
        ids_T = self._tokens[seat, :held]
        if self._prefixes is not None and not self._prefixes.covers(ids_T):
            self._prefixes.put(ids_T, self.decoder.read(seat, held))

    def _move(self, source: int, target: int) -> None:
        self.rows[target] = self.rows[source]
        held = int(self._held[source])
        self.decoder.copy(source, target, held)
        self._tokens[target, : held + 1] = self._tokens[source, : held + 1]
        self._state[:, target] = self._state[:, source]

    def _admit(self) -> None:
        """Give free seats to waiting jobs and compute their prompts."""
        newcomers = self._newcomers()
        self._entering = [newcomer.job for newcomer in newcomers]
        if self._prefixes is None:
            self._seat(newcomers)
        else:
            for part in _lead(newcomers):
                for newcomer in part:
                    self._recall(newcomer, self._prefixes)
                self._seat(part)
        self._entering, self._promised = [], 0

    def _newcomers(self) -> list[_Newcomer]:
        most = min(_MOST_NEWCOMERS, self.decoder.seats - len(self.rows))
        newcomers: list[_Newcomer] = []
        if most == 0:  # who gave up must not keep others out while nobody can enter
            self.waiting = deque(job for job in self.waiting if not job.cancelled)
        self._promised = len(self.rows) + min(most, len(self.waiting))
        while self.waiting and len(newcomers) < most:
            job = self.waiting.popleft()
            if not job.cancelled:
                newcomers.append(_Newcomer(job, np.array(job.prompt_ids, dtype=np.int64)))
        return newcomers

    def _recall(self, newcomer: _Newcomer, prefixes: PrefixStore) -> None:
        """Find the longest beginning of the prompt that is known."""
        ids_T = newcomer.ids_T[:-1]
        known, newcomer.keys_values = prefixes.longest(ids_T)
        newcomer.known = known
        if known == len(ids_T):
            return
        rows = len(self.rows)
        further = (self._tokens[:rows, known] == ids_T[known]) & (self._held[:rows] > known)
        for seat in further.nonzero()[0].tolist():
            shared = shared_length(self._tokens[seat, : self._held[seat]], ids_T)
            if shared > newcomer.known:
                newcomer.known, newcomer.seat, newcomer.keys_values = shared, seat, None

    def _seat(self, newcomers: list[_Newcomer]) -> None:
        """Put newcomers into the next seats and compute what is not known of their prompts."""
        newcomers.sort(key=lambda newcomer: newcomer.unknown, reverse=True)
        seat = len(self.rows)
        for newcomer in newcomers:
            self._place(newcomer)
        for group in _groups(newcomers):
            self._prefill(seat, group)
            seat += len(group)

    def _place(self, newcomer: _Newcomer) -> None:
        seat, job = len(self.rows), newcomer.job
        if newcomer.keys_values is not None:
            self.decoder.write(seat, newcomer.keys_values[:, :, : newcomer.known])
        elif newcomer.known:
            self.decoder.copy(newcomer.seat, seat, newcomer.known)
        self._tokens[seat, : len(newcomer.ids_T)] = newcomer.ids_T
        self._held[seat] = newcomer.known
        self._left[seat] = job.most_tokens
        self._end[seat], self._other_end[seat] = job.end_ids
        self._eager[seat] = job.eager
        self._special[seat] = job.sampler.special
        job.reused_tokens = newcomer.known
        self.rows.append(job)

    def _prefill(self, first: int, group: Sequence[_Newcomer]) -> None:
        ids_BT = np.zeros((len(group), group[0].unknown), dtype=np.int64)
        for ids_T, newcomer in zip(ids_BT, group, strict=True):
            ids_T[: newcomer.unknown] = newcomer.ids_T[newcomer.known :]
        unknown_B = np.array([newcomer.unknown for newcomer in group])
        held_B = self._held[first : first + len(group)]
        self.decoder.step(first, ids_BT, held_B, unknown_B - 1)
        held_B += unknown_B
        self.prefilled_tokens += int(unknown_B.sum())


def _lead(newcomers: list[_Newcomer]) -> tuple[list[_Newcomer], list[_Newcomer]]:
    """Those to compute first, and those that share at least half of their prompt with one of them and wait for it."""
    if len(newcomers) < 2:
        return newcomers, []
    leaders: list[_Newcomer] = []
    followers: list[_Newcomer] = []
    for newcomer in sorted(newcomers, key=lambda newcomer: newcomer.job.prompt_ids):
        shared = shared_length(newcomer.ids_T, leaders[-1].ids_T) if leaders else 0
        (followers if 2 * shared >= len(newcomer.ids_T) else leaders).append(newcomer)
    return leaders, followers


def _groups(newcomers: Sequence[_Newcomer]) -> list[list[_Newcomer]]:
    """Newcomers, longest first, in runs: alike long and from position 0 on, or alone."""
    groups: list[list[_Newcomer]] = []
    for newcomer in newcomers:
        group = groups[-1] if groups else None
        if (
            group
            and not (newcomer.known or group[0].known)
            and (group[0].unknown - newcomer.unknown <= _MOST_PADDING)
        ):
            group.append(newcomer)
        else:
            groups.append([newcomer])
    return groups
