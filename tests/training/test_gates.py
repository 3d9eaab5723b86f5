"""How campaigns are judged, and what their runs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from thinkroute.training import settings
from thinkroute.training.assemble import Run
from thinkroute.training.gates import CAMPAIGNS
from thinkroute.training.promises import (
    CODE,
    FORMULA,
    JUDGED,
    MASKED,
    UNMASKED,
    Reports,
    judge_adaptthink,
    judge_external,
    judge_formula,
    judge_fusion,
    judge_masking,
)
from thinkroute.training.stages import WARM_UP_PARTS


def masking(masked: float, unmasked: float, right: float = 0.98) -> Reports:
    def run(thinks: float) -> dict[int, Any]:
        before = {"warmed_up_thinks": 0.6, "warmed_up_right_hard": 0.97}
        return {0: {"oracle": {"thinks": thinks, "right_hard": right, **before}}}

    return {MASKED: run(masked), UNMASKED: run(unmasked)}


@pytest.mark.parametrize(
    ("masked", "unmasked", "right", "met"),
    [
        (0.62, 0.97, 0.98, [True, True, True]),
        (0.8, 0.97, 0.98, [False, True, True]),
        (0.62, 0.97, 0.9, [True, False, True]),
        (0.62, 0.7, 0.98, [True, True, False]),
    ],
)
def test_masking_keeps_the_decision_while_accuracy_rises_and_its_absence_collapses_it(
    masked: float, unmasked: float, right: float, met: list[bool]
) -> None:
    assert [verdict.met for verdict in judge_masking(masking(masked, unmasked, right))] == met


@pytest.mark.parametrize(
    ("formula", "code", "met"),
    [
        (0.6, 0.99, [True, True, True]),
        (0.0, 0.99, [False, True, True]),
        (0.9, 0.99, [True, False, True]),
        (0.6, 0.5, [True, True, False]),
    ],
)
def test_the_formula_s_plateau_needs_a_decision_that_moves_and_one_that_moves_on(
    formula: float, code: float, met: list[bool]
) -> None:
    """A run that learned nothing demonstrates nothing."""

    def run(at_level_1: float) -> dict[int, Any]:
        return {0: {"after": {"free": {"by_level": {"p_direct": {"1": at_level_1, "5": 0.1}}}}}}

    reports = {FORMULA: run(formula), CODE: run(code)}
    assert [verdict.met for verdict in judge_formula(reports)] == met


def test_adaptthink_s_point_of_accuracy_is_judged_by_the_worse_end_of_the_interval() -> None:
    report = {"against_thinking": {"easy_heavy": {"length_share": 0.49}}}
    for worse_end, met in ((-0.009, True), (-0.011, False)):
        arm = {
            "length_share": 0.48,
            "gain_over_thinking": [-0.005, worse_end, 0.001],
            "direct_by_level": [1.0, 1.0, 0.3, 0.0, 0.0],
        }
        compared = {JUDGED[0]: {0: {"dial": {"threshold": JUDGED[1], "easy_heavy": arm}}}}
        length, mean, accuracy, *_ = judge_adaptthink({JUDGED[0]: {0: report}}, compared)
        assert length.met
        assert mean.met
        assert accuracy.met is met


def test_the_variants_of_a_campaign_differ_in_what_their_labels_say() -> None:
    for method, label, name, value in (
        ("adaptthink", FORMULA, "ratio", "token"),
        ("adacot", MASKED, "masks_decision", True),
        ("adacot", UNMASKED, "masks_decision", False),
    ):
        [variant, *_] = [each for each in CAMPAIGNS[method].variants if each.label == label]
        config = settings.load(CAMPAIGNS[method].config, method, variant.overrides)
        assert getattr(config, name) == value


def fused(accuracy: list[float]) -> Reports:
    def mode(direct: float, right: float) -> dict[str, Any]:
        levels = {str(level): right for level in (1, 5)}
        return {"uniform": {"direct_share": direct, "accuracy": right}, "by_level": {"correct": levels}}

    after = {"/think": mode(0.0, 1.0), "free": mode(0.0, 1.0), "/no_think": mode(1.0, 1.0)}
    return {
        "fusion": {
            0: {"before": {"think": mode(0.0, 1.0)}, "after": after, "budgets": {"accuracy": accuracy}}
        }
    }


@pytest.mark.parametrize(
    ("curve", "ranked", "never_falls"),
    [
        ([0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99], True, True),
        ([0.61, 0.51, 0.6, 0.8, 0.95, 0.98, 0.985, 0.99], True, False),
        ([0.9, 0.5, 0.6, 0.8, 0.7, 0.98, 0.6, 0.99], False, False),
    ],
)
def test_a_budget_curve_is_judged_by_ranks_and_by_its_worst_fall(
    curve: list[float], ranked: bool, never_falls: bool
) -> None:
    *_, ranks, fall = judge_fusion(fused(curve), {})
    assert (ranks.met, fall.met) == (ranked, never_falls)


def test_without_the_ablation_s_runs_nothing_is_said_of_it() -> None:
    assert judge_masking({}) == []


def test_routing_from_outside_is_judged_by_the_worse_end_of_the_interval() -> None:
    better = {"gain_over_random_mix": [0.2, 0.1, 0.3], "gain_over_best_router": [0.02, -0.01, 0.05]}
    verdicts = judge_external({"delta=0.05": {0: {"easy_heavy": better}}}, "easy_heavy")
    assert [(verdict.measured, verdict.met) for verdict in verdicts] == [(0.1, True), (-0.01, False)]


@pytest.mark.parametrize("method", sorted(CAMPAIGNS))
def test_every_run_of_a_campaign_has_a_valid_configuration_and_a_folder_of_its_own(method: str) -> None:
    campaign = CAMPAIGNS[method]
    for variant in campaign.variants:
        loaded = settings.load(
            variant.config or campaign.config, method, {**variant.overrides, "seed": variant.seed}
        )
        assert loaded.seed == variant.seed
    names = [variant.name for variant in campaign.variants]
    assert len(set(names)) == len(names)


def warm_up_file(tmp_path: Path, **changes: object) -> Path:
    config = settings.load("adacot-fleet", "adacot", changes)
    run = Run(
        config, tmp_path / "run", *cast("tuple[Any, Any, Any, Any, Any]", (None,) * 5), references=tmp_path
    )
    return run.checkpoint("warm-up", WARM_UP_PARTS).path


def test_runs_that_differ_in_penalties_share_the_warm_up_and_others_do_not(tmp_path: Path) -> None:
    plain = warm_up_file(tmp_path)
    assert plain.parent == tmp_path
    assert warm_up_file(tmp_path, **{"penalties.miss": 0.9, "steps": 7}) == plain
    assert warm_up_file(tmp_path, flipped_labels=0.25) != plain
    assert warm_up_file(tmp_path, seed=1) != plain
