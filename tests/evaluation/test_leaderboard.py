"""The whole protocol on a world whose answer is known."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from thinkroute.errors import ConfigError, DataError
from thinkroute.evaluation.arena import arena_score
from thinkroute.evaluation.leaderboard import Protocol, evaluate, fits_planned
from thinkroute.evaluation.plots import plot_frontiers, plot_reliability
from thinkroute.evaluation.remember import RememberingEncoder
from thinkroute.evaluation.report import make_report, to_json, to_markdown, write_report
from thinkroute.evaluation.scores import Leaderboard, Report, SharedQuestions
from thinkroute.evaluation.splits import folds
from thinkroute.evaluation.tables import cut_rows, describe, detail_rows, task_rows, terminal_rows
from thinkroute.routers import OutcomeTable, TableRouter, constant, registry
from thinkroute.routers.base import RouterKind
from thinkroute.signals import fit_encoder
from thinkroute.signals.base import Encoder, EncoderState, Matrix, Scalar, Vector

SUBJECTS = {
    "sums": "What is the sum of {} and {}?",
    "verbs": "Conjugate verb number {} in tense {}.",
    "code": "def f(): return [{}, {}]",
}
SMALL: dict[str, Scalar] = {"buckets": 256, "components": 8}
COMPARED = ("constant", "best_single", "random_mix", "knn", "ridge")
PROTOCOL = Protocol(COMPARED, seeds=(0, 1), resamples=200, encoder_parameters=SMALL)


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
    coin = scores["constant"].apgr_interval
    assert coin is not None
    assert (coin.low, coin.high) == pytest.approx((0.5, 0.5))
    knn = scores["knn"]
    assert knn.apgr is not None
    assert knn.apgr_interval is not None
    assert 0.55 < knn.apgr_interval.low < knn.apgr_interval.mean < knn.apgr_interval.high
    assert knn.apgr_interval.mean == knn.apgr
    assert knn.apgr > 0.6
    assert knn.cpt50 is not None
    assert knn.cpt80 is not None
    assert knn.cpt50 < 0.5
    assert knn.cpt80 < 0.8


def test_unseen_tasks_are_harder() -> None:
    protocol = replace(PROTOCOL, routers=("knn",), split="task", seeds=(0, 1, 2))
    board = evaluate(world(), protocol, name="unseen")
    assert board.baselines.task_lookup is not None
    assert board.baselines.task_lookup.quality == pytest.approx(board.baselines.best_single.quality)


def test_the_same_seeds_give_the_same_numbers() -> None:
    protocol = replace(PROTOCOL, routers=("knn", "ridge"), seeds=(3,))
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
    written = write_report(report, tmp_path / "results" / "world", ["world.svg"])
    page, numbers = (path.read_text() for path in written)
    assert "`thinkroute evaluate world`" in page
    assert "![world](world.svg)" in page
    for name in ("oracle", "task lookup", "random mixing", "**knn**", "**ridge**"):
        assert f"| {name} |" in page
    tables = [block for block in page.split("\n\n") if block.startswith("|")]
    assert len(tables) == 3
    assert all(len({line.count("|") for line in block.splitlines()}) == 1 for block in tables)
    assert msgspec.json.decode(numbers, type=Report, strict=False).leaderboards[0].routers[3].router == "knn"


def test_what_is_undefined_is_null_in_json_and_never_in_markdown(board: Leaderboard) -> None:
    equal = board.routers[0].equal_cost
    assert equal is not None
    lame = msgspec.structs.replace(
        board.routers[0],
        cost_share=math.nan,
        equal_cost=msgspec.structs.replace(
            equal, cost_share=None, cost_share_low=None, cost_share_high=None, quality_gain=None
        ),
    )
    report = make_report([msgspec.structs.replace(board, routers=[lame])], "x")
    stored = json.loads(to_json(report))["leaderboards"][0]["routers"][0]
    assert stored["cost_share"] is stored["equal_cost"]["cost_share"] is None
    page = to_markdown(report)
    assert "| never [never, never] |" in page
    assert "nan" not in page


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


def test_every_router_stands_beside_the_baselines_that_look_like_routing(board: Leaderboard) -> None:
    """Subjects differ in length, so length alone beats one arm; the readers must beat length, too."""
    (length,) = board.baseline_routers
    assert length.router == "prompt_length"
    assert length.gain_over_prompt_length is None
    for router in board.routers:
        assert router.gain_over_prompt_length is not None
        assert router.gain_over_prompt_length.mean == pytest.approx(router.quality - length.quality)
        assert router.gain_over_task_lookup is not None
        assert board.baselines.task_lookup is not None
        lookup = board.baselines.task_lookup.quality
        assert router.gain_over_task_lookup.mean == pytest.approx(router.quality - lookup)
        rates = router.quality - router.random_at_equal_rates
        assert router.gain_over_equal_rates.mean == pytest.approx(rates)


def test_what_a_router_knows_shows_beyond_its_call_rates_and_as_entropy(board: Leaderboard) -> None:
    scores = {router.router: router for router in board.routers}
    assert scores["knn"].gain_over_equal_rates.low > 0.1
    mix = scores["random_mix"].gain_over_equal_rates
    assert mix.low < 0 < mix.high
    assert scores["best_single"].entropy_bits == 0
    assert scores["knn"].entropy_bits > 0.5


def test_equal_cost_and_equal_quality_come_with_intervals(board: Leaderboard) -> None:
    scores = {router.router: router for router in board.routers}
    best, knn = scores["best_single"].equal_cost, scores["knn"].equal_cost
    assert best is not None
    assert knn is not None
    assert best.quality_gain is not None
    assert knn.quality_gain is not None
    assert (best.quality_gain.low, best.quality_gain.high) == pytest.approx((0, 0))
    assert (best.cost_share_low, best.cost_share_high, best.reached) == pytest.approx((1, 1, 1))
    assert knn.quality_gain.low > 0
    assert None not in (knn.cost_share, knn.cost_share_low, knn.cost_share_high)
    assert knn.cost_share == scores["knn"].cost_share
    assert (knn.cost_share_low or 0) <= (knn.cost_share or 0) <= (knn.cost_share_high or 0) < 1


def test_predictions_of_readers_are_calibrated_and_the_sum_of_bins_is_every_cell(board: Leaderboard) -> None:
    for router in board.routers:
        assert sum(found.cells for found in router.calibration.bins) == board.tested_rows * len(board.arms)
    knn = next(router for router in board.routers if router.router == "knn")
    assert knn.calibration.ece < 0.08
    assert knn.calibration.brier < 0.15


def test_routerarenas_numbers_are_those_of_the_point_where_quality_counts(board: Leaderboard) -> None:
    best = next(router for router in board.routers if router.router == "best_single")
    assert best.arena is not None
    assert best.cost is not None
    assert best.arena.score == pytest.approx(arena_score(best.quality, best.cost * 1000))
    assert best.arena.optimal_accuracy == pytest.approx(best.quality / board.baselines.oracle.quality)
    # The dear arm is the only right one where the subject is code and now and then elsewhere.
    assert best.arena.optimal_selection is not None
    assert 0.1 < best.arena.optimal_selection < 0.6


def test_a_router_that_cannot_take_part_is_a_line_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(table: OutcomeTable, parameters: Mapping[str, Scalar], encoder: Encoder | None) -> TableRouter:
        raise ConfigError("needs more than this table has")

    def broken(table: OutcomeTable, parameters: Mapping[str, Scalar], encoder: Encoder | None) -> TableRouter:
        raise ZeroDivisionError("a mistake")

    known = dict(registry.ROUTERS)
    for name, fit in (("refusing", refuse), ("broken", broken)):
        known[name] = lambda fit=fit: RouterKind(fit=fit, restore=constant.restore, reads_text=False)
    monkeypatch.setattr(registry, "ROUTERS", known)
    protocol = replace(PROTOCOL, routers=("refusing", "constant", "broken"), keep_going=True)
    board = evaluate(world(), protocol, name="world")
    assert [router.router for router in board.routers] == ["constant"]
    reasons = {dropped.router: dropped.reason for dropped in board.not_judged}
    assert reasons == {
        "refusing": "needs more than this table has",
        "broken": "ZeroDivisionError: a mistake",
    }
    assert "Not judged: `broken`" in to_markdown(make_report([board], "x"))
    with pytest.raises(ConfigError, match="needs more"):
        evaluate(world(), replace(protocol, keep_going=False), name="world")


def test_a_router_over_the_time_limit_drops_out_before_the_next_fold() -> None:
    board = evaluate(world(), replace(PROTOCOL, fit_limit_s=0.0), name="world")
    assert board.routers == []
    assert len(board.not_judged) == len(COMPARED)
    assert all("the limit is 0 s" in dropped.reason for dropped in board.not_judged)


def test_a_new_arm_is_unknown_to_the_fit_and_a_few_outcomes_make_it_known() -> None:
    """Only the dear arm can code; hidden, nobody asks for it. Baselines must not know it either."""
    protocol = replace(PROTOCOL, routers=("knn", "best_single"), split="arm", seeds=(0,))
    blind = evaluate(world(), protocol, name="world")
    assert [name.split(",")[0] for name in blind.folds] == ["cheap", "mid", "dear"]
    assert set(blind.baselines.best_single_arms) == {"mid", "dear"}
    seen = evaluate(world(), replace(protocol, shots=40), name="world")
    for board in (blind, seen):
        assert board.tested_rows == 3 * 90
        assert board.baselines.oracle_new_arm_share == pytest.approx(1 / 3, abs=0.1)
    before, after = blind.routers[0], seen.routers[0]
    assert before.new_arm_share is not None
    assert after.new_arm_share is not None
    assert after.quality > before.quality
    assert next(r for r in blind.routers if r.router == "best_single").new_arm_share == 0


def test_every_task_is_unseen_once() -> None:
    board = evaluate(world(), replace(PROTOCOL, routers=("knn",), split="each-task"), name="world")
    assert board.folds == ["without code", "without sums", "without verbs"]
    assert board.tested_rows == board.queries


def test_two_named_arms_are_judged_as_a_pair_on_a_task_nothing_was_learned_from() -> None:
    protocol = replace(PROTOCOL, routers=("knn",), split="task", arms=("cheap", "dear"), unseen=("code",))
    board = evaluate(world(), protocol, name="world")
    assert [arm.arm for arm in board.arms] == ["cheap", "dear"]
    assert board.folds == ["without code"]
    assert board.tested_rows == sum(task == "code" for task in world().tasks)
    assert "without code" in describe(board)
    assert board.routers[0].apgr is not None
    with pytest.raises(DataError, match="no arm 'large'"):
        evaluate(world(), replace(protocol, arms=("large",)), name="world")


def test_quality_is_told_by_task_and_its_mean_over_rows_is_the_quality(board: Leaderboard) -> None:
    tested = np.concatenate([fold.test for fold in folds(world(), "iid", (0, 1))])
    count = Counter(world().tasks[int(row)] for row in tested)
    for score in board.routers:
        assert set(score.quality_by_task) == set(SUBJECTS)
        total = sum(score.quality_by_task[task] * count[task] for task in SUBJECTS)
        assert total / len(tested) == pytest.approx(score.quality)
    header, *lines = task_rows(board)
    assert header == ("", "code", "sums", "verbs", "mean of tasks")
    assert {len(line) for line in lines} == {5}
    assert "Quality by task" in to_markdown(make_report([board], "thinkroute evaluate"), [])


def test_batches_are_read_once_and_single_texts_every_time() -> None:
    inner = fit_encoder("hashed_ngrams", ("one", "two", "three"), SMALL)
    asked: list[str] = []

    class Counting:
        dimension = inner.dimension

        def encode(self, text: str) -> Vector:
            asked.append(text)
            return inner.encode(text)

        def encode_batch(self, texts: Sequence[str]) -> Matrix:
            return np.stack([self.encode(text) for text in texts])

        def state(self) -> EncoderState:
            return inner.state()

    encoder = RememberingEncoder(Counting())
    for texts in (("one", "two", "one"), ("three", "two"), ("one",)):
        np.testing.assert_array_equal(encoder.encode_batch(texts), inner.encode_batch(texts))
    assert asked == ["one", "two", "three"]
    np.testing.assert_array_equal(encoder.encode("one"), inner.encode("one"))
    assert asked[3:] == ["one"]
    assert (encoder.dimension, encoder.state().name) == (inner.dimension, "hashed_ngrams")


def test_resembling_questions_are_reported_and_can_be_left_out_of_training() -> None:
    table = world(60)
    story = "a farmer has {} sheep and sells them at the market for a good price to a man who likes wool"
    texts = tuple(story.format(f"number {row // 2}") + (" today" if row % 2 else "") for row in range(60))
    table = replace(table, texts=texts)
    protocol = replace(PROTOCOL, routers=("constant",), seeds=(0,))
    found = evaluate(table, protocol, name="sheep")
    # Half of the pairs straddle; the frame itself stands in every text and does not count.
    assert 0.3 < found.leakage.near_share < 1
    assert found.routers[0].gain_without_leaks is not None
    assert found.leakage.examples[0].learned != found.leakage.examples[0].tested
    clean = evaluate(table, replace(protocol, near_duplicates="drop"), name="sheep")
    assert (clean.leakage.near_share, clean.leakage.dropped) == (0, True)
    assert clean.routers[0].gain_without_leaks is None


def test_cut_prompts_are_counted_and_read_again_in_full() -> None:
    table = world()
    padding = "x " * 200
    texts = tuple(padding + text + padding if row % 4 == 0 else text for row, text in enumerate(table.texts))
    settings = {**SMALL, "head_bytes": 100, "tail_bytes": 100}
    protocol = replace(PROTOCOL, routers=("knn", "constant"), encoder_parameters=settings)
    board = evaluate(replace(table, texts=texts), protocol, name="long")
    knn, constant_score = board.routers
    assert constant_score.cut is None
    assert knn.cut is not None
    assert knn.cut.share == pytest.approx(0.25, abs=0.06)
    assert knn.cut.limit_bytes == 200
    assert knn.cut.changed_share is not None
    assert knn.cut.quality is not None
    header, *lines = cut_rows(board)
    assert [line[0] for line in lines] == ["knn"]
    assert len(header) == len(lines[0])


def test_rows_have_the_width_of_their_header_and_the_terminal_gets_80_columns(board: Leaderboard) -> None:
    for rows in (detail_rows(board), terminal_rows(board)):
        assert len({len(row) for row in rows}) == 1
    rows = terminal_rows(board)
    widest = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    longest_name = max(map(len, registry.ROUTERS))
    assert sum(widest[1:]) + longest_name + len(widest) - 1 <= 80


def test_planned_fits_are_those_that_are_made() -> None:
    seen: list[str] = []
    protocol = replace(PROTOCOL, routers=("constant", "best_single"))
    evaluate(world(), protocol, name="world", progress=seen.append)
    assert len(seen) == fits_planned(world(), protocol) == 4


def test_a_log_is_not_mistaken_for_a_table_that_can_be_replayed() -> None:
    table = world(40)
    quality = table.quality_QA.copy()
    quality[:, 1:] = np.nan
    quality[::2] = quality[::2, ::-1]
    log = replace(table, measured={"quality": quality}, propensity_QA=np.full(quality.shape, 0.5))
    with pytest.raises(DataError, match="evaluate-log"):
        evaluate(log, PROTOCOL, name="log")


def test_questions_shared_between_tables_are_listed(board: Leaderboard) -> None:
    report = make_report([board], "x", [SharedQuestions("one", "two", 3, 5, 100)])
    assert "| one | two | 3 | 5 | 100 |" in to_markdown(report)


def test_reliability_is_drawn(board: Leaderboard, tmp_path: Path) -> None:
    plot_reliability([board, board], tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert "predicted quality" in drawn
    assert "knn, ECE 0.0" in drawn
    with pytest.raises(ConfigError, match=r"\.svg, \.png"):
        plot_reliability([board], tmp_path / "plot.txt")
