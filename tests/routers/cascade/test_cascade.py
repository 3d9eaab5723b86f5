"""What a fitted cascade promises: the best plan, monotone stopping, useless stages skipped, calibration, round trips."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.routers.cascade.worlds import STAGES, world

from thinkroute.errors import ConfigError, DataError
from thinkroute.evaluation.cascade import Replay
from thinkroute.evaluation.cascade_files import read_answers, write_answers
from thinkroute.evaluation.cascade_report import judge_cascade
from thinkroute.evaluation.cascade_shift import judge_unseen
from thinkroute.programs.effects import Drafted
from thinkroute.programs.protocol import TokenLogprob
from thinkroute.routers.cascade import (
    FEATURES,
    CascadeRules,
    CascadeSettings,
    FittedCascade,
    answer_features,
    fit_cascade,
    load_cascade,
    save_cascade,
)
from thinkroute.routers.cascade.features import agreement, conclusion
from thinkroute.routers.cascade.forest import Forest, Tree
from thinkroute.routers.cascade.planner import NOBODY, STOP, Situation, solve
from thinkroute.routers.cascade.verifier import fit_head
from thinkroute.types import Arm, ComputePrices, Effort, Query

SETTINGS = CascadeSettings(router="ridge", trees=4, encoder_parameters={"buckets": 64, "components": 8})


@pytest.fixture(scope="module")
def cascade() -> FittedCascade:
    return fit_cascade(world(), STAGES, SETTINGS)


def test_it_asks_the_weak_arm_first_and_the_strong_one_only_where_the_answer_looks_doubtful(
    cascade: FittedCascade,
) -> None:
    judged = world(seed=1)
    run = Replay(cascade, judged).at(0.1)
    easy_Q = judged.table.quality_QA[:, 0] == 1
    assert run.ran_QS[:, 0].all()
    assert run.ran_QS[easy_Q, 2].mean() < 0.1
    assert run.ran_QS[~easy_Q, 2].mean() > 0.95
    assert run.quality_Q.mean() > 0.97


def test_a_stage_that_never_helps_is_jumped_over(cascade: FittedCascade) -> None:
    for value in (0.002, 0.02, 0.2, 2.0):
        assert not Replay(cascade, world(seed=1)).at(value).ran_QS[:, 1].any()


def test_a_right_answer_worth_nothing_gets_the_cheapest_stage(cascade: FittedCascade) -> None:
    run = Replay(cascade, world(seed=1)).at(1e-6)
    assert run.ran_QS.tolist() == [[True, False, False]] * len(run.quality_Q)


def test_no_way_of_reading_the_question_alone_does_as_well(cascade: FittedCascade) -> None:
    report = judge_cascade(cascade, world(), world(seed=1), "strong@on", ("ridge",))
    assert report.chosen is not None
    assert report.chosen.cost_share < 0.75
    assert report.query_routers[0].quality_gain.low > 0.1
    assert report.query_routers[0].aiq_gain.low > 0
    assert report.ece["weak@off"] < 0.05
    assert (report.auroc["weak@off"] or 0) > 0.95


def test_it_carries_over_to_a_task_nothing_was_learned_of() -> None:
    lines = judge_unseen(world(), world(seed=1), STAGES, "strong@on", SETTINGS, ("ridge",), 0.1)
    assert lines[0].utility_gain.low > 0


@settings(max_examples=25, deadline=None)
@given(st.floats(0.001, 1.0), st.floats(1.0, 50.0))
def test_what_stops_never_goes_on_again_as_compute_gets_dearer(
    cascade: FittedCascade, value: float, factor: float
) -> None:
    replay = Replay(cascade, world(queries=80, seed=2))
    cheap = cascade.plan(value, np.array([1.0, 0.0]))
    dear = cascade.plan(value, np.array([factor, 0.0]))
    for situation in replay.situations[1:]:
        stopped = cheap.next_stage(situation) == STOP
        assert (dear.next_stage(situation)[stopped] == STOP).all()


def _leaf_world(rng: np.random.Generator, stages: int, leaves: int) -> tuple[list[Situation], list[Forest]]:
    """Scenarios whose situations are leaves: one tree that asks for the leaf, belief being the leaf's mean outcome."""
    rows = 40
    cost_RSM = np.tile(rng.random(stages)[None, :, None], (rows, 1, 1)) * 0.3 + 0.01
    forests: list[Forest] = []
    situations: list[Situation] = []
    for owner in range(stages + 1):
        leaf_R = np.concatenate([np.arange(leaves), rng.integers(0, leaves, rows - leaves)])
        leaf_R = np.zeros(rows, dtype=np.intp) if owner == NOBODY else rng.permutation(leaf_R).astype(np.intp)
        belief_RS = np.full((rows, stages), np.nan)
        for stage in range(max(owner - 1, 0), stages):
            belief_RS[:, stage] = rng.random(leaves)[leaf_R]
        nodes = Tree(np.full(leaves, -1), np.zeros(leaves), np.arange(leaves))
        forests.append(Forest((nodes,)))
        situations.append(Situation(owner, belief_RS, cost_RSM, leaf_R[:, None]))
    return situations, forests


