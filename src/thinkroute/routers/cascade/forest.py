"""A forest of cells: the training queries most like a query, for expectations over what they led to.

Each tree cuts the space of a few probabilities where that removes the most squared spread of them, on a random half of the
rows; averaging trees smooths the edges of their cells.
Shape letters: R rows, D numbers per row, N nodes of a tree, T trees, L leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from thinkroute.routers.table import FloatArray

IntArray: TypeAlias = NDArray[np.intp]


@dataclass(frozen=True)
class Tree:
    """Node 0 is the root."""

    number_N: IntArray
    """Which number a node asks about; −1 for a leaf."""
    threshold_N: FloatArray
    """Rows at or below it go left."""
    left_N: IntArray
    """Left child, its right neighbour being the right child; for a leaf, its place among the leaves."""

    @property
    def leaves(self) -> int:
        """How many leaves there are."""
        return int((self.number_N < 0).sum())

    def leaf_of(self, point_RD: FloatArray) -> IntArray:
        """The leaf of every row."""
        node_R = np.zeros(len(point_RD), dtype=np.intp)
        rows_R = np.arange(len(point_RD))
        while (inside_R := self.number_N[node_R] >= 0).any():
            node, row = node_R[inside_R], rows_R[inside_R]
            node_R[inside_R] = self.left_N[node] + (
                point_RD[row, self.number_N[node]] > self.threshold_N[node]
            )
        return self.left_N[node_R]


@dataclass(frozen=True)
class Forest:
    """Trees over the same numbers."""

    trees: tuple[Tree, ...]

    def leaves_of(self, point_RD: FloatArray) -> IntArray:
        """The leaf of every row in every tree, shape (R, T)."""
        return np.stack([tree.leaf_of(point_RD) for tree in self.trees], axis=1)

    def leaf_means(self, leaf_RT: IntArray, value_R: FloatArray) -> FloatArray:
        """Mean of a value over the rows of each leaf, shape (T, L) and the value's further axes; 0 past a tree's last."""
        most = max(tree.leaves for tree in self.trees)
        means = np.zeros((len(self.trees), most, *value_R.shape[1:]))
        for tree, leaf_R in enumerate(leaf_RT.T):
            np.add.at(means[tree], leaf_R, value_R)
            count_L = np.maximum(np.bincount(leaf_R, minlength=most), 1)
            means[tree] /= count_L.reshape(-1, *[1] * (value_R.ndim - 1))
        return means


def fit_forest(point_RD: FloatArray, trees: int, least_rows: int, seed: int) -> Forest:
    """A forest over rows; one tree is fitted on all of them, several on a random half each.

    Args:
        point_RD: At least one row.
        trees: How many.
        least_rows: Rows that every leaf holds of those it was fitted on, unless there are fewer in all.
        seed: Of the halves.
    """
    rng = np.random.default_rng(seed)
    half = max(len(point_RD) // 2, min(len(point_RD), 2 * least_rows))
    samples = (
        [point_RD] if trees == 1 else [point_RD[rng.permutation(len(point_RD))[:half]] for _ in range(trees)]
    )
    return Forest(tuple(_grow(sample_RD, least_rows) for sample_RD in samples))


def _grow(point_RD: FloatArray, least_rows: int) -> Tree:
    number, threshold, left = [-1], [0.0], [0]
    waiting: list[tuple[int, FloatArray]] = [(0, point_RD)]
    leaves = 0
    while waiting:
        node, rows_RD = waiting.pop()
        cut = _cut(rows_RD, least_rows)
        if cut is None:
            left[node] = leaves
            leaves += 1
            continue
        number[node], threshold[node], left[node] = *cut, len(number)
        right_R = rows_RD[:, cut[0]] > cut[1]
        for part_RD in (rows_RD[~right_R], rows_RD[right_R]):
            waiting.append((len(number), part_RD))
            number.append(-1)
            threshold.append(0.0)
            left.append(0)
    return Tree(np.array(number, dtype=np.intp), np.array(threshold), np.array(left, dtype=np.intp))


def _cut(point_RD: FloatArray, least_rows: int) -> tuple[int, float] | None:
    """Column and threshold that remove the most squared spread; None where both sides cannot keep enough rows."""
    rows = len(point_RD)
    if rows < 2 * least_rows:
        return None
    ordered_RD = np.sort(point_RD, axis=0)
    sizes_P = np.arange(least_rows, rows - least_rows + 1)
    below_PD = np.cumsum(ordered_RD, axis=0)[sizes_P - 1]
    total_D = ordered_RD.sum(axis=0)
    gain_PD = (
        below_PD**2 / sizes_P[:, None]
        + (total_D - below_PD) ** 2 / (rows - sizes_P)[:, None]
        - total_D**2 / rows
    )
    # Equal numbers stay together: a threshold lies between two different ones.
    lower_PD, upper_PD = ordered_RD[sizes_P - 1], ordered_RD[sizes_P]
    gain_PD = np.where(upper_PD > lower_PD, gain_PD, 0.0)
    place, column = np.unravel_index(int(gain_PD.argmax()), gain_PD.shape)
    if gain_PD[place, column] <= 1e-9:
        return None
    return int(column), float((lower_PD[place, column] + upper_PD[place, column]) / 2)
