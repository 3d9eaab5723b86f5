"""The whole way on the embedded fleet: ask, learn from what answers say of themselves, serve, and look at the card."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from typer.testing import CliRunner

from thinkroute.cli.collect import fleet_questions
from thinkroute.cli.main import app
from thinkroute.config import Config
from thinkroute.evaluation.cascade_files import read_answers
from thinkroute.fleet.tasks import grade
from thinkroute.gateway.assemble import assemble
from thinkroute.gateway.converse import converse
from thinkroute.gateway.recording import card, to_record
from thinkroute.routers.cascade import CascadeSettings, fit_cascade, save_cascade
from thinkroute.routers.cascade.features import FEATURES
from thinkroute.routers.prior import PriorRouter

STAGES = ("student@off", "teacher@on")
ARM = f"cascade({STAGES[0]} -> {STAGES[1]})"


def test_collect_fit_and_serve_a_cascade_on_the_fleet(tmp_path: Path) -> None:
    table = tmp_path / "fleet.parquet"
    asked = ["collect", "--fleet", "90", "--features", "--samples", "1", "--json", "-o", str(table)]
    done = CliRunner().invoke(app, [*asked, *(part for stage in STAGES for part in ("--arm", stage))])
    assert done.exit_code == 0, done.output
    answers = read_answers(table)
    assert answers.feature_QAF.shape == (90, 2, len(FEATURES))
    assert (answers.feature_QAF[:, 0, FEATURES.index("answer_least_logprob")] <= 0).all()
    assert (answers.feature_QAF[:, 1, FEATURES.index("agreement")] >= 0).all()
    settings = CascadeSettings(router="ridge", trees=4, encoder_parameters={"buckets": 64, "components": 8})
    save_cascade(fit_cascade(answers, STAGES, settings), tmp_path / "cascade")

    written = {"arms": [ARM], "cascade": {"path": str(tmp_path / "cascade")}, "store": {"path": "memory"}}
    right, features = asyncio.run(_served(Config.model_validate(written)))
    assert right >= 9
    assert features > 0


async def _served(config: Config) -> tuple[float, int]:
    """Right answers to twelve questions, and how many stages were looked at."""
    runtime = assemble(config, router=PriorRouter([]))
    await runtime.start()
    right, looked_at = 0.0, 0
    try:
        for question in fleet_questions(12, 5, "eval"):
            body = {"model": "auto", "messages": [{"role": "user", "content": question.text}]}
            exchange = await converse(runtime, json.dumps(body).encode(), lambda delta: None)
            assert exchange.cascade is not None
            assert exchange.cascade.accepted in STAGES
            right += grade(question.text, exchange.answer_text)
            stages = card(to_record(exchange, log_content=False))["stages"]
            assert {stage["arm_id"] for stage in stages} <= set(STAGES)
            looked_at += sum("answer_least_logprob" in stage["features"] for stage in stages)
    finally:
        await runtime.aclose()
    return right, looked_at
