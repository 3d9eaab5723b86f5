"""Two-arm tables: performance gap recovered over the share of strong calls, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from thinkroute.evaluation import metrics
from thinkroute.evaluation.metrics import Interval
from thinkroute.routers.table import FloatArray

_POINTS: Final = 1001


@dataclass(frozen=True)
class PairCurve:
    """PGR over the share of strong calls, and the area under it."""

    curve: FloatArray
    apgr: float
    interval: Interval | None
    """None where no resample has a gap to recover."""


def pair_curve(
    quality_RA: FloatArray, predicted: Sequence[FloatArray], weight_BR: FloatArray
) -> PairCurve | None:
    """The curve between the arms of a two-arm table, averaged over folds; None for other tables.

    Only rows with both cells take part. Margins of different folds come from different fits and are not compared with
    one another.

    Args:
        quality_RA: Measured quality, all folds one below the other.
        predicted: Predicted quality (rows of the fold, A) per fold, in the same order.
        weight_BR: Resamples of the rows.
    """
    if quality_RA.shape[1] != 2:
        return None
    strong = int(np.nanmean(quality_RA, axis=0).argmax())
    share = np.linspace(0.0, 1.0, _POINTS)
    curves: list[FloatArray] = []
    areas: list[FloatArray] = []
    start = 0
    for predicted_QA in predicted:
        rows = np.arange(start, start + len(predicted_QA), dtype=np.intp)
        start += len(predicted_QA)
        both_Q = ~np.isnan(quality_RA[rows].sum(axis=1))
        truth_QA = quality_RA[rows[both_Q]]
        margin_Q = predicted_QA[both_Q, strong] - predicted_QA[both_Q, 1 - strong]
        measured = (margin_Q, truth_QA[:, 1 - strong], truth_QA[:, strong])
        curve = metrics.pgr_curve(*measured)
        curves.append(np.interp(share, np.linspace(0.0, 1.0, len(curve)), curve))
        areas.append(metrics.apgr_samples(*measured, weight_BR[:, rows[both_Q]]))
    mean = np.asarray(np.stack(curves).mean(axis=0), dtype=np.float64)
    area = metrics.apgr(mean)
    interval = metrics.interval(area, np.asarray(np.stack(areas).mean(axis=0), dtype=np.float64))
    return PairCurve(mean, area, None if np.isnan(interval.low) else interval)
