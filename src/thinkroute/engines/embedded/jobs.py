"""What passes between event loops and the worker: jobs one way, deliveries the other.

Owns the crossing of threads. A job belongs to the loop that submitted it; its deliveries arrive there in order. All
deliveries of one step to one loop cross in a single call, because waking a loop costs more than what it is told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from thinkroute.engines.embedded.sampling import Choice, RowSampler
from thinkroute.errors import ThinkrouteError


@dataclass(frozen=True, slots=True)
class Delivery:
    """Tokens of one job since the last delivery."""

    token_ids: list[int]
    choices: Sequence[Choice] = ()
    """One per token where the sampler has something to say about it, otherwise empty."""
    ended: bool = False
    """Whether the worker is done with the job: its end token came, or as many tokens as it may have."""


def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


@dataclass(slots=True, eq=False)
class Job:
    """One generation: a prompt to continue, and how far. Made on the loop that waits for it."""

    model: str
    prompt_ids: list[int]
    sampler: RowSampler
    most_tokens: int
    """Tokens it may generate, at least 1."""
    end_ids: tuple[int, int]
    """Tokens that end it; -1 for none."""
    eager: bool
    """Deliver after every step; otherwise only at the end."""
    arrived: asyncio.Queue[Delivery | ThinkrouteError] = field(
        default_factory=asyncio.Queue[Delivery | ThinkrouteError]
    )
    loop: asyncio.AbstractEventLoop = field(default_factory=_loop)
    cancelled: bool = False
    submitted_s: float = field(default_factory=time.perf_counter)
    first_token_s: float | None = None
    reused_tokens: int = 0
    """Prompt tokens whose keys and values were known already."""
    choices: list[Choice] = field(default_factory=list[Choice])
    """Choices not delivered yet."""


Mail = list[tuple[Job, Delivery | ThinkrouteError]]


def post(mail: Mail) -> None:
    """Hand deliveries to the loops that wait for them; called on the worker thread, never blocks."""
    by_loop: dict[asyncio.AbstractEventLoop, Mail] = {}
    for item in mail:
        by_loop.setdefault(item[0].loop, []).append(item)
    for loop, items in by_loop.items():
        try:
            loop.call_soon_threadsafe(_hand_over, items)
        except RuntimeError:  # the loop is closed: nobody listens any more
            for job, _ in items:
                job.cancelled = True


def _hand_over(items: Mail) -> None:
    for job, delivery in items:
        job.arrived.put_nowait(delivery)
