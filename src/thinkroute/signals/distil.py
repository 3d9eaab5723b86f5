"""Distilling a sentence encoder into a table of token vectors.

Owns the recipe, in four steps, none of which has a learning rate:

1. Every token of the vocabulary is read by the teacher on its own; its vector (the token's own place, less the mean
   over all tokens), on the leading D directions of the teacher's vectors for real texts, is the token's first guess.
2. The guess is scaled by a/(a + p), p the token's smoothed frequency (SIF, Arora et al. 2017).
3. Ridge regression moves the guesses so that the mean over a text's tokens comes as close as possible to the teacher's
   vector of that text: min ‖X V − E‖² + λ ‖V − V₀‖² by conjugate gradients, X the texts' bags of tokens. Tokens that no
   text holds keep their guess.
4. Once more with the rows of X scaled so that every mean has length one, which is how vectors are used.

The first two steps are model2vec's, but for the place and the mean, which are worth more than the rest together
(docs/experiments.md). The regression stands for its training by gradient descent on a large corpus: a few ten
thousand texts are enough for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from thinkroute.signals.base import Matrix
from thinkroute.signals.wordpiece import WordPiece

_SIF: Final = 3e-4
_ZIPF_COUNT: Final = 4e4
_ZIPF_SHIFT: Final = 30.0
"""Frequencies are counts plus this many draws from Zipf's law over the vocabulary, which is sorted by frequency."""
_CHUNK: Final = 2000


class Teacher(Protocol):
    """The encoder to learn from."""

    vocabulary: Sequence[str]

    def of_texts(self, texts: Sequence[str]) -> Matrix:
        """Unit vectors of texts, shape (Q, E)."""
        ...

    def of_tokens(self) -> Matrix:
        """Unit vectors of the vocabulary's tokens, each on its own and at its own place, shape (V, E)."""
        ...


@dataclass(frozen=True)
class Recipe:
    """How to distil."""

    dimension: int = 128
    """D: numbers per token."""
    pull: float = 4.0
    """How many texts the first guess of a token counts for; λ is this times the mean square of X's row weights."""
    steps: int = 8
    """Conjugate gradient steps of each regression."""


def distil(teacher: Teacher, texts: Sequence[str], recipe: Recipe) -> Matrix:
    """Token vectors, shape (V, D)."""
    bags = Bags([WordPiece(teacher.vocabulary).encode(text.encode("utf-8", "replace")) for text in texts])
    taught_QE = teacher.of_texts(texts)[bags.kept]
    directions_ED = leading_directions(taught_QE, recipe.dimension)
    wanted_QD = _unit(taught_QE @ directions_ED)
    alone_VE = teacher.of_tokens()
    guess_VD = ((alone_VE - alone_VE.mean(axis=0)) @ directions_ED) * _sif(bags, len(teacher.vocabulary))[
        :, None
    ]
    guess_VD /= np.linalg.norm(bags.means(guess_VD), axis=1).mean()
    rows_VD = _regress(bags, wanted_QD, guess_VD, recipe)
    bags.rescale(1.0 / np.maximum(np.linalg.norm(bags.means(rows_VD), axis=1), 1e-2))
    return _regress(bags, wanted_QD, guess_VD, recipe)


def leading_directions(vectors_QE: Matrix, count: int) -> Matrix:
    """The directions that hold most of the vectors, shape (E, count), of fixed sign."""
    value_E, turn_EE = np.linalg.eigh((vectors_QE.T @ vectors_QE).astype(np.float64))
    kept_ED = turn_EE[:, np.argsort(value_E)[::-1][:count]]
    largest_D = kept_ED[np.abs(kept_ED).argmax(axis=0), np.arange(kept_ED.shape[1])]
    return (kept_ED * np.sign(largest_D)).astype(np.float32)