def _utility(
    policy: dict[tuple[int, int], int], situations: list[Situation], value: float, allowed: int
) -> float:
    """Mean utility of following a policy (owner, leaf) → stage, in the planner's own model of what follows."""

    def worth(owner: int) -> np.ndarray:
        situation = situations[owner]
        result = value * situation.quality_R
        for row, leaf in enumerate(situation.leaf_RT[:, 0].tolist()):
            stage = policy[owner, leaf]
            if stage == STOP:
                continue
            cost = situation.cost_RSM[row, stage, 0]
            if stage == allowed - 1:
                result[row] = value * situation.belief_RS[row, stage] - cost
            else:
                alike = situation.leaf_RT[:, 0] == leaf
                result[row] = after[stage + 1][alike].mean() - cost
        return result

    after: dict[int, np.ndarray] = {}
    for owner in range(allowed, -1, -1):
        after[owner] = worth(owner)
    return float(after[NOBODY].mean())


@pytest.mark.parametrize("seed", range(6))
def test_the_plan_is_as_good_as_the_best_of_all_plans(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stages, leaves = 3, 2
    situations, forests = _leaf_world(rng, stages, leaves)
    plan = solve(situations, forests, 1.0, np.array([1.0]), range(stages))
    keys = [
        (owner, leaf) for owner in range(stages + 1) for leaf in ([0] if owner == NOBODY else range(leaves))
    ]
    options = [list(range(owner, stages)) + ([] if owner == NOBODY else [STOP]) for owner, _ in keys]
    best = max(
        _utility(dict(zip(keys, choice, strict=True)), situations, 1.0, stages)
        for choice in itertools.product(*options)
    )
    quality_R, cost_RM = plan.expected(situations[NOBODY])
    assert float((quality_R - cost_RM[:, 0]).mean()) == pytest.approx(best)


def test_the_verifier_means_what_it_says() -> None:
    rng = np.random.default_rng(0)
    feature_RF = rng.normal(size=(4000, 3))
    chance_R = 1 / (1 + np.exp(-(2 * feature_RF[:, 0] - 0.5)))
    label_R = (rng.random(4000) < chance_R).astype(np.float64)
    head, apart_R = fit_head(feature_RF, label_R, np.arange(4000) % 5)
    assert float(np.abs(head.probability(feature_RF) - chance_R).mean()) < 0.02
    assert float(apart_R.mean()) == pytest.approx(float(label_R.mean()), abs=0.01)


def test_labels_all_alike_give_that_rate_and_nothing_wild() -> None:
    feature_RF = np.random.default_rng(0).normal(size=(300, 4))
    label_R = np.ones(300)
    label_R[7] = 0.0
    head, apart_R = fit_head(feature_RF, label_R, np.arange(300) % 5)
    assert head.probability(feature_RF * 100).min() > 0.8
    assert apart_R.min() > 0.8


def test_features_tell_the_thought_from_the_answer() -> None:
    tokens = [("maybe", -3.0), ("</think>", -0.0), ("seven", -0.5)]
    draft = Drafted("maybe</think>seven", "m", logprobs=tuple(TokenLogprob(*token) for token in tokens))
    found = answer_features(draft)
    assert (found["thought_least_logprob"], found["answer_least_logprob"]) == (-3.0, -0.5)
    assert set(found) == set(FEATURES)


@pytest.mark.parametrize(
    ("text", "found"),
    [("<think>3 or 4</think>It is 1,200.", "1200"), ("Who? It is Dora!", "dora"), ("", "")],
)
def test_an_answer_comes_to_its_last_number_or_word(text: str, found: str) -> None:
    assert conclusion(text) == found


def test_samples_that_agree_are_counted() -> None:
    assert agreement("It is 4.", ["4", "perhaps 5", "so 4"]) == pytest.approx(2 / 3)


def test_samples_are_paid_for_only_where_they_are_drawn() -> None:
    answers = world()
    extra = type(answers)(
        answers.table,
        answers.feature_QAF,
        np.full((len(answers.table), 3), 0.5),
        np.full((len(answers.table), 3), 7.0),
    )
    table = extra.sampling({"weak@off": 2}).table
    assert table.measured["cost_usd"][0].tolist() == [0.501, 0.002, 0.01]
    assert table.measured["answer_tokens"][0].tolist() == [17.0, 10.0, 100.0]


def test_files_keep_outcomes_and_features(tmp_path: Path) -> None:
    answers = world(queries=20)
    write_answers(answers, tmp_path / "table.parquet")
    back = read_answers(tmp_path / "table.parquet")
    assert back.table.digest() == answers.table.digest()
    np.testing.assert_array_equal(back.feature_QAF, answers.feature_QAF)


def test_an_artefact_decides_as_the_cascade_it_was_saved_from(cascade: FittedCascade, tmp_path: Path) -> None:
    save_cascade(cascade, tmp_path)
    back = load_cascade(tmp_path)
    judged = world(seed=3)
    for value in (0.005, 0.05):
        assert (Replay(back, judged).at(value).ran_QS == Replay(cascade, judged).at(value).ran_QS).all()


def test_a_damaged_artefact_is_refused(cascade: FittedCascade, tmp_path: Path) -> None:
    save_cascade(cascade, tmp_path)
    (tmp_path / "cascade.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match="SHA-256"):
        load_cascade(tmp_path)
    with pytest.raises(ConfigError, match="cascade fit"):
        load_cascade(tmp_path / "elsewhere")


def test_the_card_says_what_it_is(cascade: FittedCascade, tmp_path: Path) -> None:
    save_cascade(cascade, tmp_path, metrics={"ece": 0.01})
    card = json.loads((tmp_path / "cascade.json").read_text())
    assert (card["stages"], card["metrics"]) == (list(STAGES), {"ece": 0.01})


def test_a_rule_covers_a_part_of_the_stages_in_their_order_only(cascade: FittedCascade) -> None:
    weak, strong = Arm("direct", ("weak",), Effort("off")), Arm("direct", ("strong",), Effort("on"))
    rules = CascadeRules(cascade)
    rules.check(Arm.cascade([weak, strong]))
    prices = ComputePrices(0.1)
    prediction = rules.bind(Arm.cascade([weak, strong]), Query("what is 3 and 4"), prices).prediction()
    assert 0.9 < prediction.quality.mean <= 1
    assert prediction.cost_usd is not None
    assert 0.004 < prediction.cost_usd.mean < 0.009
    with pytest.raises(ConfigError, match="in this order"):
        rules.check(Arm.cascade([strong, weak]))
