"""Prompts meant to mislead: the set itself, what is measured on it, and that money's limits do not listen to them."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkroute.config import Config, resolve
from thinkroute.errors import BudgetExhausted, DataError
from thinkroute.evaluation.adversarial import TrickPrompt, load_prompts
from thinkroute.evaluation.adversarial.misroute import Pair, auroc, misroutes, pair_of
from thinkroute.evaluation.adversarial.prefixes import climb, prefixed, random_prefixes
from thinkroute.evaluation.adversarial.report import make_report, rows, to_markdown
from thinkroute.evaluation.leakage import alike
from thinkroute.gateway.routing import Dispatcher
from thinkroute.policy import Constraints, Exploration, SpendBudget, choose
from thinkroute.routers import OutcomeTable, TableRouter, fit_router
from thinkroute.routers.base import Moments, Predictions
from thinkroute.routers.table import FloatArray
from thinkroute.signals import fit_encoder
from thinkroute.types import Arm, ComputePrices, Estimate, Prediction, Query
from thinkroute.wire.openai_chat.inbound import parse_request

PAIR = Pair("weak@default", "strong@default")
ORDINARY = [f"ordinary {'word ' * n}{n}" for n in range(40)]


class Judging:
    """A router that prefers the strong arm by a rule of the text."""

    version = "judging"
    arms = (PAIR.weak, PAIR.strong)

    def __init__(self, rule: Mapping[str, float] | None = None, length: float = 0.0, noise: str = "") -> None:
        self._rule, self._length, self._noise = rule or {}, length, noise

    def predict(self, query: Query, arms: Sequence[str]) -> Mapping[str, Prediction]:
        raise NotImplementedError

    def predict_batch(self, queries: Sequence[Query], arms: Sequence[str]) -> Predictions:
        gain_Q = np.array([self._gain(query.text) for query in queries])
        quality_QA = np.stack([np.full(len(queries), 0.0), gain_Q], axis=1)
        known = np.array([True, True])
        return Predictions(tuple(arms), known, {"quality": Moments(quality_QA, np.zeros_like(quality_QA))})

    def _gain(self, text: str) -> float:
        nonsense = 0.5 * text.count(self._noise) if self._noise else 0.0
        return self._rule.get(text, self._length * len(text)) + nonsense


def test_the_set_has_what_it_promises() -> None:
    prompts = load_prompts()
    assert len(prompts) >= 200
    kinds = Counter((prompt.kind, prompt.domain) for prompt in prompts)
    assert len({domain for _, domain in kinds}) == 8
    assert set(kinds.values()) == {14}
    assert len({prompt.id for prompt in prompts}) == len({prompt.text for prompt in prompts}) == len(prompts)
    hard = [len(prompt.text) for prompt in prompts if prompt.kind == "hard_short"]
    easy = [prompt for prompt in prompts if prompt.kind == "easy_long"]
    assert max(hard) < 100
    assert min(len(prompt.text) for prompt in easy) > 1000
    assert all(prompt.core is not None and prompt.core in prompt.text.split("\n\n") for prompt in easy)
    assert all(prompt.core is None for prompt in prompts if prompt.kind == "hard_short")


def test_hard_prompts_are_no_variants_of_one_another() -> None:
    assert not alike([prompt.text for prompt in load_prompts() if prompt.kind == "hard_short"]).left_P.size


def test_a_router_that_knows_misroutes_nothing_and_one_that_goes_by_length_everything() -> None:
    prompts = load_prompts()
    truth = {prompt.text: float(prompt.kind == "hard_short") for prompt in prompts}
    knowing = misroutes(Judging(truth, length=1e-3), PAIR, ORDINARY, prompts, name="knowing")
    assert (knowing.auroc, knowing.hard_to_weak.mean, knowing.easy_to_strong.mean) == (1.0, 0.0, 0.0)
    lengthy = misroutes(
        Judging(length=1e-3), PAIR, ["x" * n for n in range(100, 900)], prompts, name="lengthy"
    )
    assert (lengthy.auroc, lengthy.hard_to_weak.mean, lengthy.easy_to_strong.mean) == (0.0, 1.0, 1.0)
    assert lengthy.bare_to_strong == 0.0
    assert {domain.prompts for domain in lengthy.by_domain.values()} == {28}
    assert lengthy.hard_to_weak.low > 0.95


@pytest.mark.parametrize("call_rate", [0.25, 0.5])
def test_a_constant_router_misroutes_like_a_coin(call_rate: float) -> None:
    found = misroutes(Judging(), PAIR, ORDINARY, load_prompts(), name="constant", call_rate=call_rate)
    assert (found.auroc, found.auroc_bare) == (0.5, 0.5)
    assert found.hard_to_weak.mean == pytest.approx(1 - call_rate)
    assert found.easy_to_strong.mean == pytest.approx(call_rate)
    assert found.searched_prefix.upgraded == pytest.approx(call_rate)


def test_a_searched_prefix_finds_the_weakness_that_a_blind_one_mostly_misses() -> None:
    """The router likes the letter q; few random tokens have one, the search collects them."""
    ordinary = [f"{'a' * n}" for n in range(200)]
    router = Judging(length=1e-4, noise="q")
    found = misroutes(router, PAIR, ordinary, load_prompts(), name="gullible")
    assert found.searched_prefix.upgraded == 1.0
    assert found.random_prefix.upgraded < 1.0
    assert found.searched_prefix.downgraded == 0.0


def test_prefixes_are_reproducible_and_the_climb_never_descends() -> None:
    assert random_prefixes(3, 7) == random_prefixes(3, 7) != random_prefixes(3, 8)
    starts = random_prefixes(4, 0)

    def vowels(texts: Sequence[str]) -> FloatArray:
        return np.array([sum(text.count(vowel) for vowel in "aeiou") for text in texts], dtype=np.float64)

    found = climb(vowels, ["text"], starts, 30, 0)
    assert vowels([prefixed(found, "text")])[0] >= max(vowels([prefixed(s, "text")])[0] for s in starts)


def test_auroc_counts_ties_half() -> None:
    assert auroc(np.array([1.0, 2.0]), np.array([1.0, 0.0])) == pytest.approx(3.5 / 4)


def test_the_pair_is_the_cheapest_and_the_best_arm() -> None:
    table = _table()
    assert pair_of(table) == Pair("weak@default", "strong@default")
    with pytest.raises(DataError, match="both the best and the cheapest"):
        pair_of(table.select_arms(["strong@default"]))


def test_a_report_has_a_row_per_router_and_says_which_arms() -> None:
    found = misroutes(Judging(), PAIR, ORDINARY, load_prompts(), name="constant")
    report = make_report("own", [found], {"other": "no module"}, "thinkroute misroutes own")
    page = to_markdown(report)
    assert "Weak arm weak@default, strong arm strong@default" in page
    assert "Not judged: `other`: no module." in page
    assert len({len(row) for row in rows(report)}) == 1


def _table() -> OutcomeTable:
    rng = np.random.default_rng(0)
    texts = tuple(f"{'prove' if n % 2 else 'say'} {n} {'x' * int(rng.integers(200))}" for n in range(80))
    hard = np.arange(80) % 2
    quality_QA = np.stack([1.0 - 0.9 * hard, 0.8 + 0.1 * hard, np.full(80, 0.95)], axis=1)
    cost_QA = np.tile([0.0001, 0.002, 0.03], (80, 1)) * rng.uniform(0.5, 1.5, (80, 3))
    return OutcomeTable(
        query_ids=tuple(map(str, range(80))),
        texts=texts,
        arms=("weak@default", "middle@default", "strong@default"),
        measured={"quality": quality_QA, "cost_usd": cost_QA},
    )


@pytest.fixture(scope="module")
def router() -> TableRouter:
    table = _table()
    encoder = fit_encoder("hashed_ngrams", table.texts, {"buckets": 256, "components": 8})
    return fit_router("knn", table, encoder=encoder)


TEXTS = [prompt.text for prompt in load_prompts()]


@given(
    text=st.sampled_from(TEXTS),
    prefix=st.sampled_from([(), *random_prefixes(30, 1)]),
    cap_usd=st.sampled_from([0.00005, 0.0005, 0.005, 0.05]),
    value_usd=st.sampled_from([0.001, 1.0, 1e9]),
    draw=st.floats(0, 0.999),
)
@settings(max_examples=150)
def test_no_prompt_and_no_prefix_gets_an_arm_over_the_dollar_cap(
    router: TableRouter, text: str, prefix: tuple[str, ...], cap_usd: float, value_usd: float, draw: float
) -> None:
    """The limit is checked arm by arm before anything is preferred, explored draws included."""
    arms = tuple(Arm("direct", (arm.removesuffix("@default"),)) for arm in router.arms)
    predictions = router.predict(Query(prefixed(prefix, text)), [arm.id for arm in arms])
    decision = choose(
        arms,
        predictions,
        ComputePrices(value_usd),
        {},
        Constraints({}, usd_per_request=cap_usd),
        Exploration(0.5, draw),
    )
    costs = {arm: prediction.cost_usd for arm, prediction in predictions.items()}
    over = {arm for arm, cost in costs.items() if cost is None or cost.mean > cap_usd}
    if decision is None:
        assert over == set(costs)
        return
    assert decision.arm.id not in over
    assert {score.arm_id for score in decision.scores if not score.allowed} == over
    assert all(score.propensity == 0 for score in decision.scores if score.arm_id in over)


class Flattering(Judging):
    """Says of every text that the dear model answers it rightly, for nothing: what a successful attack achieves."""

    def predict(self, query: Query, arms: Sequence[str]) -> Mapping[str, Prediction]:
        return {
            arm: Prediction(Estimate(float(arm.startswith("large"))), cost_usd=Estimate(0.0)) for arm in arms
        }


@pytest.mark.parametrize("cap_usd", [0.0005, 0.005, 0.05])
def test_a_router_that_is_wholly_fooled_cannot_pass_the_gateways_cap(cap_usd: float) -> None:
    """What is reserved is the worst case from prices and bytes; the router's word does not enter."""
    url = "http://127.0.0.1:9/v1"
    priced = {
        name: {"url": url, "price": {"input_usd_per_mtok": dollars, "output_usd_per_mtok": 4 * dollars}}
        for name, dollars in (("small", 0.1), ("large", 10.0))
    }
    config = Config.model_validate({"models": priced, "policy": {"budgets": {"usd_per_request": cap_usd}}})
    dispatcher = Dispatcher(resolve(config), Flattering(), SpendBudget(None, lambda: 0.0))
    lifted = 0
    for text in TEXTS:
        for prefix in ((), *random_prefixes(2, 3)):
            body = {"model": "auto", "messages": [{"role": "user", "content": prefixed(prefix, text)}]}
            try:
                route = dispatcher.route(parse_request(json.dumps(body).encode()))
            except BudgetExhausted:
                continue
            assert 0 < route.reserved_usd <= cap_usd * (1 + 1e-12)
            lifted += route.decision.arm.models == ("large",)
    # The attack does lift requests where money allows, or this would prove nothing.
    assert (lifted > 0) is (cap_usd > 0.001)


def test_an_unknown_kind_of_prompt_is_refused() -> None:
    import msgspec

    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"id": "a", "kind": "odd", "domain": "x", "text": "y"}', type=TrickPrompt)
