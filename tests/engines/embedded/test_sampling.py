"""Choosing tokens: greedy, tempered, truncated and reproducible."""

from __future__ import annotations

import numpy as np
import pytest

from thinkroute.engines.embedded.sampling import Choice, Floats, RowSampler, Sampling, choose

LOGITS: Floats = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], dtype=np.float32)) + 3


def chosen(*samplers: RowSampler) -> list[Choice]:
    """One token for each sampler, all from the same logits."""
    rows = dict(enumerate(samplers))
    ids_B, choices = choose(np.repeat(LOGITS, len(rows), axis=0), rows)
    assert [choice.token_id for choice in choices.values()] == ids_B.tolist()
    return list(choices.values())


def sample(sampling: Sampling, count: int = 4000) -> np.ndarray:
    row = RowSampler(sampling)
    ids = [chosen(row)[0].token_id for _ in range(count)]
    return np.bincount(ids, minlength=4) / count


def test_without_samplers_every_row_takes_its_most_likely_token() -> None:
    ids_B, choices = choose(np.concatenate([LOGITS, LOGITS[:, ::-1]]), {})
    assert ids_B.tolist() == [0, 3]
    assert choices == {}


def test_only_the_rows_that_sample_leave_the_most_likely_token() -> None:
    sampler = RowSampler(Sampling(temperature=2.0, seed=0))
    seen = {tuple(choose(np.repeat(LOGITS, 3, axis=0), {1: sampler})[0].tolist()) for _ in range(100)}
    assert seen == {(0, token_id, 0) for token_id in range(4)}


def test_frequencies_follow_the_distribution() -> None:
    assert sample(Sampling(temperature=1.0, seed=1)) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)


def test_a_temperature_sharpens_the_distribution() -> None:
    squared = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
    assert sample(Sampling(temperature=0.5, seed=2)) == pytest.approx(squared / squared.sum(), abs=0.03)


def test_top_k_keeps_the_k_most_likely() -> None:
    assert sample(Sampling(temperature=1.0, top_k=2, seed=3)) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)


def test_top_p_keeps_the_smallest_set_that_holds_p() -> None:
    assert sample(Sampling(temperature=1.0, top_p=0.79, seed=4)) == pytest.approx(
        [0.625, 0.375, 0, 0], abs=0.03
    )
    assert sample(Sampling(temperature=1.0, top_p=0.4, seed=5)) == pytest.approx([1, 0, 0, 0])


def test_the_same_seed_gives_the_same_tokens_whoever_shares_the_batch() -> None:
    alone, crowded = (
        RowSampler(Sampling(temperature=1.0, seed=7)),
        RowSampler(Sampling(temperature=1.0, seed=7)),
    )
    others = [RowSampler(Sampling(temperature=1.0, seed=seed)) for seed in (1, 2)]
    for _ in range(50):
        assert chosen(alone)[0] == chosen(others[0], crowded, others[1])[1]


def test_logprobs_are_of_the_distribution_sampled_from() -> None:
    greedy = chosen(RowSampler(Sampling(logprobs=True, top_logprobs=2)))[0]
    assert greedy.logprob == pytest.approx(np.log(0.5), abs=1e-6)
    assert [token for token, _ in greedy.top] == [0, 1]
    cut = chosen(RowSampler(Sampling(temperature=1.0, top_k=1, logprobs=True, top_logprobs=3)))[0]
    assert (cut.token_id, cut.logprob, len(cut.top)) == (0, pytest.approx(0.0), 1)
