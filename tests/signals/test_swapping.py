"""Swapping the encoder is one option: the same command fits, saves and loads a router on each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from thinkroute.cli.main import app
from thinkroute.evaluation.outcomes import write_outcomes
from thinkroute.routers import OutcomeTable, load_router
from thinkroute.types import Query


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms, one of which fails on long questions."""
    rng = np.random.default_rng(0)
    texts = tuple(f"question {row}: " + "add one and then " * (1 + row % 6) for row in range(60))
    long_Q = np.array([row % 6 > 2 for row in range(60)])
    quality = np.stack([rng.random(60) < np.where(long_Q, 0.1, 0.9), rng.random(60) < 0.9], axis=1).astype(
        float
    )
    table = OutcomeTable(
        tuple(f"q{row}" for row in range(60)), texts, ("small@off", "large@off"), {"quality": quality}
    )
    path = tmp_path_factory.mktemp("outcomes") / "outcomes.parquet"
    write_outcomes(table, path)
    return path


@pytest.mark.parametrize("encoder", ["hashed_ngrams", "static", "blend"])
def test_one_option_swaps_the_encoder(encoder: str, outcomes: Path, tmp_path: Path) -> None:
    command = [
        "fit",
        str(outcomes),
        "-o",
        str(tmp_path),
        "--router",
        "ridge",
        "--no-check",
        "--encoder",
        encoder,
    ]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "router.json").read_text(encoding="utf-8"))["encoder"]["name"] == encoder
    router = load_router(tmp_path)
    short, long = (Query("question: " + "add one and then " * times) for times in (1, 6))
    gaps = [
        predicted["large@off"].quality.mean - predicted["small@off"].quality.mean
        for predicted in (router.predict(query, router.arms) for query in (short, long))
    ]
    assert gaps[0] < gaps[1]
