"""`thinkroute evaluate-relay`: members by name, and a report that says how it was made."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from thinkroute.cli.main import app
from thinkroute.errors import ConfigError

RUNNER = CliRunner()


def test_the_shipped_student_is_judged_beside_another_member_as_its_teacher(tmp_path: Path) -> None:
    saved = tmp_path / "relay.json"
    result = RUNNER.invoke(
        app, ["evaluate-relay", "--n", "20", "--teacher", "expert-arithmetic", "--save", str(saved)]
    )
    assert result.exit_code == 0, result.output
    report = json.loads(saved.read_text())
    assert report["origin"]["command"].startswith("thinkroute evaluate-relay --n 20 --seed 0")
    assert (report["student"], report["teacher"]) == ("student-relay", "expert-arithmetic")
    policies = {line["policy"]: line for line in report["policies"]}
    assert policies["relay"]["calls"] > 0
    assert policies["relay"]["accuracy"] > policies["student"]["accuracy"]


def test_a_teacher_that_is_nowhere_is_named() -> None:
    result = RUNNER.invoke(app, ["evaluate-relay", "--n", "10", "--teacher", "professor"])
    assert isinstance(result.exception, ConfigError)
    assert "--teacher 'professor' is neither a member" in str(result.exception)
