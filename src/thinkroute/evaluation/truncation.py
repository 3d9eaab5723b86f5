"""Truncation audit: which prompts an encoder does not read to the end, and whether reading them would decide otherwise.

An encoder says what it reads in its settings `head_bytes` and `tail_bytes`; one made of parts, in those of each part (`part/head_bytes`).
A text longer than both together is cut.
The counterfactual restores the same fitted router around the same encoder with a limit no text reaches; what the router
learned stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import ThinkrouteError
from thinkroute.routers.base import RouterState, TableRouter
from thinkroute.routers.registry import ROUTERS, router_kind
from thinkroute.signals.base import EncoderState

_EVERYTHING: Final = 1 << 40
_HEAD: Final = "head_bytes"


@dataclass(frozen=True)
class Reading:
    """How much of a text an encoder reads."""

    limit_bytes: int

    def cuts(self, text: str) -> bool:
        """Whether some of a text goes unread."""
        return len(text.encode("utf-8", "replace")) > self.limit_bytes


def reading_of(encoder: EncoderState | None) -> Reading | None:
    """What an encoder reads; None when it does not say."""
    if encoder is None:
        return None
    limits: list[int] = []
    for name in _heads(encoder):
        head = encoder.parameters[name]
        tail = encoder.parameters.get(name.removesuffix(_HEAD) + "tail_bytes")
        if isinstance(head, int) and isinstance(tail, int):
            limits.append(head + tail)
    return Reading(min(limits)) if limits else None


def cut_mask(router: TableRouter, texts: tuple[str, ...]) -> tuple[Reading, NDArray[np.bool_]] | None:
    """Which texts the router's encoder cuts; None when it reads no text or does not say."""
    reading = reading_of(router.state().encoder)
    if reading is None:
        return None
    return reading, np.array([reading.cuts(text) for text in texts], dtype=np.bool_)


def reading_everything(router: TableRouter) -> TableRouter | None:
    """The same fitted router, its encoder without a limit; None when it cannot be rebuilt so."""
    state = router.state()
    if state.name not in ROUTERS or reading_of(state.encoder) is None:
        return None
    try:
        return router_kind(state.name).restore(_unlimited(state))
    except ThinkrouteError:
        # An encoder whose model cannot read more has no such twin.
        return None


def _unlimited(state: RouterState) -> RouterState:
    encoder = state.encoder
    if encoder is None:
        return state
    patient = dict.fromkeys(_heads(encoder), _EVERYTHING)
    return replace(state, encoder=replace(encoder, parameters={**encoder.parameters, **patient}))


def _heads(encoder: EncoderState) -> list[str]:
    return [name for name in encoder.parameters if name.rpartition("/")[2] == _HEAD]
