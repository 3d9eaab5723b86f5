"""Metrics of routing, each by its published definition, on plain arrays.

A router with a dial is a set of points (mean cost, mean quality). Owns what is computed from such points and from
per-query outcomes; how points come about is `frontier`. Costs may be dollars or tokens: only ratios and the stated
range matter. Shape letters: V settings of the dial, Q queries, A arms, B bootstrap resamples, H hull points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from thinkroute.routers.table import FloatArray

IntArray = NDArray[np.intp]

LEVEL: Final = 0.95
"""Coverage of every interval."""
_ROUNDING: Final = 1e-9
"""Means of the same numbers summed in another order differ by less than this."""


@dataclass(frozen=True)
class Hull:
    """Best quality reachable at each cost: concave, non-decreasing, cost strictly increasing."""

    cost_H: FloatArray
    quality_H: FloatArray

    def quality_at(self, cost: float) -> float:
        """Quality at a mean cost; NaN below the cheapest point (nothing is reachable), flat beyond the last."""
        if cost < self.cost_H[0] * (1 - _ROUNDING):
            return float("nan")
        return float(np.interp(cost, self.cost_H, self.quality_H))

    def cost_of(self, quality: float) -> float:
        """Least mean cost that reaches a mean quality; NaN when none does."""
        if quality > self.quality_H[-1] + _ROUNDING:
            return float("nan")
        if quality <= self.quality_H[0]:
            return float(self.cost_H[0])
        return float(np.interp(quality, self.quality_H, self.cost_H))


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float


def hull(cost_V: FloatArray, quality_V: FloatArray) -> Hull:
    """Non-decreasing upper convex hull (RouterBench, arXiv 2403.12031).

    Every point on it is reachable by a random mix of two of the given points; points that cost more without being
    better are dropped.
    """
    kept: list[tuple[float, float]] = []
    for cost, quality in sorted(
        zip(cost_V.tolist(), quality_V.tolist(), strict=True), key=lambda p: (p[0], -p[1])
    ):
        if kept and quality <= kept[-1][1]:
            continue
        while len(kept) > 1 and _not_above(kept[-2], kept[-1], (cost, quality)):
            kept.pop()
        kept.append((cost, quality))
    points_H2 = np.array(kept)
    return Hull(points_H2[:, 0], points_H2[:, 1])


def _not_above(left: tuple[float, float], middle: tuple[float, float], right: tuple[float, float]) -> bool:
    """Whether `middle` lies on or under the line from `left` to `right`."""
    rise = (right[1] - left[1]) * (middle[0] - left[0])
    return rise >= (middle[1] - left[1]) * (right[0] - left[0])


def aiq(points: Hull, low: float, high: float) -> float:
    """Average improvement in quality: ∫ hull over the cost range [low, high], divided by its length.

    The range must be common to everything compared. Left of a router's cheapest point nothing is reachable and
    counts as 0; right of its dearest the last quality goes on. A range without length gives the quality there.
    """
    if high <= low:
        return float(np.nan_to_num(points.quality_at(high)))
    start = max(low, float(points.cost_H[0]))
    if start >= high:
        return 0.0
    inside = points.cost_H[(points.cost_H > start) & (points.cost_H < high)]
    cost = np.concatenate([[start], inside, [high]])
    quality = np.interp(cost, points.cost_H, points.quality_H)
    return float(np.sum((quality[1:] + quality[:-1]) / 2 * np.diff(cost)) / (high - low))


def pgr(quality: float, weak: float, strong: float) -> float:
    """Performance gap recovered (RouteLLM): 0 at the weak arm's quality, 1 at the strong arm's. NaN if equal."""
    return (quality - weak) / (strong - weak) if strong != weak else float("nan")


def pgr_curve(margin_Q: FloatArray, weak_Q: FloatArray, strong_Q: FloatArray) -> FloatArray:
    """PGR when the n queries of largest margin go to the strong arm, for n = 0 … Q: shape (Q + 1,).

    Queries of equal margin have no order: the curve between them is the straight line a random order gives.

    Args:
        margin_Q: How much the router prefers the strong arm.
        weak_Q: Quality of the weak arm.
        strong_Q: Quality of the strong arm.
    """
    order = np.argsort(-margin_Q, kind="stable")
    gained_Q = np.concatenate([[0.0], np.cumsum((strong_Q - weak_Q)[order])])
    steps = np.flatnonzero(np.diff(margin_Q[order])) + 1
    corners = np.concatenate([[0], steps, [len(margin_Q)]])
    curve = np.interp(np.arange(len(margin_Q) + 1), corners, gained_Q[corners])
    whole = gained_Q[-1]
    return curve / whole if whole != 0 else np.full_like(curve, np.nan)


def apgr(curve: FloatArray) -> float:
    """Average PGR: the area under `pgr_curve` over the share of strong calls. Random gives 0.5."""
    return float(((curve[1:] + curve[:-1]) / 2).mean())


def apgr_samples(
    margin_Q: FloatArray, weak_Q: FloatArray, strong_Q: FloatArray, weight_BQ: FloatArray
) -> FloatArray:
    """`apgr` of `pgr_curve` with the queries weighted anew in every resample, shape (B,); NaN where no gap is left."""
    order = np.argsort(-margin_Q, kind="stable")
    first = np.concatenate([[0], np.flatnonzero(np.diff(margin_Q[order])) + 1])
    weight_BQ = weight_BQ[:, order]
    # One step of the curve per run of equal margins: G such steps.
    mass_BG = np.add.reduceat(weight_BQ, first, axis=1)
    gain_BG = np.add.reduceat(weight_BQ * (strong_Q - weak_Q)[order], first, axis=1)
    before_BG = np.cumsum(gain_BG, axis=1) - gain_BG
    area_B = (mass_BG * (before_BG + gain_BG / 2)).sum(axis=1)
    whole_B = mass_BG.sum(axis=1) * gain_BG.sum(axis=1)
    return np.divide(area_B, whole_B, out=np.full(len(whole_B), np.nan), where=whole_B != 0)


def apgr_ten_point(curve: FloatArray) -> float:
    """The paper's mean of ten points, here at 5 %, 15 %, …, 95 % of strong calls, so that random gives 0.5."""
    share = np.linspace(0.0, 1.0, len(curve))
    return float(np.interp(np.arange(0.05, 1.0, 0.1), share, curve).mean())


