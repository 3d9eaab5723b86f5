"""Known or unknown territory: how likely a query is of a kind the training queries do not hold, and what then is true.

Two views of every training query are compared: with only itself left out it stands among its like, with its whole
kind left out (`clusters.unlike_folds`) it is a stranger. A logistic regression tells the two apart by how far the k
nearest queries are, relative to how far they are from their own neighbours (the idea of the local outlier factor,
Breunig et al. 2000), and by their kernel weight. The strangers' view also says what a prediction is worth there: the
share of a predicted difference between arms that turned out true, and how much larger errors were.
Shape letters: N training queries, R rows used for tuning, k neighbours, A arms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from thinkroute.routers.clusters import IndexArray, nearest_centres
from thinkroute.routers.logistic import fit_logistic
from thinkroute.routers.neighbours import KnnSettings, Near, Neighbours, neighbours_of, tuning_rows
from thinkroute.routers.table import FloatArray
from thinkroute.signals.base import Matrix

_FEWEST: Final = 30
"""Training queries from which on strangers can be told from friends."""
_SMALL: Final = 1e-3
_PENALTY: Final = 1.0
_SURE: Final = 30.0
"""Log odds beyond which nothing changes."""


@dataclass(frozen=True)
class Territory:
    """A fitted judge of how strange a query is; the names are those of the artefact."""

    reach_N: FloatArray
    """Mean distance of every training query to its own nearest others."""
    weight_3: FloatArray
    """Of relative distance, of kernel weight, and the intercept."""
    trust: float
    """Share of a predicted difference between arms that is true of strangers, in [0, 1]."""
    excess_A: FloatArray
    """Mean squared error of quality that strangers have beyond friends, by arm."""

    def unseen(self, near: Near) -> float:
        """Probability that a query is of an unseen kind."""
        count = len(near.index_k)
        reach = float(self.reach_N.take(near.index_k).sum()) / count
        relative = float(np.sqrt(near.distance_k).sum()) / count / (reach + _SMALL)
        by_distance, by_weight, intercept = self.weight_3.tolist()
        score = by_distance * math.log(relative + _SMALL) + intercept
        score += by_weight * math.log(float(near.weight_k.sum()) / count + _SMALL)
        return 1.0 / (1.0 + math.exp(-min(max(score, -_SURE), _SURE)))


@dataclass(frozen=True)
class Views:
    """Every tuning row among its like, and as a stranger."""

    near: Neighbours
    far: Neighbours


def views(keys_ND: Matrix, settings: KnnSettings, fold_N: IndexArray) -> Views:
    """Neighbours of both views."""
    rows_R, depth = tuning_rows(len(keys_ND)), min(settings.neighbours, len(keys_ND) - 1)
    return Views(neighbours_of(keys_ND, rows_R, depth), neighbours_of(keys_ND, rows_R, depth, fold_N))


def fit(keys_ND: Matrix, found: Views, bandwidth: float, unseen_share: float, worth: Worth) -> Territory:
    """Learn to tell strangers.

    Where there are too few queries, or none finds a neighbour of another kind, every query is a stranger with
    probability `unseen_share`, and nothing predicted of it is true.

    Args:
        keys_ND: Vectors of the training queries.
        found: Both views.
        bandwidth: h of the kernel.
        unseen_share: Prior probability of a stranger.
        worth: What predictions are worth among strangers.
    """
    share = min(max(unseen_share, 1e-9), 1.0 - 1e-9)
    odds = math.log(share / (1.0 - share))
    if len(keys_ND) < _FEWEST or not np.isfinite(found.far.distance_Rk).any():
        nothing = Worth(0.0, np.zeros_like(worth.excess_A))
        return Territory(np.ones(len(keys_ND)), np.array([0.0, 0.0, odds]), *vars(nothing).values())
    reach_N = _reach(keys_ND, found.near)
    features = [_features(part, reach_N, bandwidth) for part in (found.near, found.far)]
    vector = np.concatenate(features)
    label = np.repeat([0.0, 1.0], [len(part) for part in features])[:, None]
    centre, unit = vector.mean(axis=0), np.maximum(vector.std(axis=0), _SMALL)
    fitted = fit_logistic((vector - centre) / unit, label, _PENALTY)
    weight_2 = fitted["weight_DA"][:, 0] / unit
    # Both views were equally frequent; strangers are as frequent as `unseen_share` says.
    intercept = fitted["intercept_A"][0] - weight_2 @ centre + odds
    return Territory(reach_N, np.append(weight_2, intercept), worth.trust, worth.excess_A)


@dataclass(frozen=True)
class Worth:
    """What predictions are worth among strangers; see `Territory`."""

    trust: float
    excess_A: FloatArray


def worth(truth_RA: FloatArray, friend_RA: FloatArray, stranger_RA: FloatArray, reference: int) -> Worth:
    """Compare what was measured with what both views predicted, all as deviations from the arms' averages."""
    told_RA = stranger_RA - stranger_RA[:, [reference]]
    true_RA = truth_RA - truth_RA[:, [reference]]
    told_RA = np.where(np.isnan(true_RA), 0.0, told_RA)
    size = float((told_RA**2).sum())
    trust = float((told_RA * np.nan_to_num(true_RA)).sum()) / size if size > 0 else 0.0
    count_A = np.maximum((~np.isnan(truth_RA)).sum(axis=0), 1)
    more_RA = (truth_RA - stranger_RA) ** 2 - (truth_RA - friend_RA) ** 2
    return Worth(min(max(trust, 0.0), 1.0), np.maximum(np.nansum(more_RA, axis=0) / count_A, 0.0))


def _reach(keys_ND: Matrix, near: Neighbours) -> FloatArray:
    """Mean distance of every query to its nearest others; one not tuned on takes its nearest tuned one's."""
    own_R = _mean_distance(near)
    if len(near.rows_R) == len(keys_ND):
        return own_R
    return own_R[nearest_centres(keys_ND, keys_ND[near.rows_R])]


def _mean_distance(found: Neighbours) -> FloatArray:
    finite_Rk = np.isfinite(found.distance_Rk)
    total_R = np.sqrt(np.where(finite_Rk, found.distance_Rk, 0.0)).sum(axis=1)
    return total_R / np.maximum(finite_Rk.sum(axis=1), 1)


def _features(found: Neighbours, reach_N: FloatArray, bandwidth: float) -> FloatArray:
    relative_R = _mean_distance(found) / (reach_N[found.index_Rk].mean(axis=1) + _SMALL)
    mass_R = np.exp(-found.distance_Rk / bandwidth).mean(axis=1)
    return np.log(np.stack([relative_R, mass_R], axis=1) + _SMALL)
