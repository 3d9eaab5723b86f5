"""Whether tested questions stand, in other words or other frames, among those a router learned from.

Owns the search for equal and nearly equal texts, within a table or across tables. Two texts are *near duplicates* when
the Jaccard similarity of their sets of word n-grams is high, and one is *contained* in the other when nearly all of
the smaller set is in the larger: the same question inside another prompt. N-grams that stand in many texts are the
frame of the prompt ("answer with one letter …") and do not count. Equal texts may never straddle a split; near ones
are counted and reported, because templates make honest questions look alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import DataError
from thinkroute.evaluation.metrics import IntArray
from thinkroute.evaluation.scores import Leakage, NearPair, SharedQuestions
from thinkroute.evaluation.splits import Fold, normalise
from thinkroute.routers.table import FloatArray, OutcomeTable

NEAR: Final = 0.8
"""Jaccard similarity from which two texts are near duplicates."""
CONTAINED: Final = 0.9
"""Share of the smaller text's n-grams from which it counts as contained in the larger."""
_GRAM: Final = 5
_FRAME: Final = 20
"""An n-gram in more texts than this is part of a frame."""
_LEAST_GRAMS: Final = 5
"""Containment says nothing of texts with fewer n-grams of their own."""
_EXAMPLES: Final = 3
_WORD: Final = re.compile(r"[\u3040-\u9fff]|[^\W_\u3040-\u9fff]+")
"""Words, and single characters of scripts that put no space between words."""
_STEP: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX: Final = np.uint64(0xBF58476D1CE4E5B9)
_BYTES_PER_WORD: Final = 5
_MOST_GRAMS: Final = 20_000_000
"""Of huge tables only so many n-grams are compared, or they would not fit into memory."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of texts that are alike, each once, `left` < `right`."""

    left_P: IntArray
    right_P: IntArray
    jaccard_P: FloatArray
    contained_P: FloatArray
    """Share of the smaller set of n-grams that the larger has too; 0 for texts with few n-grams."""

    def where(self, keep_P: NDArray[np.bool_]) -> Pairs:
        """The pairs where a mask is true."""
        return Pairs(
            self.left_P[keep_P], self.right_P[keep_P], self.jaccard_P[keep_P], self.contained_P[keep_P]
        )


def alike(texts: Sequence[str], near: float = NEAR, contained: float = CONTAINED) -> Pairs:
    """All pairs of texts that are near duplicates, or one contained in the other. Equal texts are among them."""
    gram_G, text_G = _rare_grams(texts)
    size_T = np.bincount(text_G, minlength=len(texts))
    left_P, right_P, shared_P = _shared(gram_G, text_G, len(texts))
    smaller_P = np.minimum(size_T[left_P], size_T[right_P])
    jaccard_P = shared_P / np.maximum(size_T[left_P] + size_T[right_P] - shared_P, 1)
    contained_P = np.where(smaller_P >= _LEAST_GRAMS, shared_P / np.maximum(smaller_P, 1), 0.0)
    found = Pairs(left_P, right_P, jaccard_P, contained_P)
    return found.where((jaccard_P >= near) | (contained_P >= contained))


def known_elsewhere(texts: Sequence[str], others: Sequence[str]) -> NDArray[np.bool_]:
    """Which texts are equal to, nearly equal to, contained in or contain one of the others, shape (len(texts),).

    What must leave a training set before it is judged on `others`.
    """
    normal = {normalise(text) for text in others}
    known_T = np.array([normalise(text) in normal for text in texts], dtype=np.bool_)
    pairs = alike([*texts, *others])
    straddles = (pairs.left_P < len(texts)) & (pairs.right_P >= len(texts))
    known_T[pairs.left_P[straddles]] = True
    return known_T


