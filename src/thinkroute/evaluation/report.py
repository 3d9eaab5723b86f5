"""A stored evaluation as JSON and Markdown. Owns layout; every number comes from the leaderboards."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

from thinkroute.evaluation.scores import Leaderboard, Origin, Report, SharedQuestions
from thinkroute.evaluation.tables import (
    cut_rows,
    describe,
    describe_leakage,
    detail_rows,
    leaderboard_rows,
    task_rows,
)


def make_report(
    leaderboards: Sequence[Leaderboard], command: str, shared: Sequence[SharedQuestions] = ()
) -> Report:
    """Wrap leaderboards with what it takes to get them again."""
    return Report(origin=origin(command), leaderboards=list(leaderboards), shared_questions=list(shared))


def origin(command: str) -> Origin:
    """Where and when results are made."""
    return Origin(
        command=command,
        commit=_commit(),
        thinkroute_version=version("thinkroute"),
        python=platform.python_version(),
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def describe_origin(found: Origin) -> str:
    """One sentence."""
    return (
        f"Made by `{found.command}` at commit `{found.commit}`, thinkroute {found.thinkroute_version}, "
        f"Python {found.python}, {found.machine}, {found.created}."
    )


def to_json(report: Report) -> bytes:
    """The report as JSON on one line, for machines: frontiers make it long. NaN becomes null."""
    return msgspec.json.encode(report) + b"\n"


def to_markdown(report: Report, plots: Sequence[str] = ()) -> str:
    """The report as a page. `plots` are file names of pictures beside it."""
    parts = [
        "# Evaluation of routers",
        describe_origin(report.origin),
        (
            "Every column is explained in [evaluation.md](../evaluation.md). Brackets are 95 % bootstrap intervals "
            "over queries. A router's row is its point at an infinite value of a right answer, where quality alone "
            "counts."
        ),
    ]
    parts += [f"![{Path(plot).stem}]({plot})" for plot in plots]
    for board in report.leaderboards:
        parts += [f"## {board.table}", *_board(board)]
    if report.shared_questions:
        header = ("table", "shares with", "equal questions", "alike", "of")
        rows = [
            (s.table, s.other, f"{s.equal:,}", f"{s.alike:,}", f"{s.rows:,}") for s in report.shared_questions
        ]
        parts += ["## Questions that several tables share", markdown_table([header, *rows])]
    return "\n\n".join(parts) + "\n"


def _board(board: Leaderboard) -> list[str]:
    parts = [describe(board), markdown_table(leaderboard_rows(board))]
    parts += [f"Not judged: `{dropped.router}`: {dropped.reason}." for dropped in board.not_judged]
    parts += [describe_leakage(board), markdown_table(detail_rows(board))]
    if by_task := task_rows(board):
        parts += ["Quality by task, where quality alone counts:", markdown_table(by_task)]
    cut = cut_rows(board)
    if len(cut) > 1:
        parts += ["Prompts that the encoder did not read to the end:", markdown_table(cut)]
    return parts


def write_report(report: Report, stem: Path, plots: Sequence[str] = ()) -> list[Path]:
    """Write `stem.md` and `stem.json`; the paths written."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    page, numbers = stem.with_suffix(".md"), stem.with_suffix(".json")
    page.write_text(to_markdown(report, plots), encoding="utf-8")
    numbers.write_bytes(to_json(report))
    return [page, numbers]


def markdown_table(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows as a Markdown table, the first one its header."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)


def _commit() -> str:
    """Revision of the checkout this package runs from; `unknown` when it is installed."""
    git, root = shutil.which("git"), Path(__file__).resolve().parents[3]
    if git is None or not (root / ".git").exists():
        return "unknown"

    def ask(*arguments: str) -> str:
        done = subprocess.run([git, "-C", str(root), *arguments], capture_output=True, text=True, check=False)  # noqa: S603
        return done.stdout.strip()

    changed = ask(
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        "src/thinkroute/routers",
        "src/thinkroute/signals",
        "src/thinkroute/evaluation",
    )
    return (ask("rev-parse", "--short=12", "HEAD") or "unknown") + ("+changes" if changed else "")


def command_line() -> str:
    """The command as typed, with the program's name instead of its path."""
    return " ".join(["thinkroute", *sys.argv[1:]])
