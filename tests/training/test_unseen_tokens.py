"""Tokens that a member never saw share one embedding; training that needs them tells them apart first."""

from __future__ import annotations

import numpy as np

from thinkroute.engines.embedded.vocabulary import Vocabulary
from thinkroute.fleet import shipped
from thinkroute.training.learner import FleetLearner

EMBEDDING = "model.embed_tokens.weight"


def flag_ids() -> list[int]:
    vocabulary = Vocabulary(shipped.directory("base") / "tokenizer.json")
    return [token for flag in (" /think", " /no_think") for token in vocabulary.encode(flag)]


def cosine(table: np.ndarray, first: int, second: int) -> float:
    a, b = table[first], table[second]
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_unseen_flags_are_one_vector_until_they_are_introduced() -> None:
    first, second = flag_ids()
    learner = FleetLearner("base", shipped.directory("base"))
    before = learner.weights()[EMBEDDING].copy()
    assert cosine(before, first, second) > 0.999
    learner.introduce([first, second], seed=0)
    after = learner.weights()[EMBEDDING]
    assert cosine(after, first, second) < 0.95
    others = [token for token in range(len(before)) if token not in (first, second)]
    assert np.array_equal(before[others], after[others])


def test_the_same_seed_introduces_alike() -> None:
    tables: list[np.ndarray] = []
    for seed in (1, 1, 2):
        learner = FleetLearner("base", shipped.directory("base"))
        learner.introduce(flag_ids(), seed)
        tables.append(learner.weights()[EMBEDDING].copy())
    assert np.array_equal(tables[0], tables[1])
    assert not np.array_equal(tables[0], tables[2])
