"""The command line: what it lists, what it refuses, what its help teaches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from thinkroute.cli.main import app
from thinkroute.cli.train_progress import LONGEST_PAUSE_S, Lines, telling
from thinkroute.errors import ConfigError, DataError
from thinkroute.training import settings
from thinkroute.training.run_folder import check_run

RUNNER = CliRunner()


def test_the_shipped_configurations_are_listed() -> None:
    result = RUNNER.invoke(app, ["train", "adaptthink", "--config", "list"])
    assert result.exit_code == 0
    assert result.output.split() == settings.shipped()


@pytest.mark.parametrize("method", ["fusion", "adaptthink", "adacot", "relay"])
def test_help_says_what_to_watch(method: str) -> None:
    result = RUNNER.invoke(app, ["train", method, "--help"])
    assert "Watch" in result.output
    assert "--set" in result.output


def test_a_configuration_of_another_method_is_refused() -> None:
    result = RUNNER.invoke(app, ["train", "fusion", "--config", "adacot-fleet"])
    assert isinstance(result.exception, ConfigError)
    assert "thinkroute train adacot" in str(result.exception)


def test_a_misspelt_name_is_answered_with_the_likely_one() -> None:
    with pytest.raises(ConfigError, match="did you mean adacot-fleet"):
        settings.load("adacot-flet", "adacot")


def test_an_overridden_value_is_read_as_in_the_file() -> None:
    texts = [
        "task.level_shares=[0.1, 0.1, 0.2, 0.3, 0.3]",
        "optimiser.learning_rate=5e-4",
        "model.fleet=student",
    ]
    overrides = settings.read_overrides(texts)
    loaded = settings.load("adacot-fleet", "adacot", overrides)
    assert loaded.task.level_shares == (0.1, 0.1, 0.2, 0.3, 0.3)
    assert loaded.optimiser.learning_rate == 0.0005
    assert loaded.model.fleet == "student"


@pytest.mark.parametrize("text", ["steps", "=3", "task.level_shares=[0.1,"])
def test_an_override_that_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="setting"):
        settings.read_overrides([text])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"delta": -1}, r"delta: Input should be greater than or equal to 0, not -1"),
        ({"rollouts.most_token": 8}, r"rollouts\.most_token: unknown key; did you mean most_tokens"),
        ({"model.fleet": "bas"}, r"model\.fleet: the fleet has no member 'bas'; did you mean base"),
        ({"model.device": "cuda"}, "`device` is about checkpoints"),
        ({"model.directory": "nowhere"}, "nowhere holds no model.safetensors"),
        ({"steps.count": 3}, "steps is 240, which has no parts"),
        ({"rollouts.group": 7}, "must be even"),
    ],
)
def test_a_wrong_value_is_named_with_its_place_and_what_to_write(
    overrides: Mapping[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        settings.load("adaptthink-fleet", "adaptthink", overrides)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("adacot-fleet", {"rollouts.most_tokens_direct": 8}),
        ("relay-fleet", {"rollouts.most_tokens_direct": 8}),
        ("relay-qwen3-0.6b", {"teacher.lora_rank": 8}),
        ("adaptthink-qwen3-0.6b", {"model.directory": "x"}),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(name: str, overrides: Mapping[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(overrides)).rpartition(".")[2]):
        settings.load(name, name.partition("-")[0], overrides)


def test_a_folder_with_a_run_of_another_configuration_is_left_alone(tmp_path: Path) -> None:
    first = settings.load("adaptthink-fleet", "adaptthink", {"delta": 0.1})
    (tmp_path / "config.json").write_text(first.model_dump_json())
    other = settings.load("adaptthink-fleet", "adaptthink", {"delta": 0.2, "rollouts.group": 4})
    check_run(tmp_path, other)  # nothing was trained yet
    (tmp_path / "checkpoint-reinforce.pt").touch()
    check_run(tmp_path, first)
    with pytest.raises(ConfigError, match=r"delta 0\.1 → 0\.2, .*another --out") as refused:
        check_run(tmp_path, other)
    assert "rollouts.group 8 → 4" in str(refused.value)


def test_a_relay_may_be_measured_anew_in_its_folder(tmp_path: Path) -> None:
    config = settings.load("relay-fleet", "relay", {})
    (tmp_path / "config.json").write_text(config.model_dump_json())
    (tmp_path / "report.json").touch()
    check_run(tmp_path, settings.load("relay-fleet", "relay", {"evaluate": 7}))


def test_a_file_without_questions_is_refused_before_any_weights_are_loaded(tmp_path: Path) -> None:
    call = ["train", "adaptthink", "--config", "adaptthink-qwen3-0.6b", "--out", str(tmp_path / "run")]
    result = RUNNER.invoke(app, [*call, "--set", f"task.file={tmp_path / 'none.jsonl'}"])
    assert isinstance(result.exception, DataError)
    assert "none.jsonl" in str(result.exception)


def test_a_checkpoint_or_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "1 + 1", "answer": "2"}\n' * 20)
    call = ["train", "adaptthink", "--config", "adaptthink-qwen3-0.6b", "--out", str(tmp_path / "run")]
    call += ["--set", f"task.file={questions}", "--set", f"model.path={tmp_path / 'weights'}"]
    for device, message in (("cuda:77", "cuda"), ("cpu", "weights")):
        result = RUNNER.invoke(app, [*call, "--set", f"model.device={device}"])
        assert isinstance(result.exception, ConfigError)
        assert message in str(result.exception)


def test_without_a_terminal_a_run_says_where_it_is_and_its_json_stays_clean(tmp_path: Path) -> None:
    """The real command, as under nohup: neither stream is a terminal."""
    small = {"steps": 4, "task.questions": 24, "evaluate": 1, "examples_per_step": 4, "most_tokens": 24}
    changes = [part for name, value in small.items() for part in ("--set", f"{name}={value}")]
    call = [sys.executable, "-m", "thinkroute", "train", "fusion", "--json", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [*call, *changes],
        env={
            name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "TTY_COMPATIBLE")
        },
        capture_output=True,
        text=True,
        check=True,
    )
    said = done.stderr.splitlines()
    assert said[0] == "measuring before"
    assert said[-1] == "measuring after"
    begun = said.index("fusion: 4 to do")
    assert said[begun + 1].startswith("fusion: 4 of 4, loss ")
    assert "\x1b" not in done.stderr
    assert json.loads(done.stdout)["config"]["steps"] == 4


class Log:
    """Lines by a clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._written = StringIO()
        self.lines = Lines(Console(file=self._written, width=20), clock=lambda: self.now_s)

    def steps(self, name: str, count: int, seconds_each: float, **values: float) -> list[str]:
        """What is said of a stage, its beginning aside."""
        with self.lines as lines:
            lines.stage(name, count)
            for step in range(1, count + 1):
                self.now_s += seconds_each
                lines.step(step, {**values, "loss": step})
        return [line for line in self._written.getvalue().splitlines() if " of " in line]


