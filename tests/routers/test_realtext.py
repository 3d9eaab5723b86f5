"""The prior for real text: facts are read from names, hard questions go up and easy ones down, and caps hold."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkroute.config import parse_config, resolve
from thinkroute.errors import DataError
from thinkroute.gateway.assemble import router_of
from thinkroute.policy import Constraints, choose
from thinkroute.routers.realtext import ArmFacts, PriorLaw, RealTextPrior, shipped_law
from thinkroute.routers.realtext.facts import size_b
from thinkroute.routers.realtext.fitting import Answers, abilities, line, opening
from thinkroute.routers.realtext.router import read_law
from thinkroute.types import Arm, ComputePrices, Decision, Effort, Price, Query

EASY = (
    "What is 7 + 5?",
    "Tom has 3 apples and buys 4 more. How many apples does he have?",
    "What is the capital of France?",
    "Write a Python function that adds two numbers.",
)
HARD = (
    (
        "Let $a_n$ be a sequence of positive integers such that $a_{n+1}$ divides the sum of the squares of all earlier "
        "terms. Find the number of possible values of $a_{100}$ modulo $1000$."
    ),
    (
        "Find the number of ordered pairs $(m, n)$ of positive integers with $\\gcd(m, n) = 1$ such that the polynomial "
        "$x^3 - mx + n$ has three integer roots and $m < 2024$."
    ),
    (
        "Let $ABC$ be a triangle with incenter $I$. The circle through $B$, $I$ and $C$ meets $AB$ again at $D$. Compute "
        "the sum of all possible integer values of $AD \\cdot AB$ given that $\\tan A$ is rational and the perimeter is 2024."
    ),
)
PRICES = {"cheap": Price(0.05, 0.2), "mid": Price(0.4, 1.6), "large": Price(3.0, 12.0)}
ARMS = tuple(Arm("direct", (name,)) for name in PRICES)
IDS = tuple(arm.id for arm in ARMS)
texts = st.one_of(st.text(max_size=300), st.sampled_from(EASY + HARD))


def prior(law: PriorLaw | None = None) -> RealTextPrior:
    """Three arms nobody has measured, known by price alone."""
    facts = {
        arm.id: ArmFacts(
            arm.effort, arm.models[0], output_usd_per_mtok=PRICES[arm.models[0]].output_usd_per_mtok
        )
        for arm in ARMS
    }
    return RealTextPrior(facts, law)


def decide(text: str, value_usd: float, constraints: Constraints | None = None) -> Decision | None:
    query = Query(text, prompt_tokens=len(text) // 4)
    router = prior()
    dial = ComputePrices(value_usd)
    return choose(ARMS, router.predict(query, IDS), dial, PRICES, constraints, router=router.version)


def rank(text: str, value_usd: float) -> int:
    decision = decide(text, value_usd)
    assert decision is not None
    return [arm.id for arm in ARMS].index(decision.arm.id)


@pytest.mark.parametrize("value_usd", [0.01, 0.1, 0.2])
def test_hard_questions_go_up_and_easy_ones_go_down(value_usd: float) -> None:
    easy = [rank(text, value_usd) for text in EASY]
    hard = [rank(text, value_usd) for text in HARD]
    assert max(easy) <= min(hard), (easy, hard)


def test_some_value_tells_every_easy_question_from_every_hard_one() -> None:
    told = [
        value
        for value in (0.03, 0.1, 0.2)
        if max(rank(text, value) for text in EASY) < min(rank(text, value) for text in HARD)
    ]
    assert told


def test_a_dearer_wish_never_chooses_a_cheaper_arm() -> None:
    for text in EASY + HARD:
        ranks = [rank(text, value) for value in (1e-4, 1e-2, 1e-1, 1.0, 10.0)]
        assert ranks == sorted(ranks)
        assert ranks[-1] == 2


@given(texts, st.floats(1e-5, 0.05))
def test_caps_hold_however_hard_the_question(text: str, cap_usd: float) -> None:
    decision = decide(text, 10.0, Constraints({}, usd_per_request=cap_usd))
    if decision is not None:
        chosen = next(score for score in decision.scores if score.arm_id == decision.arm.id)
        assert chosen.cost_usd is not None
        assert chosen.cost_usd <= cap_usd


def test_every_decision_says_that_it_rests_on_a_prior() -> None:
    decision = decide(EASY[0], 0.01)
    assert decision is not None
    assert "prior" in decision.reason_codes
    assert decision.router.startswith("prior:")
    assert "prior" in shipped_law().what.lower()


@given(texts)
def test_predictions_are_probabilities_and_counts_marked_as_a_prior(text: str) -> None:
    for found in prior().predict(Query(text, prompt_tokens=9), IDS).values():
        assert found.basis == "prior"
        assert 0 < found.quality.mean < 1
        assert 0 < found.quality.std <= 0.5
        assert found.answer_tokens is not None
        assert found.answer_tokens.mean > 0


@pytest.mark.parametrize("text", ["", "🙂🙂🙂", "{}[]()\n" * 2000])
def test_a_text_unlike_all_others_is_treated_as_a_typical_one(text: str) -> None:
    blind = msgspec.structs.replace(shipped_law(), guard=math.inf)
    assert prior().predict(Query(text), IDS) == prior(blind).predict(Query(text), IDS)


def test_the_guard_takes_away_small_differences_and_shrinks_the_others() -> None:
    law = msgspec.structs.replace(shipped_law(), guard=0.5)
    assert [law.guarded(shift) for shift in (-2.0, -0.4, 0.0, 0.4, 2.0)] == [-1.5, 0.0, 0.0, 0.0, 1.5]


def test_a_batch_equals_its_queries_and_a_part_of_the_arms_gets_the_same_numbers() -> None:
    router, queries = prior(), [Query(text, prompt_tokens=20) for text in EASY + HARD]
    batch = router.predict_batch(queries, IDS)
    assert not batch.known_A.any()
    for row, query in enumerate(queries):
        alone = router.predict(query, IDS[::-1][:2])
        for arm, found in alone.items():
            assert batch.at(row, arm).quality == found.quality
            assert batch.at(row, arm).reasoning_tokens == found.reasoning_tokens


def test_more_thinking_is_expected_to_help_more_on_hard_mathematics() -> None:
    router = RealTextPrior({})
    arms = ("qwen3-8b@off", "qwen3-8b@high")
    lifts: list[float] = []
    for text in (EASY[1], HARD[1]):
        off, high = router.predict(Query(text), arms).values()
        assert off.reasoning_tokens is not None
        assert high.reasoning_tokens is not None
        assert off.reasoning_tokens.mean == 0 < high.reasoning_tokens.mean
        lifts.append(high.quality.mean - off.quality.mean)
    assert 0 < lifts[0] < lifts[1]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("Qwen/Qwen3-8B", 8.0),
        ("llama-3.1-8b-instruct", 8.0),
        ("Meta-Llama-3-70B-Instruct-AWQ", 70.0),
        ("qwen2.5-0.5b", 0.5),
        ("Qwen3-30B-A3B", math.sqrt(90)),
        ("mixtral-8x7b-instruct", math.sqrt(56 * 14)),
        ("a compact 49-billion parameter model", 49.0),
        ("gpt-4o-mini", None),
        ("claude-3-5b-not-really-5bit", 5.0),
        ("web-4bit", None),
        ("", None),
    ],
)
def test_sizes_are_read_from_names(text: str, size: float | None) -> None:
    assert size_b(text) == (None if size is None else pytest.approx(size))


def typical(facts: ArmFacts, shift: float = 0.0) -> float:
    law = shipped_law()
    return law.ability(facts).logit(law, shift)


def test_larger_and_dearer_arms_are_believed_to_be_abler_and_own_guesses_come_first() -> None:
    ability = [typical(ArmFacts(name=f"m-{size}b")) for size in (1, 8, 70)]
    assert ability == sorted(set(ability))
    ability = [typical(ArmFacts(output_usd_per_mtok=price)) for price in (0.1, 1.0, 10.0)]
    assert ability == sorted(set(ability))
    assert typical(ArmFacts(name="gpt-nano")) < typical(ArmFacts(name="gpt-pro"))
    law = shipped_law()
    assert law.ability(ArmFacts()).std > law.ability(ArmFacts(name="m-8b")).std
    declared = typical(ArmFacts(Effort("off"), "m-8b", quality=0.9))
    assert 1 / (1 + math.exp(-declared)) == pytest.approx(0.9)


@given(st.floats(-4, 4), st.floats(0.02, 50), st.floats(0.02, 50))
def test_a_dearer_arm_is_never_believed_to_be_worse(shift: float, one: float, other: float) -> None:
    low, high = sorted((one, other))
    less, more = (typical(ArmFacts(output_usd_per_mtok=price), shift) for price in (low, high))
    assert less <= more


def test_fitting_finds_planted_abilities_and_the_slope() -> None:
    rng = np.random.default_rng(0)
    planted, slope = {"a": -0.5, "b": 0.4, "c": 1.5}, 0.8
    answers: dict[str, Answers] = {}
    for name, ability in planted.items():
        shift_Q = rng.normal(0, 1, 20_000)
        chance_Q = 1 / (1 + np.exp(-(ability - slope * shift_Q)))
        answers[name] = Answers(shift_Q, (rng.random(20_000) < chance_Q).astype(np.float64))
    found, found_slope = abilities(answers)
    assert found == pytest.approx(planted, abs=0.06)
    assert found_slope == pytest.approx(slope, abs=0.04)


def test_a_line_through_three_points_by_hand() -> None:
    # x̄ = 1, ȳ = 1; slope = (1·1 + 1·1) / 2 = 1, start 0.
    found = line({"a": 0.0, "b": 1.0, "c": 2.0}, {"a": 0.0, "b": 1.0, "c": 2.0})
    assert (found.at_reference, found.per_doubling) == (0.0, 1.0)
    falling = line({"a": 0.0, "b": 1.0, "c": 2.0}, {"a": 2.0, "b": 1.0, "c": 0.0})
    assert falling.per_doubling == 0.0, "larger is never believed to be worse"
    with pytest.raises(DataError, match="three models"):
        line({"a": 0.0}, {"a": 0.0})


def test_the_gap_opens_where_larger_models_have_smaller_slopes() -> None:
    sizes = {"a": 0.0, "b": 1.0, "c": 2.0}
    assert opening(sizes, {"a": 1.2, "b": 1.1, "c": 1.0}) == (pytest.approx(1.2), pytest.approx(0.1))
    assert opening(sizes, {"a": 1.0, "b": 1.1, "c": 1.2})[1] == 0.0


@pytest.mark.parametrize("raw", [b"{}", b"\xff", b'{"format": 99}'])
def test_a_damaged_law_is_refused(raw: bytes) -> None:
    with pytest.raises(DataError, match="not a prior"):
        read_law(raw)
    with pytest.raises(DataError, match="train it again"):
        read_law(msgspec.json.encode(msgspec.structs.replace(shipped_law(), format=99)))


def test_a_gateway_before_real_models_starts_with_the_prior() -> None:
    config = parse_config(
        "models:\n"
        "  small: {url: 'http://127.0.0.1:9/v1', upstream_name: Qwen/Qwen3-4B, price: {input_usd_per_mtok: 0.02, output_usd_per_mtok: 0.1}}\n"
        "  large: {url: 'http://127.0.0.1:9/v1', upstream_name: some-model-pro, price: {input_usd_per_mtok: 2, output_usd_per_mtok: 12}}\n",
        source="test",
        environment={},
    )
    router = router_of(resolve(config))
    assert router.version.startswith("prior:")
    small, large = router.predict(Query(HARD[0]), ["small@off", "large@default"]).values()
    assert small.quality.mean < large.quality.mean
