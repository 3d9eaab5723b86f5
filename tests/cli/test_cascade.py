"""`thinkroute cascade` from tables to a fitted, judged artefact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.routers.cascade.worlds import STAGES, world
from thinkroute.cli.main import app
from thinkroute.errors import ConfigError, DataError
from thinkroute.evaluation.cascade_files import write_answers
from thinkroute.evaluation.outcomes import write_outcomes


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    fit, judged = tmp_path / "fit.parquet", tmp_path / "eval.parquet"
    write_answers(world(200), fit)
    write_answers(world(100, seed=1), judged)
    return fit, judged


def test_a_fitted_cascade_is_judged_beside_routers_of_the_question_alone(
    tables: tuple[Path, Path], tmp_path: Path
) -> None:
    fit, judged = tables
    folder = tmp_path / "cascade"
    stages = [part for stage in STAGES for part in ("--stage", stage)]
    done = CliRunner().invoke(
        app, ["cascade", "fit", str(fit), "-o", str(folder), "--router", "ridge", *stages]
    )
    assert done.exit_code == 0, done.output
    assert "weak@off -> useless@off -> strong@on" in done.output
    asked = ["cascade", "evaluate", str(folder), "--fit", str(fit), "--eval", str(judged), "--json"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    report = json.loads(done.output)
    assert (report["queries"], report["reference"]) == (100, "strong@on")
    assert all(line["quality_gain"]["low"] > 0 for line in report["query_routers"])


def test_a_table_without_features_says_how_to_get_them(tmp_path: Path) -> None:
    write_outcomes(world(80).table, tmp_path / "plain.parquet")
    done = CliRunner().invoke(
        app, ["cascade", "fit", str(tmp_path / "plain.parquet"), "-o", str(tmp_path / "c")]
    )
    assert isinstance(done.exception, DataError)
    assert "--features" in done.exception.message


def test_settings_and_samples_are_checked(tables: tuple[Path, Path], tmp_path: Path) -> None:
    for wrong in (["--set", "trees_=3"], ["--samples", "nobody=2"], ["--stage", "weak@off"]):
        done = CliRunner().invoke(app, ["cascade", "fit", str(tables[0]), "-o", str(tmp_path / "c"), *wrong])
        assert isinstance(done.exception, ConfigError), wrong