def cpt(curve: FloatArray, recovered: float) -> float:
    """Call-performance threshold: the smallest share of strong calls with PGR >= `recovered`; NaN if never."""
    reached = np.flatnonzero(curve >= recovered - _ROUNDING)
    return float(reached[0] / (len(curve) - 1)) if reached.size else float("nan")


def cost_share(points: Hull, quality: float, cost: float) -> float:
    """Least cost on the hull that reaches `quality`, as a share of `cost`; NaN if never or if `cost` is 0."""
    return points.cost_of(quality) / cost if cost > 0 else float("nan")


def arm_shares(choice_Q: IntArray, arms: int) -> FloatArray:
    """Share of queries sent to each arm, shape (A,)."""
    return np.bincount(choice_Q, minlength=arms) / max(len(choice_Q), 1)


def entropy_bits(share_A: FloatArray) -> float:
    """Entropy of the arm shares: 0 for a router that always picks one arm, log2 A for an even spread."""
    used = share_A[share_A > 0]
    return float(-(used * np.log2(used)).sum()) + 0.0


def oracle(quality_QA: FloatArray, cost_QA: FloatArray | None) -> IntArray:
    """Best measured arm of each query, the cheapest of the best, shape (Q,). Every row needs a measured cell."""
    best_Q = np.nanmax(quality_QA, axis=1)
    cost = np.zeros_like(quality_QA) if cost_QA is None else np.nan_to_num(cost_QA, nan=np.inf)
    rank_QA = np.where(quality_QA == best_Q[:, None], np.minimum(cost, np.finfo(np.float64).max), np.inf)
    return rank_QA.argmin(axis=1)


def truncation_rate(finish_Q: NDArray[np.str_]) -> float:
    """Share of answers cut by their token limit among those whose end is known; NaN when none is known."""
    known = finish_Q[finish_Q != ""]
    return float((known == "length").mean()) if known.size else float("nan")


def resample(groups_Q: IntArray, resamples: int, seed: int) -> FloatArray:
    """Bootstrap weights, shape (B, Q), each row summing to 1.

    Groups are drawn with replacement, and all queries of a group share its draw: repeated measurements of one
    query are not independent.
    """
    group_count = int(groups_Q.max()) + 1
    draws = np.random.default_rng(seed).multinomial(
        group_count, np.full(group_count, 1 / group_count), resamples
    )
    weight_BQ = draws[:, groups_Q].astype(np.float64)
    return weight_BQ / np.maximum(weight_BQ.sum(axis=1, keepdims=True), 1e-12)


def interval(mean: float, sample_B: FloatArray) -> Interval:
    """Percentile interval of bootstrap samples."""
    usable = sample_B[~np.isnan(sample_B)]
    if not usable.size:
        return Interval(mean, float("nan"), float("nan"))
    low, high = np.quantile(usable, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(low), float(high))


def paired_interval(value_Q: FloatArray, baseline_Q: FloatArray, weight_BQ: FloatArray) -> Interval:
    """Mean difference per query with its paired bootstrap interval."""
    difference_Q = value_Q - baseline_Q
    return interval(float(difference_Q.mean()), weight_BQ @ difference_Q)