def shared_questions(texts: Mapping[str, Sequence[str]]) -> list[SharedQuestions]:
    """For every ordered pair of tables, how many questions of the one the other has too; pairs without any left out.

    Args:
        texts: Texts of every table, by its name.
    """
    names = list(texts)
    every = [text for name in names for text in texts[name]]
    owner_T = np.repeat(np.arange(len(names)), [len(texts[name]) for name in names])
    normal = {name: {normalise(text) for text in texts[name]} for name in names}
    pairs = alike(every)
    both = [(pairs.left_P, pairs.right_P), (pairs.right_P, pairs.left_P)]
    found: list[SharedQuestions] = []
    for place, name in enumerate(names):
        first = int(np.flatnonzero(owner_T == place)[0]) if texts[name] else 0
        for other_place, other in enumerate(names):
            if other == name:
                continue
            equal_T = np.array([normalise(text) in normal[other] for text in texts[name]], dtype=np.bool_)
            alike_T = equal_T.copy()
            for mine_P, theirs_P in both:
                here = (owner_T[mine_P] == place) & (owner_T[theirs_P] == other_place)
                alike_T[mine_P[here] - first] = True
            if alike_T.any():
                found.append(
                    SharedQuestions(name, other, int(equal_T.sum()), int(alike_T.sum()), len(texts[name]))
                )
    return found


def leaked_rows(folds: Sequence[Fold], pairs: Pairs, rows: int) -> list[NDArray[np.bool_]]:
    """Per fold, which of its tested rows have a near duplicate or a contained or containing text in training."""
    partners: list[NDArray[np.bool_]] = []
    for fold in folds:
        trained_Q = np.zeros(rows, dtype=np.bool_)
        trained_Q[fold.train] = True
        leaked_Q = np.zeros(rows, dtype=np.bool_)
        leaked_Q[pairs.left_P[trained_Q[pairs.right_P]]] = True
        leaked_Q[pairs.right_P[trained_Q[pairs.left_P]]] = True
        partners.append(leaked_Q[fold.test])
    return partners


def without_leaks(fold: Fold, pairs: Pairs, rows: int) -> Fold:
    """The fold without the learned rows that resemble a tested one.

    Raises:
        DataError: nothing would be left to learn from.
    """
    tested_Q = np.zeros(rows, dtype=np.bool_)
    tested_Q[fold.test] = True
    leaking_Q = np.zeros(rows, dtype=np.bool_)
    leaking_Q[pairs.left_P[tested_Q[pairs.right_P]]] = True
    leaking_Q[pairs.right_P[tested_Q[pairs.left_P]]] = True
    train = fold.train[~leaking_Q[fold.train]]
    if not train.size:
        raise DataError(f"fold {fold.name!r}: every learned question resembles a tested one")
    return replace(fold, train=train)


def audit(table: OutcomeTable, folds: Sequence[Fold], pairs: Pairs, *, dropped: bool = False) -> Leakage:
    """Count what stands on both sides of the folds. `pairs` is `alike` of the table's texts.

    Raises:
        DataError: an equal text stands on both sides. No split of ours does that; a table or a change that does makes
            every number worthless.
    """
    normal, rows = [normalise(text) for text in table.texts], len(table)
    for fold in folds:
        both = {normal[int(row)] for row in fold.train} & {normal[int(row)] for row in fold.test}
        if both:
            raise DataError(
                f"leakage: {len(both)} question(s) are both learned and tested in fold {fold.name!r}, "
                f"e.g. {min(both)[:80]!r}"
            )
    near, inside = pairs.where(pairs.jaccard_P >= NEAR), pairs.where(pairs.contained_P >= CONTAINED)
    return Leakage(
        near_share=_share(leaked_rows(folds, near, rows)),
        contained_share=_share(leaked_rows(folds, inside, rows)),
        near_from=NEAR,
        contained_from=CONTAINED,
        dropped=dropped,
        examples=_examples(table, folds, pairs),
    )


def _share(leaked: Sequence[NDArray[np.bool_]]) -> float:
    return float(np.concatenate(leaked).mean())


