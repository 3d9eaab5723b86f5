"""Commands as users type them, in process, on the embedded fleet."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from thinkroute.cli.main import main
from thinkroute.fleet.tasks import EXAMPLES
from thinkroute.testing import FakeUpstream, Reply

EASY = "Who is the tutor of Dora?"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of the test's own, and a wide terminal."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path


def thinkroute(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command line; exit code, standard output, standard error."""
    old = sys.argv
    sys.argv = ["thinkroute", *arguments]
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = old
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = thinkroute(capsys, "--help")
    assert code == 0
    for word in (
        "serve",
        "ask",
        "explain",
        "collect",
        "fit",
        "evaluate",
        "data",
        "config",
        "fleet",
        "--upstream",
    ):
        assert word in out


def test_ask_shows_thinking_answer_and_card_and_explain_shows_the_card_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = thinkroute(capsys, "ask", EASY, "--to", "student@on")
    assert code == 0
    assert "dora: tutor" in out
    assert "the person we are looking for is" in out
    assert "served student@on (pinned" in " ".join(err.split())
    code, out, _ = thinkroute(capsys, "explain", "last")
    assert code == 0
    assert "served student@on (pinned" in " ".join(out.split())
    assert "$" in out


def test_ask_as_json_holds_texts_and_decision(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = thinkroute(capsys, "ask", EASY, "--to", "student@off", "--json")
    assert code == 0
    said = json.loads(out)
    assert said["reasoning"] == ""
    assert said["answer"].startswith("after all the steps")
    assert said["decision"]["arm_id"] == "student@off"
    assert said["decision"]["legs"][0]["provenance"] == "counted"


def test_a_question_outside_the_fleets_language_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = thinkroute(capsys, "ask", "What is the capital of France?")
    assert code == 2
    assert out == ""
    assert EXAMPLES[0] in err
    assert "thinkroute serve --upstream" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ask", EASY, "--to", "studnt"], "did you mean 'student'?"),
        (["ask", EASY, "--effort", "extreme"], "must be one of none, minimal"),
        (["explain", "dec_none"], "no decision 'dec_none'"),
        (["serve", "--config", "missing.yaml"], "cannot read configuration missing.yaml"),
        (["serve", "--host", "0.0.0.0", "--port", "0"], "set server.api_keys"),  # noqa: S104
        (["serve", "--upstream", "http://127.0.0.1:1/v1"], "is it running"),
        (["serve", "--model", "x"], "--model goes with --upstream"),
        (["collect", "-o", "x.parquet"], "give a question file, or --fleet N"),
        (["collect", "--fleet", "1", "--arm", "nobody", "-o", "x.parquet"], "no arm 'nobody'"),
        (["export", "-o", "x.parquet"], "send feedback"),
        (["fit", "missing.parquet", "-o", "x"], "missing.parquet"),
    ],
)
def test_errors_are_one_message_with_the_fix_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    code, _, err = thinkroute(capsys, *arguments)
    assert code == 2
    assert said in err.replace("\n", " ")
    assert "Traceback" not in err


def test_config_is_validated_shown_and_described(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("models: {qwen3: {url: 'http://127.0.0.1:8000/v1', api_key: '${KEY}'}}", encoding="utf-8")
    bad.write_text("polcy: {}", encoding="utf-8")
    monkeypatch.setenv("KEY", "canary")
    assert thinkroute(capsys, "config", "validate", str(good))[0] == 0
    code, _, err = thinkroute(capsys, "config", "validate", str(bad))
    assert code == 2
    assert "did you mean `policy`?" in err
    code, out, _ = thinkroute(capsys, "config", "show", str(good), "--json")
    assert code == 0
    assert [arm["arm"] for arm in json.loads(out)["arms"]] == ["qwen3@off", "qwen3@on"]
    assert "canary" not in out
    code, out, _ = thinkroute(capsys, "config", "schema")
    assert json.loads(out)["properties"]["policy"]


def test_outcomes_are_collected_resumed_fitted_and_served(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    table, router = str(tmp_path / "outcomes.parquet"), str(tmp_path / "router")
    arms = ["--arm", "student@off", "--arm", "teacher@on"]
    code, out, _ = thinkroute(capsys, "collect", "--fleet", "30", *arms, "-o", table, "--json")
    assert code == 0
    summary = json.loads(out)
    quality = {arm["arm"]: arm["quality"] for arm in summary["arms"]}
    assert quality["teacher@on"] > quality["student@off"]
    assert summary["spent_usd"] > 0
    code, out, _ = thinkroute(capsys, "collect", "--fleet", "30", *arms, "-o", table, "--json")
    assert json.loads(out)["spent_usd"] == pytest.approx(summary["spent_usd"]), (
        "a finished run asks nothing again"
    )
    code, _, err = thinkroute(capsys, "explain", "last")
    assert code == 2
    assert "the log holds no decision yet" in err, "collecting leaves the decision log alone"
    assert thinkroute(capsys, "fit", table, "-o", router, "--no-check")[0] == 0
    config = tmp_path / "config.yaml"
    config.write_text(f"router: {{path: {router}}}\narms: [student@off, teacher@on]", encoding="utf-8")
    code, out, _ = thinkroute(capsys, "ask", EASY, "-c", str(config), "--json")
    assert code == 0
    assert json.loads(out)["decision"]["router"].startswith("guarded_knn:")


def test_a_spend_cap_stops_collecting_and_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = str(tmp_path / "outcomes.parquet")
    code, out, _ = thinkroute(
        capsys, "collect", "--fleet", "30", "--concurrency", "1", "--max-usd", "0.02", "-o", table, "--json"
    )
    assert code == 0
    summary = json.loads(out)
    assert 0 < summary["spent_usd"] <= 0.02
    assert summary["unasked"] > 0


def test_an_upstream_is_asked_for_its_models(capsys: pytest.CaptureFixture[str]) -> None:
    async def ask() -> tuple[int, str, str]:
        async with FakeUpstream(Reply("Hi there."), models=("qwen3-tiny",)) as upstream:
            return await asyncio.to_thread(
                thinkroute, capsys, "ask", "Hello?", "--upstream", upstream.base_url, "--json"
            )

    code, out, err = asyncio.run(ask())
    assert code == 0, err
    said: dict[str, Any] = json.loads(out)
    assert said["answer"] == "Hi there."
    assert said["decision"]["models"] == ["qwen3-tiny"]
    assert said["decision"]["cost_usd"] is None, "a price nobody gave is unknown, not zero"
