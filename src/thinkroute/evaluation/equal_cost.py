"""Hulls of resampled frontiers, and what they say at equal cost and at equal quality.

Owns the bootstrap of everything that is read off a hull. Queries are resampled once and all curves move with them, so
differences are paired. The hull is taken over the tested points themselves, in every resample anew: it flatters a
router a little, the single arms as much.
"""

from __future__ import annotations

import numpy as np

from thinkroute.evaluation import metrics
from thinkroute.evaluation.metrics import LEVEL, Hull
from thinkroute.evaluation.scores import EqualCost
from thinkroute.routers.table import FloatArray


class ResampledHulls:
    """The hull of one curve, on all rows and in every resample."""

    def __init__(self, quality_VR: FloatArray, cost_VR: FloatArray, weight_BR: FloatArray) -> None:
        self.whole = metrics.hull(cost_VR.mean(axis=1), quality_VR.mean(axis=1))
        """On all rows."""
        quality_BV, cost_BV = weight_BR @ quality_VR.T, weight_BR @ cost_VR.T
        self.samples = [metrics.hull(c, q) for c, q in zip(cost_BV, quality_BV, strict=True)]
        """One per resample."""

    def aiq(self, low: float, high: float) -> tuple[float, FloatArray]:
        """AIQ on all rows and in every resample."""
        samples = [metrics.aiq(hull, low, high) for hull in self.samples]
        return metrics.aiq(self.whole, low, high), np.array(samples, dtype=np.float64)


def against_single(
    hulls: ResampledHulls, quality_R: FloatArray, cost_R: FloatArray, weight_BR: FloatArray
) -> EqualCost:
    """A router's hull against one arm: quality at that arm's cost, and cost at that arm's quality.

    Args:
        hulls: The router's.
        quality_R: What the arm did on each row.
        cost_R: What it cost there.
        weight_BR: The resamples that the hulls were made of.
    """
    quality_B, cost_B = weight_BR @ quality_R, weight_BR @ cost_R
    quality, cost = float(quality_R.mean()), float(cost_R.mean())
    gains = [h.quality_at(c) - q for h, q, c in zip(hulls.samples, quality_B, cost_B, strict=True)]
    shares = [_share(h, q, c) for h, q, c in zip(hulls.samples, quality_B, cost_B, strict=True)]
    gain = metrics.interval(hulls.whole.quality_at(cost) - quality, np.array(gains))
    low, high = _ends(np.array(shares))
    return EqualCost(
        quality_gain=None if np.isnan([gain.mean, gain.low, gain.high]).any() else gain,
        cost_share=_known(_share(hulls.whole, quality, cost)),
        cost_share_low=_known(low),
        cost_share_high=_known(high),
        reached=float(np.isfinite(shares).mean()) if shares else 0.0,
    )


def _share(hull: Hull, quality: float, cost: float) -> float:
    """Infinite where the quality is never reached: no finite price buys it."""
    share = metrics.cost_share(hull, quality, cost)
    return float("inf") if np.isnan(share) else share


def _known(share: float) -> float | None:
    return share if np.isfinite(share) else None


def _ends(sample_B: FloatArray) -> tuple[float, float]:
    """As `metrics.interval`, for samples that may be infinite: an end is a sample, never between two."""
    if not sample_B.size:
        return float("inf"), float("inf")
    low, high = np.quantile(sample_B, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    return float(low), float(high)