def _examples(table: OutcomeTable, folds: Sequence[Fold], pairs: Pairs) -> list[NearPair]:
    """A few pairs that straddle the first fold, the most alike first; by id, for texts may not be ours to print."""
    side_Q = np.zeros(len(table), dtype=np.int8)
    side_Q[folds[0].train], side_Q[folds[0].test] = 1, 2
    apart = pairs.where(side_Q[pairs.left_P] * side_Q[pairs.right_P] == 2)
    order = np.argsort(-apart.jaccard_P, kind="stable")[:_EXAMPLES]
    found: list[NearPair] = []
    for place in order:
        left, right = int(apart.left_P[place]), int(apart.right_P[place])
        trained, tested = (left, right) if side_Q[left] == 1 else (right, left)
        found.append(
            NearPair(table.query_ids[trained], table.query_ids[tested], float(apart.jaccard_P[place]))
        )
    return found


def _rare_grams(texts: Sequence[str]) -> tuple[NDArray[np.uint64], IntArray]:
    """Every (n-gram, text) once, without n-grams that make up a frame; sorted by n-gram."""
    thinning = 1 + sum(map(len, texts)) // (_BYTES_PER_WORD * _MOST_GRAMS)
    grams = [np.unique(_thinned(_grams(text), thinning)) for text in texts]
    gram_G = np.concatenate(grams) if grams else np.empty(0, dtype=np.uint64)
    text_G = np.repeat(np.arange(len(texts), dtype=np.intp), [len(gram) for gram in grams])
    order = np.argsort(gram_G, kind="stable")
    gram_G, text_G = gram_G[order], text_G[order]
    _, of_G, count_U = np.unique(gram_G, return_inverse=True, return_counts=True)
    rare_G = count_U[of_G] <= _FRAME
    return gram_G[rare_G], text_G[rare_G]


def _thinned(gram_G: NDArray[np.uint64], thinning: int) -> NDArray[np.uint64]:
    """About one n-gram in `thinning`, chosen by its hash: the same ones in every text, so similarities stay."""
    if thinning == 1:
        return gram_G
    return gram_G[(gram_G * _MIX >> np.uint64(40)) % np.uint64(thinning) == 0]


def _grams(text: str) -> NDArray[np.uint64]:
    """Hashes of all runs of n words; of the whole text where it is shorter."""
    words = _WORD.findall(normalise(text))
    word_W = np.array([crc32(word.encode("utf-8", "replace")) for word in words], dtype=np.uint64)
    size = min(_GRAM, len(words))
    if size == 0:
        return np.empty(0, dtype=np.uint64)
    gram_G = np.zeros(len(words) - size + 1, dtype=np.uint64)
    for place in range(size):
        gram_G = gram_G * _STEP + word_W[place : place + len(gram_G)]
    return gram_G


def _shared(gram_G: NDArray[np.uint64], text_G: IntArray, texts: int) -> tuple[IntArray, IntArray, IntArray]:
    """Pairs of texts with a common n-gram and how many they share."""
    starts = np.flatnonzero(np.concatenate([[True], gram_G[1:] != gram_G[:-1]])) if gram_G.size else gram_G
    size_U = np.diff(np.concatenate([starts, [len(gram_G)]])).astype(np.intp)
    keys: list[IntArray] = []
    for size in range(2, _FRAME + 1):
        # All n-grams that stand in so many texts at once: rows are n-grams, columns their texts in ascending order.
        member_US = text_G[starts[size_U == size].astype(np.intp)[:, None] + np.arange(size)]
        left, right = np.triu_indices(size, 1)
        keys.append((member_US[:, left] * texts + member_US[:, right]).reshape(-1))
    if not keys:
        keys = [np.empty(0, dtype=np.intp)]
    key_P, shared_P = np.unique(np.concatenate(keys), return_counts=True)
    return key_P // texts, key_P % texts, shared_P.astype(np.intp)
