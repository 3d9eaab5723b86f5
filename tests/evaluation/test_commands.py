"""`thinkroute fit`, `evaluate` and `data`, as a user types them."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from thinkroute.cli import data, evaluate, fit
from thinkroute.errors import ConfigError, DataError
from thinkroute.evaluation.outcomes import read_outcomes, write_outcomes
from thinkroute.routers import OutcomeTable, load_router
from thinkroute.types import Query

app = typer.Typer()
for command in (data, evaluate, fit):
    command.register(app)


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


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
    predictions = load_router(tmp_path / "r").predict(Query("add 7"), ("small@off", "large@high"))
    assert predictions["small@off"].quality.mean > 0.5


@pytest.mark.parametrize("router", ["constant", "best_single", "random_mix", "ridge"])
def test_fit_takes_every_router(table: Path, tmp_path: Path, router: str) -> None:
    out = run("fit", table, "-o", tmp_path / "r", "--router", router, "--no-check")
    assert router in out
    assert load_router(tmp_path / "r").name == router


def test_fit_joins_several_tables(table: Path, tmp_path: Path) -> None:
    other = table.with_name("other.parquet")
    write_outcomes(read_outcomes(table), other)
    card = json.loads(run("fit", table, other, "-o", tmp_path / "r", "--no-check", "--json"))
    assert card["rows"] == 120


def test_evaluate_prints_baselines_and_routers(table: Path) -> None:
    out = run("evaluate", table, "--all", "--seeds", "2")
    for word in ("oracle", "task lookup", "best single", "random mixing", "knn", "ridge", "AIQ"):
        assert word in out


def test_evaluate_writes_page_numbers_and_picture(table: Path, tmp_path: Path) -> None:
    out = run("evaluate", table, "--router", "knn", "--seeds", "1", "-o", tmp_path / "res" / "own", "--json")
    report = json.loads(out)
    assert [router["router"] for router in report["leaderboards"][0]["routers"]] == ["knn"]
    assert sorted(path.name for path in (tmp_path / "res").iterdir()) == ["own.json", "own.md", "own.svg"]
    run("evaluate", table, "--router", "knn", "--seeds", "1", "--plot", tmp_path / "p.png")
    assert (tmp_path / "p.png").is_file()


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
        (("fit", "TABLE", "-o", "r", "--router", "oracle"), ConfigError, "unknown router 'oracle'"),
        (("fit", "TABLE", "-o", "r", "--set", "neighbours"), ConfigError, "name=value"),
        (("fit", "TABLE", "-o", "r", "--encoder", "bert"), ConfigError, "unknown encoder 'bert'"),
        (("evaluate", "TABLE", "--split", "weird"), ConfigError, "iid, task, source"),
        (("evaluate", "TABLE", "--router", "x"), ConfigError, "unknown router 'x'"),
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
    with pytest.raises(error, match=words):
        run(*(table if argument == "TABLE" else argument for argument in arguments))
    assert not (tmp_path / "r").exists()
