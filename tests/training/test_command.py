"""The command line: what it lists, what it refuses, what its help teaches."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from thinkroute.cli.main import app
from thinkroute.errors import ConfigError
from thinkroute.training import settings

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
