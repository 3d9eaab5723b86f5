"""How long a router takes to decide, on the machine that evaluates."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from thinkroute.policy import choose
from thinkroute.routers.base import TableRouter
from thinkroute.types import Arm, ComputePrices, Query

_TIMED_QUERIES: Final = 200
_PRICES: Final = ComputePrices(1.0)


@dataclass(frozen=True)
class Timing:
    """Medians over queries, in microseconds."""

    predict_us: float
    """One query, all arms."""
    decide_us: float
    """That, and the policy's choice among them."""


def time_decisions(router: TableRouter, queries: Sequence[Query], arm_ids: Sequence[str]) -> Timing:
    """Time single decisions, one after the other, as a gateway makes them."""
    arms = {arm_id: Arm("direct", (arm_id,)) for arm_id in arm_ids}
    predicted: list[float] = []
    decided: list[float] = []
    for query in queries[:_TIMED_QUERIES]:
        start = time.perf_counter()
        predictions = router.predict(query, arm_ids)
        middle = time.perf_counter()
        # An outcome table's arm ids need not be those an `Arm` would have; renaming is no part of a decision.
        renamed = {arms[arm_id].id: prediction for arm_id, prediction in predictions.items()}
        again = time.perf_counter()
        choose(tuple(arms.values()), renamed, _PRICES, {}, router=router.version)
        end = time.perf_counter()
        predicted.append(middle - start)
        decided.append(middle - start + end - again)
    return Timing(float(np.median(predicted) * 1e6), float(np.median(decided) * 1e6))
