"""`thinkroute signals`: what a user sees, and that what is shipped can be made."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from thinkroute.cli.main import app
from thinkroute.errors import ConfigError
from thinkroute.signals.semantic import LABELS


def run(*arguments: str, given: str | None = None) -> str:
    result = CliRunner().invoke(app, ["signals", *arguments], input=given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_explaining_a_text_shows_every_signal_and_what_thinking_should_bring() -> None:
    shown = run("explain", "Write a Python function that sorts a list")
    assert all(label in shown for label in LABELS)
    assert "thinking tokens" in shown


def test_json_holds_the_same_and_nothing_else() -> None:
    card = json.loads(run("explain", "--json", "What is the derivative of x^3?"))
    assert [signal["name"] for signal in card["signals"]] == list(LABELS)
    assert {signal["answer"] for signal in card["signals"]} <= {"yes", "no", "unknown"}
    assert card["prior"]["off"]["quality"] <= card["prior"]["high"]["quality"]
    assert 0 < card["need"]["difficulty"] < 1


def test_a_dash_reads_standard_input() -> None:
    text = "Prove that the square root of two is irrational."
    assert run("explain", "--json", "-", given=text) == run("explain", "--json", text)


def test_an_unfamiliar_text_is_said_to_be_so() -> None:
    assert "unlike the training texts" in " ".join(run("explain", "").split())


def test_making_what_is_shipped_without_data_or_model_says_what_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("THINKROUTE_DATA", raising=False)
    with pytest.raises(ConfigError, match="--data"):
        run("train")
    with pytest.raises(ConfigError, match="--data"):
        run("distil")
    with pytest.raises(ConfigError, match=r"model\.safetensors is missing"):
        run("export-minilm", "-o", str(tmp_path / "out"), "--model", str(tmp_path))