class Bags:
    """Texts as bags of tokens: the sparse matrix X, each row summing to one until it is rescaled."""

    def __init__(self, tokens: Sequence[Sequence[int]]) -> None:
        self.kept = np.array([row for row, bag in enumerate(tokens) if bag], dtype=np.intp)
        """Rows of the texts that have a token."""
        bags = [np.array(tokens[int(row)], dtype=np.intp) for row in self.kept]
        size_Q = np.array([len(bag) for bag in bags], dtype=np.intp)
        self._token = np.concatenate(bags)
        self._start_Q = np.concatenate([[0], np.cumsum(size_Q)[:-1]]).astype(np.intp)
        self._weight_Q = (1.0 / size_Q).astype(np.float32)
        order = np.argsort(self._token, kind="stable")
        self._row_by_token = np.repeat(np.arange(len(bags)), size_Q)[order]
        self.used, self._start_U = np.unique(self._token[order], return_index=True)
        """Tokens that occur."""

    def counts(self, vocabulary: int) -> NDArray[np.float64]:
        """How often each token occurs, shape (V,)."""
        return np.bincount(self._token, minlength=vocabulary).astype(np.float64)

    def rescale(self, factor_Q: NDArray[np.float32]) -> None:
        """Multiply the rows of X."""
        self._weight_Q = (self._weight_Q * factor_Q).astype(np.float32)

    def mean_square(self) -> float:
        """Mean square of the rows' weights, the scale on which λ works."""
        return float((self._weight_Q.astype(np.float64) ** 2).mean())

    def means(self, rows_VD: Matrix) -> Matrix:
        """X · rows, shape (Q, D)."""
        mean_QD = np.empty((len(self._start_Q), rows_VD.shape[1]), dtype=np.float32)
        for first in range(0, len(mean_QD), _CHUNK):
            start_C = self._start_Q[first : first + _CHUNK]
            last = self._start_Q[first + _CHUNK] if first + _CHUNK < len(mean_QD) else len(self._token)
            taken_TD = rows_VD.take(self._token[start_C[0] : last], axis=0)
            mean_QD[first : first + _CHUNK] = np.add.reduceat(taken_TD, start_C - start_C[0], axis=0)
        return mean_QD * self._weight_Q[:, None]

    def back(self, residual_QD: Matrix, vocabulary: int) -> Matrix:
        """Xᵀ · residual, shape (V, D)."""
        weighted_QD = residual_QD * self._weight_Q[:, None]
        sum_VD = np.zeros((vocabulary, residual_QD.shape[1]), dtype=np.float32)
        for first in range(0, len(self.used), _CHUNK):
            start_C = self._start_U[first : first + _CHUNK]
            last = self._start_U[first + _CHUNK] if first + _CHUNK < len(self.used) else len(self._token)
            taken_TD = weighted_QD.take(self._row_by_token[start_C[0] : last], axis=0)
            sum_VD[self.used[first : first + _CHUNK]] = np.add.reduceat(
                taken_TD, start_C - start_C[0], axis=0
            )
        return sum_VD


def _sif(bags: Bags, vocabulary: int) -> NDArray[np.float32]:
    zipf_V = 1.0 / (np.arange(vocabulary) + _ZIPF_SHIFT)
    count_V = bags.counts(vocabulary) + _ZIPF_COUNT * zipf_V / zipf_V.sum()
    return (_SIF / (_SIF + count_V / count_V.sum())).astype(np.float32)


def _regress(bags: Bags, wanted_QD: Matrix, guess_VD: Matrix, recipe: Recipe) -> Matrix:
    """Conjugate gradients on the shift from the guess, all D columns at once."""
    pull = np.float32(recipe.pull * bags.mean_square())
    shift_VD = np.zeros_like(guess_VD)
    residual_VD = bags.back(wanted_QD - bags.means(guess_VD), len(guess_VD))
    direction_VD = residual_VD.copy()
    size_D = (residual_VD**2).sum(axis=0)
    for _ in range(recipe.steps):
        image_VD = bags.back(bags.means(direction_VD), len(guess_VD)) + pull * direction_VD
        pace_D = size_D / np.maximum((direction_VD * image_VD).sum(axis=0), 1e-20)
        shift_VD += pace_D * direction_VD
        residual_VD -= pace_D * image_VD
        next_D = (residual_VD**2).sum(axis=0)
        direction_VD = residual_VD + next_D / np.maximum(size_D, 1e-20) * direction_VD
        size_D = next_D
    return guess_VD + shift_VD


def _unit(vectors_QD: Matrix) -> Matrix:
    return vectors_QD / np.maximum(np.linalg.norm(vectors_QD, axis=1, keepdims=True), 1e-12)
