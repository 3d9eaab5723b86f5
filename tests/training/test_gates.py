"""How campaigns are judged, and what their runs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from thinkroute.training import settings
from thinkroute.training.assemble import Run
from thinkroute.training.gates import CAMPAIGNS, MASKED, UNMASKED, Reports, judge_external, judge_masking
from thinkroute.training.stages import WARM_UP_PARTS


def masking(masked: float, unmasked: float) -> Reports:
    def run(thinks: float) -> dict[int, Any]:
        return {0: {"oracle": {"thinks": thinks, "warmed_up": 0.6}}}

    return {MASKED: run(masked), UNMASKED: run(unmasked)}


@pytest.mark.parametrize(
    ("masked", "unmasked", "met"),
    [(0.62, 0.97, [True, True]), (0.8, 0.97, [False, True]), (0.62, 0.7, [True, False])],
)
def test_masking_keeps_the_decision_and_its_absence_collapses_it(
    masked: float, unmasked: float, met: list[bool]
) -> None:
    assert [verdict.met for verdict in judge_masking(masking(masked, unmasked))] == met


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
        loaded = settings.load(campaign.config, method, {**variant.overrides, "seed": variant.seed})
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