def test_a_long_stage_has_a_line_for_every_tenth_with_the_means_since_the_last() -> None:
    said = Log().steps("reinforce", 100, 4.0, right=0.5)
    assert said[:2] == [
        "reinforce: 10 of 100, right 0.5, loss 5.5, 40 s",
        "reinforce: 20 of 100, right 0.5, loss 15.5, 80 s",
    ]
    assert len(said) == 10


def test_a_quick_stage_has_fewer_lines_and_always_its_last() -> None:
    said = Log().steps("reinforce", 100, 0.5)
    assert [line.split(",")[0] for line in said] == ["reinforce: 60 of 100", "reinforce: 100 of 100"]


def test_a_stage_of_many_hours_is_not_silent_for_one() -> None:
    assert len(Log().steps("reinforce", 100, LONGEST_PAUSE_S / 2)) == 50


def test_a_line_takes_what_the_help_says_to_watch_and_puts_levels_together() -> None:
    relay = {"reward": 1.0, "right": 0.25, "share": 0.0123, "calls": 2.0, "calls/level-1": 0.0}
    assert telling(relay) == ["right 0.25", "share 0.0123", "calls 2"]
    adaptthink = {"right/direct/level-10": 0.5, "right/direct/level-2": 1.0, "reward": 0.1, "loss": 3.0}
    assert telling(adaptthink) == ["right/direct by level 2=1 10=0.5", "reward 0.1", "loss 3"]
    assert telling({"b": 1.0, "a": 2.0}) == ["a 2", "b 1"]
    assert telling({}) == []
