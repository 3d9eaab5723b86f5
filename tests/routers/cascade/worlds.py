"""A small world of a weak, a useless and a strong arm, where the weak arm's answer tells how sure it was."""

from __future__ import annotations

import numpy as np

from thinkroute.routers.cascade import FEATURES, Answers
from thinkroute.routers.table import OutcomeTable

STAGES = ("weak@off", "useless@off", "strong@on")


def world(queries: int = 400, seed: int = 0) -> Answers:
    """Half of the questions are easy, and nothing in their text says so; only the weak arm's log-probabilities do.

    The useless arm is always wrong, costs, and its answer says nothing.
    """
    rng = np.random.default_rng(seed)
    easy_Q = rng.random(queries) < 0.5
    quality_QA = np.stack([easy_Q, np.zeros(queries), np.ones(queries)], axis=1).astype(np.float64)
    feature_QAF = np.full((queries, 3, len(FEATURES)), np.nan)
    feature_QAF[:, 0, FEATURES.index("answer_least_logprob")] = np.where(
        easy_Q, rng.normal(-0.1, 0.1, queries), rng.normal(-2.0, 0.5, queries)
    )
    texts = tuple(f"what is {a} and {b}" for a, b in rng.integers(0, 1000, (queries, 2)))
    table = OutcomeTable(
        query_ids=tuple(str(row) for row in range(queries)),
        texts=texts,
        arms=STAGES,
        measured={
            "quality": quality_QA,
            "answer_tokens": np.tile([10.0, 10.0, 100.0], (queries, 1)),
            "cost_usd": np.tile([0.001, 0.002, 0.01], (queries, 1)),
        },
        tasks=tuple(f"{'one' if row % 2 else 'two'}-1" for row in range(queries)),
    )
    return Answers(table, feature_QAF)
