"""Whether predicted quality means what it says: calibration error over bins of equal mass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from thinkroute.evaluation.scores import Calibration, ReliabilityBin
from thinkroute.routers.table import FloatArray

BINS: Final = 15


@dataclass(frozen=True)
class Cells:
    """Predicted and measured quality of cells, one entry each."""

    predicted_C: FloatArray
    measured_C: FloatArray


def reliability(cells: Cells, bins: int = BINS) -> list[ReliabilityBin]:
    """Bins of about equal mass, by predicted quality; cells of equal prediction are never torn apart."""
    order = np.argsort(cells.predicted_C, kind="stable")
    predicted_C, measured_C = cells.predicted_C[order], cells.measured_C[order]
    _, first_U, count_U = np.unique(predicted_C, return_index=True, return_counts=True)
    # Where the middle of each run of equal predictions falls among the bins.
    bin_U = np.floor((first_U + (count_U - 1) / 2) * bins / max(len(predicted_C), 1)).astype(np.intp)
    bin_C = np.repeat(bin_U, count_U)
    found: list[ReliabilityBin] = []
    for number in np.unique(bin_C):
        inside_C = bin_C == number
        found.append(
            ReliabilityBin(
                float(predicted_C[inside_C].mean()),
                float(measured_C[inside_C].mean()),
                int(inside_C.sum()),
            )
        )
    return found


def expected_error(bins: list[ReliabilityBin]) -> float:
    """ECE = Σ (cells in bin / cells) · |mean predicted − mean measured|; NaN without cells.

    Biased upwards: a perfect prediction still gets about the sampling error of a bin's mean.
    """
    cells = sum(found.cells for found in bins)
    if not cells:
        return float("nan")
    return sum(found.cells * abs(found.predicted - found.measured) for found in bins) / cells


def calibration(every: Cells, chosen: Cells) -> Calibration:
    """Calibration over all cells, and over those that were chosen."""
    bins = reliability(every)
    return Calibration(
        ece=expected_error(bins),
        brier=float(np.mean((every.predicted_C - every.measured_C) ** 2)),
        chosen_ece=expected_error(reliability(chosen)),
        chosen_excess=float(np.mean(chosen.predicted_C - chosen.measured_C)),
        bins=bins,
    )
