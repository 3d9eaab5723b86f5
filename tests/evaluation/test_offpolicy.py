"""Off-policy estimators on worlds whose truth is known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from thinkroute.errors import DataError
from thinkroute.evaluation import offpolicy
from thinkroute.evaluation.from_log import table_from_log
from thinkroute.evaluation.log_policy import (
    Guess,
    Traffic,
    cross_guess,
    target,
    traffic_of_records,
    traffic_of_table,
)
from thinkroute.evaluation.log_report import Plan, report_log
from thinkroute.evaluation.metrics import IntArray
from thinkroute.evaluation.offpolicy import Logged, OffPolicyEstimate
from thinkroute.evaluation.outcomes import read_outcomes, write_outcomes
from thinkroute.policy import Constraints, Exploration, choose
from thinkroute.routers import OutcomeTable, TableRouter, fit_router
from thinkroute.routers.base import Predictions
from thinkroute.routers.table import FloatArray
from thinkroute.signals import fit_encoder
from thinkroute.store import DecisionRecord, FeedbackRecord, ScoreRecord
from thinkroute.types import Arm, ComputePrices, Estimate, Prediction, Query

CHANCE_XA = np.array([[0.95, 0.80, 0.70], [0.30, 0.85, 0.60], [0.10, 0.40, 0.90]])
"""Of a right answer, by kind of question (X) and arm."""
LOGGING_XA = np.array([[0.80, 0.10, 0.10], [0.60, 0.20, 0.20], [0.70, 0.15, 0.15]])
TARGET_XA = np.array([[0.90, 0.10, 0.00], [0.00, 1.00, 0.00], [0.05, 0.15, 0.80]])
TRUTH = float((TARGET_XA * CHANCE_XA).sum(axis=1).mean())
REPLICATIONS, CHOICES = 1000, 600


def log_of(rng: np.random.Generator, choices: int = CHOICES) -> tuple[Logged, IntArray]:
    """A log, and the kind of each of its questions."""
    kind_Q = rng.integers(3, size=choices)
    action_Q = (rng.uniform(size=(choices, 1)) > LOGGING_XA[kind_Q].cumsum(axis=1)).sum(axis=1)
    reward_Q = (rng.uniform(size=choices) < CHANCE_XA[kind_Q, action_Q]).astype(np.float64)
    return Logged(action_Q, LOGGING_XA[kind_Q, action_Q], reward_Q, LOGGING_XA[kind_Q] > 0), kind_Q


WRONG_XA = np.full((3, 3), 0.2)
ESTIMATORS: Mapping[str, Callable[[Logged, FloatArray, IntArray], OffPolicyEstimate]] = {
    "ips": lambda log, target_QA, _: offpolicy.ips(log, target_QA),
    "ips, clipped": lambda log, target_QA, _: offpolicy.ips(log, target_QA, clip=2.0),
    "snips": lambda log, target_QA, _: offpolicy.snips(log, target_QA),
    "dm, wrong": lambda log, target_QA, kind_Q: offpolicy.direct(log, target_QA, WRONG_XA[kind_Q]),
    "dr, right": lambda log, target_QA, kind_Q: offpolicy.doubly_robust(log, target_QA, CHANCE_XA[kind_Q]),
    "dr, wrong": lambda log, target_QA, kind_Q: offpolicy.doubly_robust(log, target_QA, WRONG_XA[kind_Q]),
    "dr, clipped": lambda log, target_QA, kind_Q: offpolicy.doubly_robust(
        log, target_QA, CHANCE_XA[kind_Q], clip=2.0
    ),
}


@dataclass(frozen=True)
class Replicated:
    """Estimates of many logs, and how often their interval holds the truth."""

    means: FloatArray
    held: float


@pytest.fixture(scope="module")
def replicated() -> Mapping[str, Replicated]:
    rng = np.random.default_rng(0)
    found: dict[str, list[OffPolicyEstimate]] = {name: [] for name in ESTIMATORS}
    for _ in range(REPLICATIONS):
        logged, kind_Q = log_of(rng)
        for name, estimate in ESTIMATORS.items():
            found[name].append(estimate(logged, TARGET_XA[kind_Q], kind_Q))
    return {
        name: Replicated(
            np.array([one.mean for one in ones]),
            float(np.mean([one.low <= TRUTH <= one.high for one in ones])),
        )
        for name, ones in found.items()
    }


@pytest.mark.parametrize("name", ["ips", "dr, right", "dr, wrong"])
def test_estimates_of_many_logs_average_to_the_truth(replicated: Mapping[str, Replicated], name: str) -> None:
    means = replicated[name].means
    error = means.std() / np.sqrt(REPLICATIONS)
    assert error < 0.002
    assert abs(means.mean() - TRUTH) < 3 * error


@pytest.mark.parametrize("name", ["ips", "snips", "dr, right", "dr, wrong"])
def test_intervals_hold_the_truth_nearly_as_often_as_they_say(
    replicated: Mapping[str, Replicated], name: str
) -> None:
    assert 0.91 < replicated[name].held < 0.97


def test_self_normalising_costs_little_bias_and_saves_much_variance(
    replicated: Mapping[str, Replicated],
) -> None:
    plain, normal = replicated["ips"].means, replicated["snips"].means
    assert abs(normal.mean() - TRUTH) < 1 / CHOICES
    assert normal.std() < 0.7 * plain.std()


def test_a_good_reward_model_saves_variance_and_a_bad_one_alone_is_wrong(
    replicated: Mapping[str, Replicated],
) -> None:
    assert replicated["dr, right"].means.std() < 0.6 * replicated["ips"].means.std()
    assert replicated["dm, wrong"].means.mean() == pytest.approx(0.2)


def test_clipping_trades_variance_for_a_bias_that_a_model_repairs(
    replicated: Mapping[str, Replicated],
) -> None:
    assert replicated["ips, clipped"].means.std() < replicated["ips"].means.std()
    assert replicated["ips, clipped"].means.mean() < TRUTH - 0.1
    assert replicated["dr, clipped"].means.mean() == pytest.approx(TRUTH, abs=0.005)


def test_the_logging_policy_estimated_from_its_own_log_is_its_mean() -> None:
    logged, kind_Q = log_of(np.random.default_rng(1))
    target_QA = LOGGING_XA[kind_Q]
    mean = float(logged.reward_Q.mean())
    assert offpolicy.ips(logged, target_QA).mean == pytest.approx(mean)
    assert offpolicy.snips(logged, target_QA).mean == pytest.approx(mean)
    seen = offpolicy.overlap(logged, target_QA)
    assert (seen.effective_choices, seen.weight_mean, seen.weight_most) == (CHOICES, 1.0, 1.0)
    assert offpolicy.on_policy(logged).mean == mean


def test_estimates_by_hand() -> None:
    """Weights 1/.5 = 2 and 0/.25 = 0: IPS (2·1 + 0)/2 = 1, SNIPS 2/2 = 1, DM (.6 + .8)/2, DR (.6 + 2·.4 + .8 + 0)/2."""
    logged = Logged(np.array([0, 1]), np.array([0.5, 0.25]), np.array([1.0, 0.0]))
    target_QA, model_QA = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[0.6, 0.1], [0.8, 0.3]])
    assert offpolicy.ips(logged, target_QA).mean == pytest.approx(1.0)
    assert offpolicy.snips(logged, target_QA).mean == pytest.approx(1.0)
    assert offpolicy.direct(logged, target_QA, model_QA).mean == pytest.approx(0.7)
    assert offpolicy.doubly_robust(logged, target_QA, model_QA).mean == pytest.approx(1.1)
    seen = offpolicy.overlap(logged, target_QA)
    assert (seen.effective_choices, seen.agreed_share) == (1.0, 0.5)


@pytest.mark.parametrize(
    ("propensity", "words"),
    [(float("nan"), "no propensity"), (0.0, "propensity 0"), (1.5, r"propensity 1\.5")],
)
def test_a_choice_without_a_usable_propensity_is_named(propensity: float, words: str) -> None:
    with pytest.raises(DataError, match=f"choice 1 has {words}"):
        Logged(np.array([0, 0]), np.array([0.5, propensity]), np.array([1.0, 1.0]))


def test_what_no_log_can_tell_is_refused() -> None:
    logged = Logged(np.array([0]), np.array([1.0]), np.array([1.0]), np.array([[True, False]]))
    with pytest.raises(DataError, match="Log with exploration"):
        offpolicy.ips(logged, np.array([[0.0, 1.0]]))
    with pytest.raises(DataError, match=r"sum to 0\.5"):
        offpolicy.ips(logged, np.array([[0.5, 0.0]]))
    with pytest.raises(DataError, match="no reward"):
        Logged(np.array([0]), np.array([1.0]), np.array([np.nan]))
    with pytest.raises(DataError, match="no number"):
        offpolicy.doubly_robust(logged, np.array([[1.0, 0.0]]), np.array([[np.nan, 0.5]]))


ARMS = (Arm("direct", ("small",)), Arm("direct", ("large",)))
WORDS = ("add", "integrate")
RIGHT = {("add", 0): 0.9, ("add", 1): 0.95, ("integrate", 0): 0.1, ("integrate", 1): 0.9}
COST_USD = (0.001, 0.01)


def records_of(rng: np.random.Generator, count: int, explore: float) -> list[DecisionRecord]:
    """Traffic that always prefers the small arm, explored, graded and priced."""
    records: list[DecisionRecord] = []
    for number in range(count):
        word = WORDS[int(rng.integers(2))]
        predictions = {
            arm.id: Prediction(Estimate(quality), cost_usd=Estimate(cost))
            for arm, quality, cost in zip(ARMS, (0.9, 0.5), COST_USD, strict=True)
        }
        decision = choose(
            ARMS,
            predictions,
            ComputePrices(1.0),
            {},
            Constraints({}),
            Exploration(explore, float(rng.uniform())),
        )
        assert decision is not None
        called = ARMS.index(decision.arm)
        right = float(rng.uniform() < RIGHT[word, called])
        records.append(
            DecisionRecord(
                decision_id=f"d{number}",
                created_at=float(number),
                status="ok",
                query_hash=f"h{number}",
                query_text=f"{word} {number}",
                arm_id=decision.arm.id,
                program="direct",
                models=decision.arm.models,
                propensity=decision.propensity,
                reason_codes=decision.reason_codes,
                scores=tuple(
                    ScoreRecord(arm_id=score.arm_id, allowed=score.allowed, propensity=score.propensity)
                    for score in decision.scores
                ),
                cost_usd=COST_USD[called],
                feedback=(FeedbackRecord(score=right),),
            )
        )
    return records


def by_subject(traffic: Traffic) -> Guess:
    """A router that knows: sums to the small arm, integrals to the large one."""
    small = traffic.arms.index("small@default")
    easy_Q = np.array([text.startswith("add") for text in traffic.texts])
    quality_QA = np.empty((len(traffic), 2))
    quality_QA[:, small], quality_QA[:, 1 - small] = np.where(easy_Q, 1.0, 0.0), np.where(easy_Q, 0.0, 1.0)
    return Guess(quality_QA, np.full((len(traffic), 2), np.nan))


def _knn(table: OutcomeTable) -> TableRouter:
    encoder = fit_encoder("hashed_ngrams", table.texts, {"buckets": 64, "components": 8})
    return fit_router("knn", table, encoder=encoder)


def test_a_better_router_is_recognised_from_the_log_of_a_worse_one() -> None:
    """By subject: .9 in either case, at (.001 + .01) / 2 dollars; what was logged brought much less."""
    traffic = traffic_of_records(records_of(np.random.default_rng(0), 1500, explore=0.4))
    found = report_log(
        traffic,
        {"by subject": by_subject(traffic)},
        lambda: cross_guess(_knn, traffic, folds=3),
        Plan(clip=5.0),
        model_name="knn",
    )
    (score,) = found.targets
    by_method = {(one.method, one.clip): one for one in score.quality}
    for method in ("ips", "snips", "dr"):
        estimate = by_method[method, None]
        assert abs(estimate.mean - 0.9) < 3 * estimate.std_error
        assert estimate.std_error < 0.05
    assert by_method["dr", None].std_error < by_method["ips", None].std_error
    assert ("dr", 5.0) in by_method
    assert found.logging_quality.mean < 0.65
    assert score.quality_gain.low > 0.25
    assert score.cost_gain_usd is not None
    costs = {one.method: one for one in score.cost_usd if one.clip is None}
    assert abs(costs["dr"].mean - 0.0055) < 3 * costs["dr"].std_error
    assert score.warnings == []
    assert found.logging_arm_shares["small@default"] == pytest.approx(0.8, abs=0.03)


def test_a_log_without_exploration_cannot_judge_another_policy() -> None:
    traffic = traffic_of_records(records_of(np.random.default_rng(0), 50, explore=0.0))
    guess = by_subject(traffic)
    with pytest.raises(DataError, match="Log with exploration"):
        report_log(traffic, {"by subject": guess}, lambda: guess, Plan(), model_name="itself")


def test_wrong_propensities_are_noticed() -> None:
    traffic = traffic_of_records(records_of(np.random.default_rng(0), 1000, explore=0.4))
    broken = replace(traffic, propensity_Q=np.minimum(traffic.propensity_Q * 2, 1.0))
    guess = by_subject(traffic)
    found = report_log(broken, {"by subject": guess}, lambda: guess, Plan(), model_name="itself")
    assert any("propensities are not the ones used" in warning for warning in found.targets[0].warnings)


def test_few_effective_choices_are_said() -> None:
    traffic = traffic_of_records(records_of(np.random.default_rng(0), 60, explore=0.2))
    guess = by_subject(traffic)
    found = report_log(traffic, {"by subject": guess}, lambda: guess, Plan(), model_name="itself")
    assert any("effective choices" in warning for warning in found.targets[0].warnings)


def test_records_that_say_nothing_of_the_policy_are_counted_not_used() -> None:
    kept, *others = records_of(np.random.default_rng(0), 5, explore=0.5)
    changes: Sequence[Mapping[str, object]] = (
        {"status": "error"},
        {"reason_codes": ("pinned", "best_utility")},
        {"feedback": ()},
        {"query_text": None},
    )
    spoiled = [
        DecisionRecord(**{name: getattr(record, name) for name in record.__struct_fields__} | change)  # pyright: ignore[reportArgumentType]
        for record, change in zip(others, changes, strict=True)
    ]
    traffic = traffic_of_records([kept, *spoiled])
    assert len(traffic) == 1
    assert sum(traffic.left_out.values()) == 4
    assert len(traffic.left_out) == 4
    with pytest.raises(DataError, match="1 not graded"):
        traffic_of_records(spoiled[2:3])


def test_the_target_is_the_policys_own_formula() -> None:
    """At $1 the dear arm's 0.3 more quality are worth its 0.2 dollars, at $0.5 they are not."""
    traffic = Traffic(
        texts=("q",),
        arms=("cheap", "dear"),
        action_Q=np.array([0]),
        propensity_Q=np.array([0.5]),
        quality_Q=np.array([1.0]),
        cost_usd_Q=np.array([0.1]),
        allowed_QA=np.array([[True, True]]),
        possible_QA=None,
        left_out={},
    )
    guess = Guess(np.array([[0.5, 0.8]]), np.array([[0.1, 0.3]]))
    assert target(guess, traffic, 1.0).tolist() == [[0.0, 1.0]]
    assert target(guess, traffic, 0.5).tolist() == [[1.0, 0.0]]
    assert target(guess, traffic, np.inf, explore=0.5).tolist() == [[0.25, 0.75]]
    barred = replace(traffic, allowed_QA=np.array([[True, False]]))
    assert target(guess, barred, np.inf, explore=0.5).tolist() == [[1.0, 0.0]]


