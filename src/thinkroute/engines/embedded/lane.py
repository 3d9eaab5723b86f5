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
from thinkroute.engines.embedded.prefixes import PrefixStore
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
        self._seats = np.arange(seats)
        self._tokens = np.zeros((seats, decoder.positions), dtype=np.int64)
        """Every row's ids, prompt and generated."""
        self._held = np.zeros(seats, dtype=np.int64)
        """Ids of each row that are in the cache: all but the last."""
        self._left = np.zeros(seats, dtype=np.int64)
        """Tokens each row may still generate."""
        self._ends = np.zeros((seats, 2), dtype=np.int64)
        """Ids that end each row."""
        self._eager = np.zeros(seats, dtype=np.bool_)
        self._special = np.zeros(seats, dtype=np.bool_)
        self._nothing = np.zeros(seats, dtype=np.int64)
        self._mail: Mail = []

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.rows or self.waiting)

    def step(self) -> Mail:
        """Drop cancelled rows, advance the running ones by one token, take in new ones; returns what to deliver."""
        self._mail = []
        self._drop([seat for seat, row in enumerate(self.rows) if row.cancelled])
        if self.rows:
            self._decode()
        self._admit()
        return self._mail

    def fail(self, error: ThinkrouteError) -> Mail:
        """End every job with an error."""
        mail: Mail = [(job, error) for job in (*self.rows, *self.waiting) if not job.cancelled]
        self.rows.clear()
        self.waiting.clear()
        return mail

    def _decode(self) -> None:
        rows = len(self.rows)
        held_B = self._held[:rows]
        ids_BT = self._tokens[self._seats[:rows], held_B][:, None]
        logits_BV = self.decoder.step(0, ids_BT, held_B, self._nothing[:rows])
        held_B += 1
        self._take(0, logits_BV)

    def _take(self, first: int, logits_BV: Floats) -> None:
        """Choose a token for the rows from seat `first` on, deliver, and let go those that ended."""
        seats = slice(first, len(self.rows))
        samplers = {
            index: self.rows[first + index].sampler for index in np.flatnonzero(self._special[seats]).tolist()
        }
        ids_B, choices = choose(logits_BV, samplers)
        for index, choice in choices.items():
            self.rows[first + index].choices.append(choice)
        self._tokens[self._seats[seats], self._held[seats]] = ids_B
        self._left[seats] -= 1
        ended_B = (self._left[seats] == 0) | (self._ends[seats] == ids_B[:, None]).any(axis=1)
        for index in np.flatnonzero(ended_B | self._eager[seats]).tolist():
            self._deliver(first + index, int(ids_B[index]), ended=bool(ended_B[index]))
        self._drop((np.flatnonzero(ended_B) + first).tolist())

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
        for values in (self._held, self._left, self._ends, self._eager, self._special):
            values[target] = values[source]

    def _admit(self) -> None:
        """Give free seats to waiting jobs and compute their prompts."""
        newcomers = self._newcomers()
        if self._prefixes is None:
            self._seat(newcomers)
            return
        leaders, followers = _lead(newcomers)
        for part in (leaders, followers):
            for newcomer in part:
                self._recall(newcomer, self._prefixes)
            self._seat(part)

    def _newcomers(self) -> list[_Newcomer]:
        most = min(_MOST_NEWCOMERS, self.decoder.seats - len(self.rows))
        newcomers: list[_Newcomer] = []
        while self.waiting and len(newcomers) < most:
            job = self.waiting.popleft()
            if not job.cancelled:
                newcomers.append(_Newcomer(job, np.array(job.prompt_ids, dtype=np.int64)))
        return newcomers

    def _recall(self, newcomer: _Newcomer, prefixes: PrefixStore) -> None:
        """Find the longest beginning of the prompt that is known."""
        ids_T = newcomer.ids_T[:-1]
        newcomer.known, newcomer.keys_values = prefixes.longest(ids_T)
        if not self.rows or not len(ids_T):
            return
        alike = self._tokens[: len(self.rows), : len(ids_T)] == ids_T
        shared_B = np.where(alike.all(axis=1), len(ids_T), alike.argmin(axis=1))
        shared_B = np.minimum(shared_B, self._held[: len(self.rows)])
        seat = int(shared_B.argmax())
        if shared_B[seat] > newcomer.known:
            newcomer.known, newcomer.seat, newcomer.keys_values = int(shared_B[seat]), seat, None

    def _seat(self, newcomers: list[_Newcomer]) -> None:
        """Put newcomers into the next seats, compute what is not known of their prompts, and choose their first tokens."""
        if not newcomers:
            return
        newcomers.sort(key=lambda newcomer: newcomer.unknown, reverse=True)
        first = len(self.rows)
        for newcomer in newcomers:
            self._place(newcomer)
        seat = first
        logits: list[Floats] = []
        for group in _groups(newcomers):
            logits.append(self._prefill(seat, group).copy())
            seat += len(group)
        now = time.perf_counter()
        for newcomer in newcomers:
            newcomer.job.first_token_s = now
        self._take(first, np.concatenate(logits))

    def _place(self, newcomer: _Newcomer) -> None:
        seat, job = len(self.rows), newcomer.job
        if newcomer.keys_values is not None:
            self.decoder.write(seat, newcomer.keys_values[:, :, : newcomer.known])
        elif newcomer.known:
            self.decoder.copy(newcomer.seat, seat, newcomer.known)
        self._tokens[seat, : len(newcomer.ids_T)] = newcomer.ids_T
        self._held[seat] = newcomer.known
        self._left[seat] = job.most_tokens
        self._ends[seat] = job.end_ids
        self._eager[seat] = job.eager
        self._special[seat] = job.sampler.special
        job.reused_tokens = newcomer.known
        self.rows.append(job)

    def _prefill(self, first: int, group: Sequence[_Newcomer]) -> Floats:
        ids_BT = np.zeros((len(group), group[0].unknown), dtype=np.int64)
        for ids_T, newcomer in zip(ids_BT, group, strict=True):
            ids_T[: newcomer.unknown] = newcomer.ids_T[newcomer.known :]
        unknown_B = np.array([newcomer.unknown for newcomer in group])
        held_B = self._held[first : first + len(group)]
        logits_BV = self.decoder.step(first, ids_BT, held_B, unknown_B - 1)
        held_B += unknown_B
        self.prefilled_tokens += int(unknown_B.sum())
        return logits_BV


def _lead(newcomers: list[_Newcomer]) -> tuple[list[_Newcomer], list[_Newcomer]]:
    """Those to compute first, and those that share at least half of their prompt with one of them and wait for it."""
    leaders: list[_Newcomer] = []
    followers: list[_Newcomer] = []
    for newcomer in sorted(newcomers, key=lambda newcomer: newcomer.job.prompt_ids):
        shared = _shared(newcomer.ids_T, leaders[-1].ids_T) if leaders else 0
        (followers if 2 * shared >= len(newcomer.ids_T) else leaders).append(newcomer)
    return leaders, followers


def _shared(left_T: Integers, right_T: Integers) -> int:
    length = min(len(left_T), len(right_T))
    differing = np.flatnonzero(left_T[:length] != right_T[:length])
    return int(differing[0]) if len(differing) else length


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
