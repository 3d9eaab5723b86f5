"""The law of thinking: monotone, honest about nothing, and near the published numbers it was drawn from."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from thinkroute.signals.thinking import (
    TYPICAL_DIFFICULTY,
    UNKNOWN_NEED,
    Need,
    base_quality,
    expect,
    expected_spent,
)
from thinkroute.types import Effort

AVERAGE = 1 - TYPICAL_DIFFICULTY
shares = st.floats(0, 1)
needs = st.builds(Need, shares, shares, shares)
bases = st.floats(0.05, 0.95)
budgets = st.integers(1, 60_000)


def budget(tokens: int) -> Effort:
    return Effort("on", tokens)


@given(needs, bases, budgets, budgets)
def test_a_larger_budget_never_lowers_quality_nor_tokens(
    need: Need, base: float, one: int, other: int
) -> None:
    small, large = (expect(need, budget(tokens), base) for tokens in sorted((one, other)))
    assert small.quality <= large.quality
    assert small.reasoning_tokens <= large.reasoning_tokens


@given(needs, bases, budgets)
def test_a_budget_lies_between_off_and_unlimited(need: Need, base: float, tokens: int) -> None:
    off, some, full = (expect(need, effort, base) for effort in (Effort("off"), budget(tokens), Effort("on")))
    assert off.quality <= some.quality <= full.quality
    assert off.reasoning_tokens == 0 <= some.reasoning_tokens <= min(tokens, full.reasoning_tokens) + 1e-6


@given(shares, shares, shares, bases)
def test_harder_texts_are_answered_worse_and_need_more_thinking(
    a: float, b: float, reasoning: float, base: float
) -> None:
    easy, hard = (expect(Need(d, reasoning), Effort("on"), base) for d in sorted((a, b)))
    assert easy.answer_tokens <= hard.answer_tokens
    assert (
        expect(Need(min(a, b), reasoning), Effort("off"), base).quality
        >= expect(Need(max(a, b), reasoning), Effort("off"), base).quality
    )


@given(needs, bases, bases)
def test_a_better_arm_stays_better(need: Need, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert expect(need, Effort("low"), low).quality <= expect(need, Effort("low"), high).quality


@given(needs, bases)
def test_levels_stand_in_the_order_of_the_ladder(need: Need, base: float) -> None:
    ladder = [
        expect(need, Effort.parse(level), base)
        for level in ("off", "minimal", "low", "medium", "high", "xhigh", "max", "on")
    ]
    assert [found.quality for found in ladder] == sorted(found.quality for found in ladder)


@given(st.floats(0.05, 0.95), st.sampled_from(["off", "low", "high", "on", "default", "budget=700"]))
def test_a_declared_quality_is_what_a_typical_text_gets(declared: float, effort: str) -> None:
    parsed = Effort.parse(effort)
    assert expect(UNKNOWN_NEED, parsed, base_quality(declared, parsed)).quality == pytest.approx(declared)


@given(st.floats(1, 1e5), st.floats(1, 1e6))
def test_what_is_spent_is_under_the_budget_and_the_wish(wanted: float, limit: float) -> None:
    assert 0 <= expected_spent(wanted, limit) <= min(wanted, limit) * (1 + 1e-9)


def test_half_of_log_normal_lengths_are_cut_at_their_median() -> None:
    # E[min(L, m)] at the median m of L: mean · Φ(−σ) + m / 2, with Φ(−0.7) = 0.2420.
    wanted = 1000.0
    median = wanted * 2.718281828 ** (-(0.7**2) / 2)
    assert expected_spent(wanted, median) == pytest.approx(wanted * 0.24196 + median / 2, rel=1e-3)


@given(needs)
def test_thinking_pays_more_where_reasoning_is_needed(need: Need) -> None:
    assume(need.reasoning < 0.9)
    more = Need(need.difficulty, 1.0, need.open_ended)
    lift = [expect(n, Effort("on"), AVERAGE).quality for n in (need, more)]
    assert lift[0] <= lift[1] + 1e-9


@pytest.mark.parametrize(
    ("what", "without", "with_thinking", "need"),
    [
        # AdaptThink (arXiv 2505.13417), R1-Distill-Qwen 7B and 1.5B; difficulty is what the arm misses without thinking.
        ("GSM8K, 7B", 0.851, 0.879, Need(0.149, 1.0)),
        ("MATH-500, 7B", 0.806, 0.902, Need(0.194, 1.0)),
        ("AIME 2024, 7B", 0.242, 0.535, Need(0.758, 1.0)),
        ("GSM8K, 1.5B", 0.698, 0.790, Need(0.302, 1.0)),
        ("MATH-500, 1.5B", 0.672, 0.806, Need(0.328, 1.0)),
        ("MMLU, 7B", 0.512, 0.634, Need(0.488)),
        # Qwen3-32B (arXiv 2505.09388), table 22.
        ("LiveCodeBench", 0.313, 0.657, Need(0.687, 1.0)),
        ("GPQA-Diamond", 0.546, 0.684, Need(0.454)),
        ("MMLU-Redux", 0.857, 0.909, Need(0.143)),
        ("IFEval", 0.832, 0.850, Need(0.168, 0.0, 1.0)),
        ("Arena-Hard", 0.928, 0.938, Need(0.072, 0.0, 1.0)),
    ],
)
def test_the_law_is_near_published_accuracies(
    what: str, without: float, with_thinking: float, need: Need
) -> None:
    off, full = (expect(need, Effort.parse(level), AVERAGE) for level in ("off", "on"))
    assert off.quality == pytest.approx(without, abs=1e-6), what
    assert full.quality == pytest.approx(with_thinking, abs=0.04), what


def test_thinking_multiplies_what_is_generated_as_published_for_every_level_of_math() -> None:
    for difficulty in (0.1, 0.3, 0.5, 0.7, 0.9):
        off, full = (expect(Need(difficulty, 1.0), Effort.parse(level), AVERAGE) for level in ("off", "on"))
        ratio = (full.reasoning_tokens + full.answer_tokens) / off.answer_tokens
        assert 5.1 <= ratio <= 6.9