class _Memory:
    """Says 1 of every question it was fitted on, else 0."""

    version = "memory"

    def __init__(self, table: OutcomeTable) -> None:
        self.arms = table.arms
        self._known = set(table.texts)
        self._inner = fit_router("constant", table)

    def predict(self, query: Query, arms: Sequence[str]) -> Mapping[str, Prediction]:
        return self._inner.predict(query, arms)

    def predict_batch(self, queries: Sequence[Query], arms: Sequence[str]) -> Predictions:
        found = self._inner.predict_batch(queries, arms)
        for row, query in enumerate(queries):
            found.quality.mean_QA[row] = float(query.text in self._known)
        return found


def test_nobody_judges_a_question_they_were_fitted_on() -> None:
    traffic = traffic_of_records(records_of(np.random.default_rng(0), 40, explore=0.5))
    assert (cross_guess(_Memory, traffic, folds=4).quality_QA == 0).all()


def test_an_exported_log_says_the_same_as_the_log_itself(tmp_path: Path) -> None:
    records = records_of(np.random.default_rng(0), 30, explore=0.5)
    write_outcomes(table_from_log(records).table, tmp_path / "log.parquet")
    direct, exported = traffic_of_records(records), traffic_of_table(read_outcomes(tmp_path / "log.parquet"))
    assert exported.texts == direct.texts
    assert exported.possible_QA is not None
    assert exported.possible_QA.all()
    assert [exported.arms[int(arm)] for arm in exported.action_Q] == [
        direct.arms[int(arm)] for arm in direct.action_Q
    ]
    for name in ("propensity_Q", "quality_Q", "cost_usd_Q"):
        assert getattr(exported, name).tolist() == pytest.approx(getattr(direct, name).tolist())


def test_an_old_log_that_knows_the_called_arm_alone_rules_nothing_out() -> None:
    table = traffic_of_records(records_of(np.random.default_rng(0), 30, explore=0.5)).table()
    propensity_QA = np.where(np.isnan(table.quality_QA), np.nan, 0.5)
    traffic = traffic_of_table(replace(table, propensity_QA=propensity_QA))
    assert traffic.possible_QA is None
    assert traffic.allowed_QA.all()


def test_a_table_without_propensities_is_no_log() -> None:
    table = traffic_of_records(records_of(np.random.default_rng(0), 5, explore=0.5)).table()
    with pytest.raises(DataError, match="no column 'propensity'"):
        traffic_of_table(table)
