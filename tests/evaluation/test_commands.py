"""`thinkroute fit`, `evaluate` and `data`, as a user types them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from thinkroute.cli import data, evaluate, fit
from thinkroute.errors import ConfigError, DataError
from thinkroute.evaluation import leaderboard
from thinkroute.evaluation.outcomes import read_outcomes, write_outcomes
from thinkroute.routers import ROUTERS, OutcomeTable, fit_router, load_router, read_card, save_router
from thinkroute.routers.table import ArmInfo
from thinkroute.types import Price, Query

app = typer.Typer()
for command in (data, evaluate, fit):
    command.register(app)


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


QUICK = [part for name in ("constant", "knn", "ridge") for part in ("--router", name)]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    easy = np.arange(60) % 2
    chance = np.stack([0.1 + 0.8 * easy, np.full(60, 0.9)], axis=1)
    outcomes = OutcomeTable(
        query_ids=tuple(map(str, range(60))),
        texts=tuple(f"{'add' if e else 'integrate'} {rng.integers(99)}" for e in easy),
        arms=("small@off", "large@high"),
        measured={
            "quality": (rng.uniform(size=chance.shape) < chance).astype(np.float64),
            "cost_usd": np.tile([0.001, 0.02], (60, 1)),
        },
        tasks=tuple("add" if e else "integrate" for e in easy),
        notes={"licence": "MIT"},
    )
    write_outcomes(outcomes, tmp_path / "own.parquet")
    return tmp_path / "own.parquet"


def test_fit_saves_a_router_with_its_held_out_numbers(table: Path, tmp_path: Path) -> None:
    card = json.loads(run("fit", table, "-o", tmp_path / "r", "--set", "neighbours=5", "--json"))
    assert card["parameters"]["neighbours"] == 5
    assert card["notes"] == {"licence": "MIT"}
    assert 0 < card["metrics"]["held_out_quality"] <= card["metrics"]["held_out_quality_oracle"]
    calibration = card["calibration"]
    assert calibration["cells"] == sum(cells for _, _, cells in calibration["reliability"])
    gaps = [cells * abs(said - found) for said, found, cells in calibration["reliability"]]
    assert calibration["ece"] == pytest.approx(sum(gaps) / calibration["cells"])
    predictions = load_router(tmp_path / "r").predict(Query("add 7"), ("small@off", "large@high"))
    assert predictions["small@off"].quality.mean > 0.5


@pytest.mark.parametrize("router", ["constant", "best_single", "random_mix", "ridge"])
def test_fit_takes_every_router(table: Path, tmp_path: Path, router: str) -> None:
    out = run("fit", table, "-o", tmp_path / "r", "--router", router, "--no-check")
    assert router in out
    assert load_router(tmp_path / "r").name == router


def test_fit_says_why_a_router_could_not_be_judged(table: Path, tmp_path: Path) -> None:
    one = tmp_path / "one.parquet"
    write_outcomes(read_outcomes(table).select_arms(["small@off"]), one)
    assert "not judged: evaluation needs at least two arms" in " ".join(
        run("fit", one, "-o", tmp_path / "r").split()
    )
    assert read_card(tmp_path / "r").calibration is None


def test_a_new_arm_joins_a_fitted_graph_router_without_training(table: Path, tmp_path: Path) -> None:
    """Its column and its price are enough; the arms that were there are predicted as before."""
    outcomes = read_outcomes(table)
    newer = replace(
        outcomes.take(range(10)),
        arms=("small@off", "medium@on"),
        arm_info={"medium@on": ArmInfo("thinks a little", 14.0, Price(0.5, 1.0))},
    )
    write_outcomes(newer, tmp_path / "newer.parquet")
    quick = ("--router", "graph", "--set", "steps=3", "--set", "folds=2", "--no-check")
    run("fit", table, "-o", tmp_path / "old", *quick)
    out = run("fit", tmp_path / "newer.parquet", "-o", tmp_path / "new", "--join", tmp_path / "old")
    assert "joined: medium@on" in out
    old, new = load_router(tmp_path / "old"), load_router(tmp_path / "new")
    query = Query("add 7")
    before, after = old.predict(query, outcomes.arms), new.predict(query, (*outcomes.arms, "medium@on"))
    assert {arm: after[arm] for arm in before} == dict(before)
    assert after["medium@on"].basis == "fitted"
    assert after["medium@on"].cost_usd is not None
    with pytest.raises(ConfigError, match="knows small@off, large@high already"):
        run("fit", table, "-o", tmp_path / "again", "--join", tmp_path / "old")
    run("fit", table, "-o", tmp_path / "knn", "--router", "constant", "--no-check")
    with pytest.raises(ConfigError, match="router constant cannot take in an arm"):
        run("fit", tmp_path / "newer.parquet", "-o", tmp_path / "again", "--join", tmp_path / "knn")


def test_fit_joins_several_tables(table: Path, tmp_path: Path) -> None:
    other = table.with_name("other.parquet")
    write_outcomes(read_outcomes(table), other)
    card = json.loads(run("fit", table, other, "-o", tmp_path / "r", "--no-check", "--json"))
    assert card["rows"] == 120


def test_evaluate_prints_baselines_and_routers(table: Path) -> None:
    out = run("evaluate", table, *QUICK, "--seeds", "2")
    for word in ("oracle", "task lookup", "best single", "random mixing", "knn", "ridge", "AIQ"):
        assert word in out


def test_a_terminal_of_80_columns_gets_every_name_and_number_whole(table: Path) -> None:
    """A table of two arms has the most columns; nothing is cut off with an ellipsis."""
    out = run("evaluate", table, "--router", "matrix_factorisation", "--seeds", "1")
    assert "…" not in out
    rows = [line for line in out.splitlines() if "matrix_factorisation" in line or "CPT50" in line]
    assert len(rows[0]) <= 80
    for word in ("quality", "cost", "over best", "AIQ", "APGR", "CPT50", "CPT80", "µs"):
        assert word in out


def test_evaluate_writes_page_numbers_and_picture(table: Path, tmp_path: Path) -> None:
    out = run("evaluate", table, "--router", "knn", "--seeds", "1", "-o", tmp_path / "res" / "own", "--json")
    report = json.loads(out)
    assert [router["router"] for router in report["leaderboards"][0]["routers"]] == ["knn"]
    written = sorted(path.name for path in (tmp_path / "res").iterdir())
    assert written == ["own-reliability.svg", "own.json", "own.md", "own.svg"]
    run("evaluate", table, "--router", "knn", "--seeds", "1", "--plot", tmp_path / "p.png")
    assert (tmp_path / "p.png").is_file()


def test_evaluate_all_leaves_out_slow_routers_and_takes_every_other(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {name: ROUTERS[name] for name in ("constant", "best_single", "random_mix")}
    monkeypatch.setattr("thinkroute.routers.ROUTERS", known)
    monkeypatch.setattr(leaderboard, "SLOW_ROUTERS", frozenset({"random_mix"}))

    def judged(*arguments: str) -> list[str]:
        found = json.loads(run("evaluate", table, "--seeds", "1", "--json", *arguments))
        return [router["router"] for router in found["leaderboards"][0]["routers"]]

    assert judged("--all") == judged() == ["constant", "best_single"]
    assert judged("--all", "--slow") == ["constant", "best_single", "random_mix"]
    assert judged("--all", "--router", "random_mix") == ["constant", "best_single", "random_mix"]


def test_evaluate_takes_settings_of_one_router_and_of_the_encoder(table: Path) -> None:
    arguments = (
        "--router",
        "knn",
        "--seeds",
        "1",
        "--json",
        "--set",
        "neighbours=3",
        "--encoder-set",
        "buckets=64",
    )
    found = json.loads(run("evaluate", table, *arguments))
    assert [router["router"] for router in found["leaderboards"][0]["routers"]] == ["knn"]
    with pytest.raises(ConfigError, match="no setting 'k'"):
        run("evaluate", table, "--router", "knn", "--set", "k=3")


def test_evaluate_takes_several_tables_apart_or_together(table: Path) -> None:
    other = table.with_name("other.parquet")
    write_outcomes(read_outcomes(table), other)
    arguments = ("evaluate", table, other, "--router", "constant", "--seeds", "1", "--json")
    apart = json.loads(run(*arguments))
    assert [board["table"] for board in apart["leaderboards"]] == ["own", "other"]
    assert [shared["equal"] for shared in apart["shared_questions"]] == [60, 60]
    (board,) = json.loads(run(*arguments, "--together"))["leaderboards"]
    assert (board["table"], board["queries"]) == ("own + other", 120)


def test_evaluate_splits_by_new_arm_and_drops_near_duplicates(table: Path) -> None:
    arguments = ("--router", "best_single", "--seeds", "1", "--split", "arm", "--shots", "5", "--drop-near")
    (board,) = json.loads(run("evaluate", table, *arguments, "--json"))["leaderboards"]
    assert [fold.split(",")[0] for fold in board["folds"]] == ["small@off", "large@high"]
    assert board["leakage"]["dropped"] is True


def test_evaluate_judges_a_pair_on_a_task_nothing_was_learned_from(table: Path) -> None:
    arguments = ("--router", "constant", "--split", "task", "--unseen", "add", "--json")
    pair = ("--arm", "large@high", "--arm", "small@off")
    (board,) = json.loads(run("evaluate", table, *arguments, *pair))["leaderboards"]
    assert ([arm["arm"] for arm in board["arms"]], board["folds"]) == (
        ["large@high", "small@off"],
        ["without add"],
    )
    with pytest.raises(DataError, match="no task 'sort'"):
        run("evaluate", table, "--router", "constant", "--split", "task", "--unseen", "sort")


def test_a_decision_log_is_judged_without_asking_again(tmp_path: Path) -> None:
    """Half of the traffic explored: integrals need the large arm, and the log knows."""
    rng = np.random.default_rng(0)
    rows = 300
    hard = rng.integers(2, size=rows)
    called = (rng.uniform(size=rows) < 0.25).astype(int)
    quality, propensity = np.full((rows, 2), np.nan), np.tile([0.75, 0.25], (rows, 1))
    quality[np.arange(rows), called] = np.where((hard == 0) | (called == 1), 1.0, 0.0)
    cost = np.where(np.isnan(quality), np.nan, [0.001, 0.01])
    log = OutcomeTable(
        query_ids=tuple(map(str, range(rows))),
        texts=tuple(f"{'integrate' if h else 'add'} {n}" for n, h in enumerate(hard)),
        arms=("small@off", "large@high"),
        measured={"quality": quality, "cost_usd": cost},
        propensity_QA=propensity,
    )
    write_outcomes(log, tmp_path / "log.parquet")
    again = read_outcomes(tmp_path / "log.parquet")
    assert again.propensity_QA is not None
    assert not np.isnan(again.propensity_QA).any()
    saved = tmp_path / "saved"
    save_router(fit_router("best_single", again), saved)
    arguments = ("--saved", saved, "--folds", "2", "--clip", "3")
    log_file = tmp_path / "log.parquet"
    found = json.loads(run("evaluate-log", log_file, *arguments, "--router", "ridge", "--json"))
    scores = {target["name"]: target for target in found["targets"]}
    assert set(scores) == {"ridge", str(saved)}
    best = {
        estimate["method"]: estimate for estimate in scores[str(saved)]["quality"] if not estimate["clip"]
    }
    assert best["dr"]["low"] <= 1.0 <= best["dr"]["high"] + 1e-9
    assert scores[str(saved)]["quality_gain"]["low"] > 0.2
    shown = run("evaluate-log", log_file, *arguments, "--reward-model", "constant", "--value-usd", "0.1")
    for word in ("as logged", "IPS", "SNIPS", "DR, clip 3", "gain (DR)", "effective choices"):
        assert word in shown
    with pytest.raises(DataError, match="evaluate-log"):
        run("evaluate", log_file)


def test_the_gateways_own_log_is_read_through_its_configuration(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(f"store:\n  path: {tmp_path / 'decisions.db'}\n")
    with pytest.raises(DataError, match="no choice to estimate from: it is empty"):
        run("evaluate-log", "--config", config, "--router", "constant")


def test_misroutes_are_printed_and_stored(table: Path, tmp_path: Path) -> None:
    out = run("misroutes", table, "--router", "constant", "--router", "ridge", "-o", tmp_path / "mis")
    for word in ("constant", "ridge", "AUROC", "Weak arm small@off"):
        assert word in out
    stored = json.loads((tmp_path / "mis.json").read_text())
    coin = stored["routers"][0]
    assert coin["hard_to_weak"]["mean"] == pytest.approx(0.5)
    assert stored["origin"]["command"].startswith("thinkroute")
    assert "By domain" in (tmp_path / "mis.md").read_text()
    save_router(fit_router("constant", read_outcomes(table)), tmp_path / "saved")
    found = json.loads(run("misroutes", table, "--saved", tmp_path / "saved", "--json"))
    assert [router["router"] for router in found["routers"]] == [str(tmp_path / "saved")]


def test_data_shows_lists_and_converts(table: Path, tmp_path: Path) -> None:
    shown = json.loads(run("data", "show", table, "--json"))
    assert shown["queries"] == 60
    assert shown["arms"]["small@off"]["cost_usd"] == pytest.approx(0.001)
    assert "large@high" in run("data", "show", table)
    folder = tmp_path / "sets" / "bigmath-solverate"
    folder.mkdir(parents=True)
    (folder / "bigmath_solverate.csv.gz").write_bytes(_gzip("instruction,solve_rate,source\n1+1?,0.5,x\n"))
    listed = json.loads(run("data", "list", "--data", tmp_path / "sets", "--json"))
    assert [row["name"] for row in listed if row["here"]] == ["bigmath-solverate"]
    assert "bigmath" in run("data", "list")
    run("data", "convert", "all", "--data", tmp_path / "sets", "-o", tmp_path / "out")
    assert len(read_outcomes(tmp_path / "out" / "bigmath-solverate.parquet")) == 1


def _gzip(text: str) -> bytes:
    import gzip

    return gzip.compress(text.encode())


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("fit", "absent.parquet", "-o", "r"), DataError, "no such file"),
        (("fit", "TABLE", "-o", "TABLE"), ConfigError, "is a file: a router is a folder"),
        (("fit", "TABLE", "-o", "r", "--router", "oracle"), ConfigError, "unknown router 'oracle'"),
        (("fit", "TABLE", "-o", "r", "--set", "neighbours"), ConfigError, "name=value"),
        (("fit", "TABLE", "-o", "r", "--encoder", "bert"), ConfigError, "unknown encoder 'bert'"),
        (("evaluate", "TABLE", "--split", "weird"), ConfigError, "iid, task, each-task, arm, source"),
        (("evaluate", "TABLE", "--router", "x"), ConfigError, "unknown router 'x'"),
        (("evaluate", "TABLE", "TABLE"), ConfigError, "same name"),
        (("evaluate", "TABLE", "--all", "--set", "neighbours=3"), ConfigError, "for one router"),
        (("evaluate", "TABLE", "--router", "knn", "--slow"), ConfigError, "give --all"),
        (("evaluate", "TABLE", "--shots", "3"), ConfigError, "--split arm, where an arm is new"),
        (("evaluate", "TABLE", "--router", "knn", "--plot", "x.gif"), ConfigError, "x.gif: use one of .svg"),
        (("evaluate", "TABLE", "--arm", "small@off"), DataError, "own: evaluation needs at least two arms"),
        (("evaluate",), ConfigError, "nothing to evaluate"),
        (("evaluate", "--data", "nowhere"), ConfigError, "nowhere holds none of llmrouter-9llm, "),
        (("fit", "some-set", "-o", "r"), DataError, "'some-set' is neither a file nor one of the data sets"),
        (("fit", "ungraded.parquet", "-o", "r", "--no-check"), DataError, "ungraded.parquet: cannot fit"),
        (("fit", "routerdc-7llm", "-o", "r", "--data", "d"), DataError, "put its files there .*RouterDC"),
        (("fit", "routerbench-11llm", "-o", "r", "--data", "d"), DataError, "`thinkroute data fetch"),
        (("evaluate-log", "TABLE", "--router", "knn"), DataError, "no column 'propensity'"),
        (("evaluate-log", "TABLE"), ConfigError, "which policy"),
        (("data", "convert", "nothing", "-o", "x", "--data", "."), ConfigError, "unknown data set"),
        (("data", "fetch", "routerdc-7llm"), ConfigError, "--data"),
        (("data", "convert", "all", "-o", "x"), ConfigError, "--data"),
    ],
)
def test_mistakes_are_answered_with_the_fix(
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    error: type[Exception],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("THINKROUTE_DATA", raising=False)
    outcomes = read_outcomes(table)
    nothing = {**outcomes.measured, "quality": np.full_like(outcomes.quality_QA, np.nan)}
    write_outcomes(replace(outcomes, measured=nothing), tmp_path / "ungraded.parquet")
    with pytest.raises(error, match=words):
        run(*(table if argument == "TABLE" else argument for argument in arguments))
    assert not (tmp_path / "r").exists()
