"""`prior`: what to believe of arms nobody has measured yet. A starting point, labelled as one, never a finding.

Quality comes from the user's own guesses where there are any, otherwise from the effort alone: more thinking, a little
better. Token counts of thinking follow the effort-to-budget tables that gateways publish (LiteLLM's defaults); both
are replaced by `thinkroute fit` as soon as there are outcomes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from thinkroute.routers.base import Moments, Predictions
from thinkroute.routers.table import Measure
from thinkroute.types import Effort, EffortLevel, Estimate, Prediction, Query

_QUALITY: Mapping[EffortLevel, float] = {
    "off": 0.60, "minimal": 0.62, "low": 0.66, "medium": 0.70, "high": 0.73, "xhigh": 0.75, "max": 0.76,
    "on": 0.71, "default": 0.66,
}  # fmt: skip
_REASONING_TOKENS: Mapping[EffortLevel, float] = {
    "off": 0, "minimal": 128, "low": 1024, "medium": 2048, "high": 4096, "xhigh": 8192, "max": 16384,
    "on": 2048, "default": 512,
}  # fmt: skip
_ANSWER_TOKENS = 300.0
_QUALITY_STD = 0.25
_MEASURES: tuple[Measure, ...] = ("quality", "prompt_tokens", "reasoning_tokens", "answer_tokens")


class PriorRouter:
    """Predicts from an arm's effort alone. Quality std 0.25, token counts as unsure as they are large."""

    version = "prior:1"

    def __init__(self, arm_ids: Sequence[str], declared_quality: Mapping[str, float] | None = None) -> None:
        self.arms = tuple(arm_ids)
        self._declared = dict(declared_quality or {})

    def predict(self, query: Query, arms: Sequence[str]) -> Mapping[str, Prediction]:
        """Predict one query; see `Router`."""
        return {arm: self._one(query, arm) for arm in arms}

    def predict_batch(self, queries: Sequence[Query], arms: Sequence[str]) -> Predictions:
        """Predict many queries; see `Router`."""
        rows = [self.predict(query, arms) for query in queries]
        moments: dict[Measure, Moments] = {}
        for measure in _MEASURES:
            cells = [[_estimate(row[arm], measure) for arm in arms] for row in rows]
            values = np.array([[(cell.mean, cell.std) for cell in row] for row in cells]).reshape(
                len(rows), -1, 2
            )
            moments[measure] = Moments(values[..., 0], values[..., 1])
        return Predictions(tuple(arms), np.zeros(len(arms), dtype=np.bool_), moments)

    def _one(self, query: Query, arm_id: str) -> Prediction:
        effort = _effort_of(arm_id)
        reasoning = _REASONING_TOKENS[effort.level]
        if effort.budget_tokens is not None:
            reasoning = min(effort.budget_tokens, _REASONING_TOKENS["high"])
        quality = self._declared.get(arm_id, _QUALITY[effort.level])
        return Prediction(
            quality=Estimate(quality, _QUALITY_STD),
            prompt_tokens=Estimate(float(query.prompt_tokens), query.prompt_tokens / 2),
            reasoning_tokens=Estimate(float(reasoning), float(reasoning)),
            answer_tokens=Estimate(_ANSWER_TOKENS, _ANSWER_TOKENS),
            basis="prior",
        )


def _estimate(prediction: Prediction, measure: Measure) -> Estimate:
    found = getattr(prediction, measure)
    assert isinstance(found, Estimate)  # noqa: S101 - `_one` sets every measure of `_MEASURES`
    return found


def _effort_of(arm_id: str) -> Effort:
    try:
        return Effort.parse(arm_id.rpartition("@")[2])
    except ValueError:
        return Effort()
