"""Evaluation, its record, its figure and the commands around it."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from thinkroute.cli.fleet import app
from thinkroute.errors import ConfigError
from thinkroute.fleet import shipped
from thinkroute.fleet.card import write_card
from thinkroute.fleet.evaluate import Report, draw_questions, evaluate
from thinkroute.fleet.plot import draw
from thinkroute.fleet.recipe import RECIPES
from thinkroute.fleet.record import record
from thinkroute.fleet.tasks import FAMILIES, LEVELS, split_of

EFFORTS = ("off", "budget=8", "on")
MEMBERS = {"teacher": shipped.directory("teacher")}


@pytest.fixture(scope="module")
def report() -> Report:
    return asyncio.run(evaluate(MEMBERS, questions=5, seed=3, efforts=EFFORTS))


def test_every_cell_is_measured_and_budgets_hold(report: Report) -> None:
    assert len(report.cells) == len(EFFORTS) * len(FAMILIES) * len(LEVELS)
    for cell in report.cells:
        assert cell.questions == 5
        assert 0 <= cell.accuracy <= 1
        assert cell.answer_tokens >= 12
        if cell.effort == "off":
            assert cell.reasoning_tokens == 0
        if cell.effort == "budget=8":
            assert cell.reasoning_tokens <= 8


def test_means_are_taken_over_the_cells_that_match(report: Report) -> None:
    level_means = [report.accuracy("teacher", "on", level) for level in LEVELS]
    family_means = [report.accuracy("teacher", "on", family=family) for family in FAMILIES]
    assert report.accuracy("teacher", "on") == pytest.approx(sum(level_means) / 5)
    assert report.accuracy("teacher", "on") == pytest.approx(sum(family_means) / len(FAMILIES))
    assert report.tokens("teacher", "on") > report.tokens("teacher", "off")


def test_the_record_says_how_to_repeat_it(report: Report) -> None:
    content = json.loads(record(report, MEMBERS, seed=3, command="thinkroute fleet eval --n 5 --seed 3"))
    assert content["command"] == "thinkroute fleet eval --n 5 --seed 3"
    assert content["seed"] == 3
    assert len(content["weights_sha256"]["teacher"]) == 64
    assert [line["effort"] for line in content["summary"]] == list(EFFORTS)
    assert len(content["cells"]) == len(report.cells)


def test_the_card_and_the_figure_are_written(report: Report, tmp_path: Path) -> None:
    write_card(RECIPES["teacher"], report, tmp_path, parameters=123_456, command="thinkroute fleet build")
    card = (tmp_path / "README.md").read_text()
    assert "123,456 parameters" in card
    assert card.count("| budget=8 |") == 1
    draw(report, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_every_member_and_effort_is_asked_the_same_unseen_questions() -> None:
    first, second = (draw_questions("story", 2, 20, seed=1) for _ in range(2))
    assert first == second != draw_questions("story", 2, 20, seed=2)
    assert {split_of(problem) for problem in first} == {"eval"}


@pytest.mark.parametrize("level", LEVELS)
def test_no_question_is_asked_twice_where_there_are_enough(level: int) -> None:
    for family in FAMILIES:
        questions = [problem.question for problem in draw_questions(family, level, 80, seed=0)]
        assert len(questions) == 80
        assert len(set(questions)) == 80 or (family, level) == ("composition", 1)


def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    options = ["eval", "--member", "student", "--n", "1"]
    table = CliRunner().invoke(app, options)
    assert table.exit_code == 0
    assert "student@budget=16" in table.stdout
    saved = tmp_path / "result.json"
    printed = CliRunner().invoke(
        app, [*options, "--json", "--save", str(saved), "--plot", str(tmp_path / "f.svg")]
    )
    assert json.loads(printed.stdout) == json.loads(saved.read_text())
    assert (tmp_path / "f.svg").exists()


def test_an_unknown_member_is_refused_with_the_known_ones() -> None:
    result = CliRunner().invoke(app, ["eval", "--member", "professor"])
    assert isinstance(result.exception, ConfigError)
    assert "student, expert-arithmetic" in result.exception.message


def test_a_folder_with_some_members_is_measured_as_it_is(tmp_path: Path) -> None:
    """As after `fleet build --member student --out FOLDER`."""
    (tmp_path / "student").symlink_to(shipped.directory("student"))
    measured = CliRunner().invoke(app, ["eval", "--dir", str(tmp_path), "--n", "1", "--json"])
    assert {line["member"] for line in json.loads(measured.stdout)["cells"]} == {"student"}
    refused = CliRunner().invoke(app, ["eval", "--dir", str(tmp_path), "--member", "teacher"])
    assert isinstance(refused.exception, ConfigError)
    assert "unknown member 'teacher'; known members: student" in refused.exception.message


def test_an_address_in_use_is_named_before_members_are_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = CliRunner().invoke(app, ["serve", "--port", str(taken.getsockname()[1])])
    assert isinstance(result.exception, ConfigError)
    assert "cannot listen on 127.0.0.1" in result.exception.message


@pytest.mark.parametrize(
    "arguments",
    [
        ["eval", "--dir", "{missing}"],
        ["eval", "--dir", "{folder}"],
        ["eval", "--save", "{missing}/result.json"],
        ["eval", "--plot", "figure.txt"],
        ["export", "--gguf", "{missing}/file.gguf", "--member", "student"],
        ["export", "--gguf", "{folder}", "--member", "student"],
        ["build", "--work", "{file}/work"],
        ["bench", "--save", "{missing}/speed.json"],
    ],
)
def test_a_target_that_cannot_be_used_is_named_before_any_work(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    places = {"missing": tmp_path / "missing", "folder": tmp_path, "file": tmp_path / "file"}
    result = CliRunner().invoke(app, [argument.format(**places) for argument in arguments])
    assert isinstance(result.exception, ConfigError)
    assert result.exception.message.startswith("--")
