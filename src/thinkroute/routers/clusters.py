"""Groups of queries: k-means on vectors, and the folds that leave whole groups out.

Owns how training queries are partitioned; what is done with the parts belongs to the routers. Deterministic.
Shape letters: N queries, D coordinates, K centres.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from thinkroute.signals.base import Matrix

IndexArray = NDArray[np.intp]

_ROUNDS: Final = 12
_CHUNK: Final = 2048
_SAME: Final = 1e-9
"""Mean squared distance to the nearest centre below which every point has one of its own."""
_LABELLED: Final = 0.5
"""Share of queries that need a task label before labels decide the folds."""
_OWN_SPLIT: Final = 12
"""Clusters that stand in for tasks where there are no labels: few and large, as unlike each other as tasks are."""


_FloatT = TypeVar("_FloatT", np.float32, np.float64)


def squared_distances(left_ND: NDArray[_FloatT], right_KD: NDArray[np.floating]) -> NDArray[_FloatT]:
    """Squared Euclidean distances, shape (N, K), never negative, as precise as the left side is."""
    right_KD = right_KD.astype(left_ND.dtype)
    product_NK = left_ND @ right_KD.T
    product_NK *= -2.0
    product_NK += (left_ND**2).sum(axis=1)[:, None]
    product_NK += (right_KD**2).sum(axis=1)
    return np.maximum(product_NK, 0.0, out=product_NK)


def nearest_centres(point_ND: Matrix, centre_KD: Matrix) -> IndexArray:
    """Number of each point's nearest centre, shape (N,)."""
    parts = [
        squared_distances(point_ND[start : start + _CHUNK], centre_KD).argmin(axis=1)
        for start in range(0, len(point_ND), _CHUNK)
    ]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.intp)


def k_means(point_ND: Matrix, count: int, seed: int = 0) -> Matrix:
    """At most `count` centres by Lloyd's rounds from a k-means++ start; fewer when points coincide."""
    centre_KD = _spread_start(point_ND, count, np.random.default_rng(seed))
    for _ in range(_ROUNDS):
        label_N = nearest_centres(point_ND, centre_KD)
        size_K = np.bincount(label_N, minlength=len(centre_KD))
        total_KD = np.zeros(centre_KD.shape)
        np.add.at(total_KD, label_N, point_ND)
        used_K = size_K > 0
        moved_KD = (total_KD[used_K] / size_K[used_K, None]).astype(np.float32)
        if moved_KD.shape == centre_KD.shape and np.array_equal(moved_KD, centre_KD):
            break
        centre_KD = moved_KD
    return centre_KD


def _spread_start(point_ND: Matrix, count: int, rng: np.random.Generator) -> Matrix:
    """k-means++: each further centre is drawn with probability proportional to its squared distance so far."""
    picked = [int(rng.integers(len(point_ND)))]
    far_N = squared_distances(point_ND, point_ND[picked])[:, 0].astype(np.float64)
    while len(picked) < min(count, len(point_ND)):
        total_N = far_N.cumsum()
        whole = float(total_N[-1])
        if whole <= _SAME * len(point_ND):
            break
        place = int(np.searchsorted(total_N, rng.uniform() * whole, side="right"))
        picked.append(min(place, len(point_ND) - 1))
        np.minimum(far_N, squared_distances(point_ND, point_ND[picked[-1:]])[:, 0], out=far_N)
    return point_ND[picked].astype(np.float32)


def unlike_folds(vector_ND: Matrix, tasks: Sequence[str | None], most: int = 12) -> IndexArray:
    """Number of each query's fold, shape (N,), such that leaving a fold out leaves a whole kind of query out.

    Kinds are task labels where most queries have one, else a few large clusters of vectors. Kinds are dealt to at
    most `most` folds, largest first, each to the smallest fold so far.
    """
    named = [task for task in tasks if task is not None]
    if len(named) >= _LABELLED * len(tasks) and len(set(named)) > 1:
        number = {task: place for place, task in enumerate(sorted(set(named)))}
        kind_N = np.array([number.get(task or "", len(number)) for task in tasks], dtype=np.intp)
    else:
        kind_N = nearest_centres(vector_ND, k_means(vector_ND, _OWN_SPLIT))
    size_K = np.bincount(kind_N)
    fold_K = np.zeros(len(size_K), dtype=np.intp)
    filled = np.zeros(min(most, len(size_K)))
    for kind in np.argsort(-size_K, kind="stable"):
        fold_K[kind] = filled.argmin()
        filled[fold_K[kind]] += size_K[kind]
    return fold_K[kind_N]
