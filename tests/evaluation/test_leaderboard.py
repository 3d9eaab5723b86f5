"""The whole protocol on a world whose answer is known."""

import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from thinkroute.errors import ConfigError, DataError
from thinkroute.evaluation.leaderboard import Protocol, evaluate
from thinkroute.evaluation.plots import plot_frontiers
from thinkroute.evaluation.report import make_report, to_json, to_markdown, write_report
from thinkroute.evaluation.scores import Leaderboard, Report
from thinkroute.routers import ROUTERS, OutcomeTable

SUBJECTS = {
    "sums": "What is the sum of {} and {}?",
    "verbs": "Conjugate verb number {} in tense {}.",
    "code": "def f(): return [{}, {}]",
}
PROTOCOL = Protocol(tuple(ROUTERS), seeds=(0, 1), resamples=200)


def world(rows: int = 300, *, missing: float = 0.0, costs: bool = True) -> OutcomeTable:
    """`cheap` always knows sums, `mid` knows verbs too, `dear` knows everything 9 times in 10."""
    rng = np.random.default_rng(0)
    tasks = [list(SUBJECTS)[i % 3] for i in range(rows)]
    knows = {"sums": (1.0, 1.0, 0.9), "verbs": (0.0, 1.0, 0.9), "code": (0.1, 0.1, 0.9)}
    chance = np.array([knows[task] for task in tasks])
    quality = (rng.uniform(size=chance.shape) < chance).astype(np.float64)
    quality[rng.uniform(size=chance.shape) < missing] = np.nan
    cost = np.tile([0.001, 0.01, 0.1], (rows, 1)) * rng.uniform(0.8, 1.2, (rows, 1))
    return OutcomeTable(
        query_ids=tuple(map(str, range(rows))),
        texts=tuple(SUBJECTS[t].format(rng.integers(999), rng.integers(999)) for t in tasks),
        arms=("cheap", "mid", "dear"),
        measured={"quality": quality, "cost_usd": cost} if costs else {"quality": quality},
        tasks=tuple(tasks),
        finish_QA=np.where(quality == 1, "stop", "length"),
        notes={"cost_basis": "measured"},
    )


@pytest.fixture(scope="module")
def board() -> Leaderboard:
    return evaluate(world(), PROTOCOL, name="world")


def test_no_router_beats_the_oracle_and_every_reader_beats_the_best_single_arm(board: Leaderboard) -> None:
    for router in board.routers:
        assert router.quality <= board.baselines.oracle.quality + 1e-12
        for point in router.frontier:
            assert point.quality <= board.baselines.oracle.quality + 1e-12
    scores = {router.router: router for router in board.routers}
    for name in ("knn", "ridge"):
        assert scores[name].gain_over_best_single.low > 0
        aiq_gain, share = scores[name].aiq_gain_over_zero_router, scores[name].cost_share
        assert aiq_gain is not None
        assert aiq_gain.low > 0
        assert share is not None
        assert share < 0.5


def test_constants_stand_on_the_line_of_the_single_arms(board: Leaderboard) -> None:
    scores = {router.router: router for router in board.routers}
    best, constant = scores["best_single"], scores["constant"]
    assert best.quality == board.baselines.best_single.quality
    assert (best.gain_over_best_single.mean, best.gain_over_best_single.low) == (0, 0)
    assert best.cost_share == pytest.approx(1.0)
    assert best.entropy_bits == 0
    assert constant.aiq is not None
    assert constant.aiq.mean == pytest.approx(board.baselines.zero_router_aiq, abs=0.01)


def test_random_mix_lies_on_or_under_the_chord_of_single_arms(board: Leaderboard) -> None:
    mix = next(router for router in board.routers if router.router == "random_mix")
    assert mix.random_at_equal_cost is not None
    assert mix.quality <= mix.random_at_equal_cost + 0.03
    assert mix.quality == pytest.approx(mix.random_at_equal_rates, abs=0.05)


def test_baselines_are_what_their_names_say(board: Leaderboard) -> None:
    base = board.baselines
    assert base.best_single_arms == ["dear"]
    assert base.best_single_hindsight_arm == "dear"
    assert base.task_lookup is not None
    assert base.best_single.quality < base.task_lookup.quality <= base.oracle.quality
    assert base.random.quality == pytest.approx(np.mean([arm.quality for arm in board.arms]))
    assert base.truncation_rate == pytest.approx(1 - base.best_single.quality)
    costs = [arm.cost for arm in board.arms]
    assert (board.cost_low, board.cost_high) == (costs[0], costs[2])
    assert board.tested_rows == 180


