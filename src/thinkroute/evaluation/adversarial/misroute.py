"""How often a router is misled: hard prompts to the weak arm, easy ones to the strong, and nonsense that pulls it up.

Two arms are enough to see it: *strong* is the best single arm by the outcomes the router was fitted on, *weak* the
cheapest (of least quality where nothing has a cost). A router's preference for the strong arm is the predicted gain
in quality per predicted extra dollar, which orders queries as the policy does when the value of a right answer slides.
It is read at the point where `call_rate` of ordinary prompts go to the strong arm; prompts of exactly that preference
go there by chance, so a constant router misroutes as a coin does. `auroc` needs no such point: 1 when every hard prompt
is preferred to every easy one, 0.5 for a coin. Length alone can give either end of it, so `auroc_bare` compares hard
prompts with the bare easy requests, which are as short.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from thinkroute.errors import DataError
from thinkroute.evaluation.adversarial import TrickPrompt
from thinkroute.evaluation.adversarial.prefixes import climb, prefixed, random_prefixes
from thinkroute.evaluation.metrics import Interval
from thinkroute.routers.base import Router
from thinkroute.routers.table import FloatArray, OutcomeTable
from thinkroute.types import Query

_RANDOM_PREFIXES: Final = 10
_SEARCH_STEPS: Final = 60
_ATTACKED: Final = 100
"""Ordinary prompts on which prefixes are searched, and as many on which they are then tried."""
_Z: Final = 1.959963984540054


@dataclass(frozen=True)
class Pair:
    """The two arms between which a router is watched."""

    weak: str
    strong: str


class Domain(msgspec.Struct, frozen=True):
    """Rates within one domain."""

    hard_to_weak: float
    easy_to_strong: float
    prompts: int


class Upgrades(msgspec.Struct, frozen=True):
    """What a prefix does to ordinary prompts it was not searched on."""

    upgraded: float
    """Share of those that went to the weak arm and now go to the strong one."""
    downgraded: float
    """Share of those that went to the strong arm and now go to the weak one."""


class Misroutes(msgspec.Struct, frozen=True, kw_only=True):
    """One router on the set."""

    router: str
    weak: str
    strong: str
    call_rate: float
    auroc: float
    auroc_bare: float | None
    """Against the easy requests without the text around them: length is no help."""
    hard_to_weak: Interval
    easy_to_strong: Interval
    bare_to_strong: float | None
    """The easy requests without the text around them."""
    by_domain: dict[str, Domain]
    random_prefix: Upgrades
    """Mean over prefixes drawn blindly."""
    searched_prefix: Upgrades
    """One prefix, searched against this router."""


def pair_of(table: OutcomeTable) -> Pair:
    """Cheapest and best arm of the outcomes a router was fitted on.

    Raises:
        DataError: one arm is both.
    """
    quality_A = np.nan_to_num(_means(table.quality_QA), nan=-1.0)
    costs = table.cost_usd_QA
    price_A = quality_A if costs is None else np.nan_to_num(_means(costs), nan=np.inf)
    strong, weak = int(quality_A.argmax()), int(price_A.argmin())
    if strong == weak:
        raise DataError(
            f"arm {table.arms[strong]!r} is both the best and the cheapest: nobody can be misrouted"
        )
    return Pair(table.arms[weak], table.arms[strong])


def misroutes(
    router: Router,
    pair: Pair,
    ordinary: Sequence[str],
    prompts: Sequence[TrickPrompt],
    *,
    name: str,
    call_rate: float = 0.5,
    seed: int = 0,
) -> Misroutes:
    """Watch a fitted router between two arms.

    Args:
        router: Any router.
        pair: The arms.
        ordinary: Prompts as they come, which the router was not fitted on; they set the point of operation.
        prompts: The set.
        name: What the router is called in the report.
        call_rate: Share of ordinary prompts that go to the strong arm.
        seed: Of the prefixes and of who is attacked.

    Raises:
        DataError: no ordinary prompt, or a call rate outside (0, 1).
    """
    if not ordinary or not 0 < call_rate < 1:
        raise DataError("misroutes need ordinary prompts and a call rate between 0 and 1")
    watched = _Watched(router, pair, ordinary, call_rate)
    hard = [prompt for prompt in prompts if prompt.kind == "hard_short"]
    easy = [prompt for prompt in prompts if prompt.kind == "easy_long"]
    hard_Q, easy_Q = (watched.preference([prompt.text for prompt in group]) for group in (hard, easy))
    to_weak_Q, to_strong_Q = 1 - watched.strong(hard_Q), watched.strong(easy_Q)
    bare_Q = watched.preference([prompt.core for prompt in easy if prompt.core is not None])
    blind, searched = _attacks(watched, ordinary, seed)
    return Misroutes(
        router=name,
        weak=pair.weak,
        strong=pair.strong,
        call_rate=call_rate,
        auroc=auroc(hard_Q, easy_Q),
        auroc_bare=auroc(hard_Q, bare_Q) if bare_Q.size else None,
        hard_to_weak=_rate(to_weak_Q),
        easy_to_strong=_rate(to_strong_Q),
        bare_to_strong=float(watched.strong(bare_Q).mean()) if bare_Q.size else None,
        by_domain=_by_domain(hard, to_weak_Q, easy, to_strong_Q),
        random_prefix=blind,
        searched_prefix=searched,
    )


def auroc(high_Q: FloatArray, low_Q: FloatArray) -> float:
    """Probability that one of `high_Q` exceeds one of `low_Q`, equal ones counting half."""
    above = (high_Q[:, None] > low_Q[None, :]).mean()
    return float(above + (high_Q[:, None] == low_Q[None, :]).mean() / 2)


class _Watched:
    """A router between two arms, at a point of operation."""

    def __init__(self, router: Router, pair: Pair, ordinary: Sequence[str], call_rate: float) -> None:
        self._router, self._arms = router, (pair.weak, pair.strong)
        ordinary_Q = self.preference(ordinary)
        self._threshold = float(np.quantile(ordinary_Q, 1 - call_rate, method="inverted_cdf"))
        above, at = (ordinary_Q > self._threshold).mean(), (ordinary_Q == self._threshold).mean()
        self._chance_at = float(np.clip((call_rate - above) / at, 0.0, 1.0))

    def preference(self, texts: Sequence[str]) -> FloatArray:
        """Predicted gain in quality per predicted extra dollar; the gain alone where dollars are not predicted."""
        if not texts:
            return np.empty(0)
        found = self._router.predict_batch([Query(text) for text in texts], self._arms)
        quality_Q2 = found.quality.mean_QA
        gain_Q = quality_Q2[:, 1] - quality_Q2[:, 0]
        if "cost_usd" not in found.moments:
            return gain_Q
        cost_Q2 = found.moments["cost_usd"].mean_QA
        extra_Q = np.maximum(cost_Q2[:, 1] - cost_Q2[:, 0], 1e-12)
        return np.where(np.isnan(extra_Q), gain_Q, gain_Q / extra_Q)

    def strong(self, preference_Q: FloatArray) -> FloatArray:
        """Probability that each prompt goes to the strong arm."""
        at_Q = np.where(preference_Q == self._threshold, self._chance_at, 0.0)
        return np.where(preference_Q > self._threshold, 1.0, at_Q)


def _attacks(watched: _Watched, ordinary: Sequence[str], seed: int) -> tuple[Upgrades, Upgrades]:
    order = np.random.default_rng(seed).permutation(len(ordinary))
    some = [ordinary[int(place)] for place in order[: 2 * _ATTACKED]]
    at_hand, others = some[: len(some) // 2], some[len(some) // 2 :]
    before_Q = watched.strong(watched.preference(others))
    starts = random_prefixes(_RANDOM_PREFIXES, seed)
    blind = [_upgrades(watched, others, before_Q, tokens) for tokens in starts]
    best = climb(watched.preference, at_hand or others, starts, _SEARCH_STEPS, seed)
    mean = Upgrades(
        float(np.mean([one.upgraded for one in blind])), float(np.mean([one.downgraded for one in blind]))
    )
    return mean, _upgrades(watched, others, before_Q, best)


def _upgrades(
    watched: _Watched, texts: Sequence[str], before_Q: FloatArray, tokens: Sequence[str]
) -> Upgrades:
    """Prompts that go either way by chance count by their chances, drawn independently before and after."""
    after_Q = watched.strong(watched.preference([prefixed(tokens, text) for text in texts]))
    weak, strong = float((1 - before_Q).sum()), float(before_Q.sum())
    up, down = float(((1 - before_Q) * after_Q).sum()), float((before_Q * (1 - after_Q)).sum())
    return Upgrades(up / weak if weak else 0.0, down / strong if strong else 0.0)


def _by_domain(
    hard: Sequence[TrickPrompt], to_weak_Q: FloatArray, easy: Sequence[TrickPrompt], to_strong_Q: FloatArray
) -> dict[str, Domain]:
    found: dict[str, Domain] = {}
    for domain in dict.fromkeys(prompt.domain for prompt in (*hard, *easy)):
        of_hard = np.array([prompt.domain == domain for prompt in hard], dtype=np.bool_)
        of_easy = np.array([prompt.domain == domain for prompt in easy], dtype=np.bool_)
        found[domain] = Domain(
            float(to_weak_Q[of_hard].mean()) if of_hard.any() else float("nan"),
            float(to_strong_Q[of_easy].mean()) if of_easy.any() else float("nan"),
            int(of_hard.sum() + of_easy.sum()),
        )
    return found


def _rate(share_Q: FloatArray) -> Interval:
    """A rate with its 95 % Wilson interval."""
    count = len(share_Q)
    if not count:
        return Interval(float("nan"), float("nan"), float("nan"))
    rate = float(share_Q.mean())
    middle = (rate + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(rate * (1 - rate) / count + _Z**2 / (4 * count**2))
    return Interval(rate, max(middle - half, 0.0), min(middle + half, 1.0))


def _means(matrix_QA: FloatArray) -> FloatArray:
    seen_A = (~np.isnan(matrix_QA)).sum(axis=0)
    return np.where(seen_A > 0, np.nansum(matrix_QA, axis=0) / np.maximum(seen_A, 1), np.nan)
