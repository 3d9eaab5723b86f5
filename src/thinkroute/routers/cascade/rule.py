"""A fitted cascade at work: one request's answers in, a verdict out.

Owns the binding to a request and the plans kept per price; deciding is `planner`, knowing is `fitted`. Synchronous and
without I/O, a millisecond or so a verdict; a plan for a price not seen lately takes some tens of milliseconds.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np

from thinkroute.errors import ConfigError
from thinkroute.programs.cascade import StageRun, Verdict
from thinkroute.routers.cascade.features import answer_features, row_of
from thinkroute.routers.cascade.fitted import FittedCascade
from thinkroute.routers.cascade.planner import NOBODY, STOP, Plan, Situation
from thinkroute.types import Arm, ComputePrices, Estimate, Prediction, Query

_MOST_PLANS: Final = 64
_DIGITS: Final = 2
"""Significant digits a price is rounded to, so that a drifting shadow price does not ask for a plan each request."""


class CascadeRules:
    """Makes rules for requests from one fitted cascade."""

    def __init__(self, cascade: FittedCascade) -> None:
        self.cascade = cascade
        self._plans: OrderedDict[tuple[float, ...], Plan] = OrderedDict()

    @property
    def most_samples(self) -> int:
        """Further samples any stage draws at most."""
        return max(self.cascade.samples_S, default=0)

    def covers(self, arm: Arm) -> bool:
        """Whether it was fitted on all the arm's stages, in their order."""
        known = [stage for stage in self.cascade.stages if stage in {each.id for each in arm.stages}]
        return known == [stage.id for stage in arm.stages]

    def check(self, arm: Arm) -> None:
        """Whether it can decide for an arm.

        Raises:
            ConfigError: it was not fitted on the arm's stages, in their order.
        """
        if not self.covers(arm):
            raise ConfigError(
                f"arm {arm.id!r} needs a cascade fitted on its stages in this order; the one loaded has "
                f"{', '.join(self.cascade.stages)}: fit one with `thinkroute cascade fit` and set cascade.path",
                param="cascade.path",
            )

    def bind(self, arm: Arm, query: Query, prices: ComputePrices) -> BoundRule:
        """A rule for one request.

        Raises:
            ConfigError: the cascade was not fitted on the arm's stages.
        """
        self.check(arm)
        return BoundRule(self, arm, query, prices)

    def plan(self, prices: ComputePrices, allowed: Sequence[int]) -> Plan:
        """The best plan at about these prices."""
        spend = _rounded(1.0 + prices.mu_spend)
        seconds = _rounded(prices.mu_latency_usd_per_s)
        key = (prices.value_usd, spend, seconds, *allowed)
        found = self._plans.pop(key, None)
        if found is None:
            found = self.cascade.plan(prices.value_usd, np.array([spend, seconds]), allowed)
        self._plans[key] = found
        while len(self._plans) > _MOST_PLANS:
            self._plans.popitem(last=False)
        return found


class BoundRule:
    """The rule for one request; see `thinkroute.programs.cascade.StageRule`."""

    def __init__(self, rules: CascadeRules, arm: Arm, query: Query, prices: ComputePrices) -> None:
        self._rules, self._prices = rules, prices
        self._cascade = rules.cascade
        self._places = [self._cascade.stages.index(stage.id) for stage in arm.stages]
        self._read = self._cascade.read([query])

    def expected_tokens(self, stage: int) -> float:
        """Mean generated tokens of the training queries."""
        place = self._places[stage]
        return float(self._cascade.tokens_S[place]) * (1 + len(self.sample_options(stage)))

    def sample_options(self, stage: int) -> Sequence[Mapping[str, Any]]:
        """As the cascade was fitted: samples drawn at its temperature, with fixed seeds."""
        count = self._cascade.samples_S[self._places[stage]]
        return [{"temperature": self._cascade.temperature, "seed": 1 + number} for number in range(count)]

    def judge(self, runs: Sequence[StageRun], allowed: Collection[int]) -> Verdict:
        """Stop, escalate or jump."""
        usable = [place for place, run in enumerate(runs) if run.usable]
        qualities = [self._situation(runs[place]).quality_R[0] for place in usable]
        best = usable[int(np.argmax(qualities))] if usable else None
        latest = runs[usable[-1]] if usable else None
        situation = self._situation(latest)
        plan = self._rules.plan(self._prices, [self._places[stage] for stage in sorted(allowed)])
        ways_S = plan.ways(situation)[0]
        next_place = int(plan.next_stage(situation)[0])
        if latest is None and not allowed:
            next_place = STOP
        return Verdict(
            next_stage=None if next_place == STOP else self._places.index(next_place),
            best=best,
            quality=None if latest is None else float(situation.quality_R[0]),
            features={} if latest is None else _known(answer_features(latest.draft)),
            stop_usd=None if latest is None else float(plan.value_usd * situation.quality_R[0]),
            ways_usd={stage: float(ways_S[self._places[stage]]) for stage in sorted(allowed)},
        )

    def prediction(self) -> Prediction:
        """What is expected of the whole cascade before it begins; as sure as the mean over one leaf is."""
        situation = self._cascade.situation(NOBODY, self._read)
        quality_R, cost_RM = self._rules.plan(self._prices, sorted(self._places)).expected(situation)
        quality, (cost_usd, latency_s) = float(quality_R[0]), cost_RM[0].tolist()
        spread = math.sqrt(quality * (1.0 - quality) / float(self._cascade.parameters["leaf_rows"]))
        return Prediction(
            quality=Estimate(quality, spread),
            cost_usd=Estimate(cost_usd),
            latency_s=Estimate(latency_s) if latency_s else None,
        )

    def _situation(self, run: StageRun | None) -> Situation:
        if run is None:
            return self._cascade.situation(NOBODY, self._read)
        feature_RF = np.array([row_of(answer_features(run.draft))])
        return self._cascade.situation(self._places[run.stage] + 1, self._read, feature_RF)


def _known(features: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in features.items() if value == value}  # noqa: PLR0124 - NaN is unknown


def _rounded(price: float) -> float:
    return float(f"{price:.{_DIGITS}g}")