def test_missing_cells_and_missing_costs_are_no_obstacle() -> None:
    sparse = evaluate(world(missing=0.3), PROTOCOL, name="sparse")
    assert sparse.missing_share == pytest.approx(0.3, abs=0.05)
    assert all(0 <= router.quality <= sparse.baselines.oracle.quality for router in sparse.routers)
    free = evaluate(world(costs=False), PROTOCOL, name="free")
    assert free.cost_unit is None
    assert all(router.aiq is None and router.cost is None and not router.frontier for router in free.routers)


def test_two_arm_tables_have_the_pair_metrics() -> None:
    board = evaluate(world().select_arms(["cheap", "dear"]), PROTOCOL, name="pair")
    scores = {router.router: router for router in board.routers}
    assert scores["constant"].apgr == pytest.approx(0.5)
    knn = scores["knn"]
    assert knn.apgr is not None
    assert knn.apgr > 0.6
    assert knn.cpt50 is not None
    assert knn.cpt80 is not None
    assert knn.cpt50 < 0.5
    assert knn.cpt80 < 0.8


def test_unseen_tasks_are_harder() -> None:
    protocol = Protocol(("knn",), split="task", seeds=(0, 1, 2), resamples=50)
    board = evaluate(world(), protocol, name="unseen")
    assert board.baselines.task_lookup is not None
    assert board.baselines.task_lookup.quality == pytest.approx(board.baselines.best_single.quality)


def test_the_same_seeds_give_the_same_numbers() -> None:
    protocol = Protocol(("knn", "ridge"), seeds=(3,), resamples=50)
    one, two = (evaluate(world(), protocol, name="world") for _ in range(2))
    for left, right in zip(one.routers, two.routers, strict=True):
        assert (left.quality, left.aiq, left.gain_over_best_single) == (
            right.quality,
            right.aiq,
            right.gain_over_best_single,
        )


def test_a_table_of_one_arm_is_refused() -> None:
    with pytest.raises(DataError, match="at least two arms"):
        evaluate(world().select_arms(["mid"]), PROTOCOL, name="one")


def test_a_report_says_how_to_get_it_again_and_reads_back(board: Leaderboard, tmp_path: Path) -> None:
    report = make_report([board], "thinkroute evaluate world")
    written = write_report(report, tmp_path / "results" / "world", "world.svg")
    page, numbers = (path.read_text() for path in written)
    assert "`thinkroute evaluate world`" in page
    assert "![Cost–quality frontiers](world.svg)" in page
    for name in ("oracle", "task lookup", "random mixing", "**knn**", "**ridge**"):
        assert f"| {name} |" in page
    rows = [line.count("|") for line in page.splitlines() if line.startswith("|")]
    assert len(set(rows)) == 1
    assert msgspec.json.decode(numbers, type=Report, strict=False).leaderboards[0].routers[3].router == "knn"


def test_what_is_undefined_is_null_in_json_and_never_in_markdown(board: Leaderboard) -> None:
    lame = msgspec.structs.replace(board.routers[0], cost_share=math.nan)
    report = make_report([msgspec.structs.replace(board, routers=[lame])], "x")
    assert json.loads(to_json(report))["leaderboards"][0]["routers"][0]["cost_share"] is None
    assert "| never |" in to_markdown(report)


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_frontiers_are_drawn(board: Leaderboard, tmp_path: Path, suffix: str) -> None:
    plot_frontiers([board, board], tmp_path / f"plot{suffix}")
    raw = (tmp_path / f"plot{suffix}").read_bytes()
    if suffix == ".png":
        assert raw.startswith(b"\x89PNG")
        return
    for label in ("knn", "ridge", "oracle", "random mixing of single arms", "mean quality"):
        assert label in raw.decode()


def test_equal_results_give_equal_pictures(board: Leaderboard, tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg"):
        plot_frontiers([board], tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_what_cannot_be_drawn_is_refused(board: Leaderboard, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.svg, \.png"):
        plot_frontiers([board], tmp_path / "plot.txt")
    with pytest.raises(ConfigError, match="no table has costs"):
        plot_frontiers([msgspec.structs.replace(board, cost_unit=None)], tmp_path / "plot.svg")
