"""Distilling: a world whose teacher is itself a weighted mean of token vectors is learned back."""

from collections.abc import Sequence

import numpy as np
import pytest

from thinkroute.signals.base import Matrix
from thinkroute.signals.distil import Bags, Recipe, distil, leading_directions
from thinkroute.signals.static_table import StaticTable, pack, unit, unpack

WORDS = 60
DIMENSION = 12


class PlantedTeacher:
    """Its vector of a text is the mean of hidden token vectors; on single tokens it errs."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.vocabulary: Sequence[str] = ["[UNK]", *(f"w{number}" for number in range(WORDS))]
        self.hidden_VE = rng.standard_normal((WORDS + 1, DIMENSION)).astype(np.float32)
        self.hidden_VE *= rng.uniform(0.2, 2.0, (WORDS + 1, 1)).astype(np.float32)
        self._noise_VE = rng.standard_normal(self.hidden_VE.shape).astype(np.float32)

    def of_texts(self, texts: Sequence[str]) -> Matrix:
        rows = [[self.vocabulary.index(word) for word in text.split()] for text in texts]
        return np.stack([unit(self.hidden_VE[row].mean(axis=0)) for row in rows])

    def of_tokens(self) -> Matrix:
        noisy_VE = self.hidden_VE + self._noise_VE
        return noisy_VE / np.linalg.norm(noisy_VE, axis=1, keepdims=True)


def texts(count: int, seed: int, words: int = WORDS) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{n}" for n in rng.integers(0, words, rng.integers(4, 12))) for _ in range(count)]


def closeness(teacher: PlantedTeacher, rows_VD: Matrix, asked: Sequence[str]) -> float:
    """Correlation of cosines with the teacher's: free of the turn that distilling puts in."""
    table = unpack(pack(list(teacher.vocabulary), rows_VD))
    found = np.stack([table.topic(table.tokens(text.encode())) for text in asked])
    taught = teacher.of_texts(asked)
    pairs = np.triu_indices(len(asked), 1)
    return float(np.corrcoef((found @ found.T)[pairs], (taught @ taught.T)[pairs])[0, 1])


def test_the_teacher_is_learned_back_on_texts_not_seen() -> None:
    teacher = PlantedTeacher()
    rows_VD = distil(teacher, texts(1500, 1), Recipe(DIMENSION, pull=1.0, steps=30))
    assert closeness(teacher, rows_VD, texts(200, 2)) > 0.97


def test_texts_teach_what_single_tokens_cannot() -> None:
    teacher = PlantedTeacher()
    guess, learned = (distil(teacher, texts(1500, 1), Recipe(DIMENSION, pull=pull)) for pull in (1e9, 1.0))
    asked = texts(200, 2)
    assert closeness(teacher, learned, asked) > closeness(teacher, guess, asked) + 0.1


def test_a_token_that_no_text_holds_keeps_its_first_guess() -> None:
    teacher = PlantedTeacher()
    rows_VD = distil(teacher, texts(400, 1, words=WORDS - 5), Recipe(DIMENSION))
    alone_VE = teacher.of_tokens()
    directions = leading_directions(teacher.of_texts(texts(400, 1, words=WORDS - 5)), DIMENSION)
    guess_VD = (alone_VE - alone_VE.mean(axis=0)) @ directions
    for unseen in range(WORDS - 4, WORDS + 1):
        assert unit(rows_VD[unseen].copy()) @ unit(guess_VD[unseen].copy()) == pytest.approx(1.0, abs=1e-4)


def test_distilling_again_gives_the_same_file() -> None:
    first, second = (
        pack(list(PlantedTeacher().vocabulary), distil(PlantedTeacher(), texts(200, 3), Recipe(8)))
        for _ in range(2)
    )
    assert unpack(first).digest == unpack(second).digest


def test_bags_multiply_as_the_matrix_they_stand_for() -> None:
    bags = Bags([[2, 2, 0], [], [1]])
    rows = np.array([[1.0], [10.0], [100.0]], dtype=np.float32)
    assert bags.kept.tolist() == [0, 2]
    np.testing.assert_allclose(bags.means(rows), [[(100 + 100 + 1) / 3], [10.0]], rtol=1e-6)
    np.testing.assert_allclose(
        bags.back(np.array([[3.0], [5.0]], dtype=np.float32), 4), [[1], [5], [2], [0]], rtol=1e-6
    )
    bags.rescale(np.array([2.0, 1.0], dtype=np.float32))
    np.testing.assert_allclose(bags.means(rows), [[2 * (100 + 100 + 1) / 3], [10.0]], rtol=1e-6)


def test_leading_directions_hold_the_most_and_have_a_fixed_sign() -> None:
    rng = np.random.default_rng(4)
    vectors = (rng.standard_normal((500, 3)) * [3.0, 1.0, 0.1]).astype(np.float32)
    directions = leading_directions(vectors, 2)
    assert np.abs(directions[0, 0]) > 0.99
    assert np.abs(directions[1, 1]) > 0.99
    np.testing.assert_allclose(directions, leading_directions(-vectors, 2), atol=1e-5)


def test_a_packed_table_keeps_its_rows_within_the_rounding_of_each() -> None:
    rng = np.random.default_rng(5)
    rows = (rng.standard_normal((4, 16)) * [[1e-3], [1.0], [50.0], [0.0]]).astype(np.float32)
    table: StaticTable = unpack(pack(["[UNK]", "a", "b", "c"], rows))
    assert (np.abs(table.rows_VD - rows) <= np.abs(rows).max(axis=1, keepdims=True) / 127 / 2 + 1e-9).all()
