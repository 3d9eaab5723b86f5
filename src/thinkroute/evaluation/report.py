"""A stored evaluation as JSON and Markdown. Owns wording and layout; every number comes from the leaderboards."""

from __future__ import annotations

import math
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from thinkroute.evaluation.metrics import Interval
from thinkroute.evaluation.scores import Leaderboard, Point, Report

COLUMNS: Final = (
    "",
    "quality",
    "cost",
    "gain over best single",
    "AIQ",
    "AIQ over random mixing",
    "cost share",
    "random, equal cost",
    "random, equal rates",
    "entropy",
    "µs",
)
"""Columns of the leaderboard table, explained in docs/evaluation.md."""
PAIR_COLUMNS: Final = ("APGR", "APGR, 10 points", "CPT 50 %", "CPT 80 %")
"""Further columns for two-arm tables."""


def make_report(leaderboards: Sequence[Leaderboard], command: str) -> Report:
    """Wrap leaderboards with what it takes to get them again."""
    return Report(
        command=command,
        commit=_commit(),
        thinkroute_version=version("thinkroute"),
        python=platform.python_version(),
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        leaderboards=list(leaderboards),
    )


def to_json(report: Report) -> bytes:
    """The report as JSON; NaN becomes null."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def to_markdown(report: Report, plot: str | None = None) -> str:
    """The report as a page. `plot` is the file name of the frontier plot beside it."""
    parts = [
        "# Evaluation of routers",
        (
            f"Made by `{report.command}` at commit `{report.commit}`, thinkroute {report.thinkroute_version}, "
            f"Python {report.python}, {report.machine}, {report.created}."
        ),
        (
            "Every column is explained in [evaluation.md](../evaluation.md). Brackets are 95 % bootstrap intervals "
            "over queries. A router's row is its point at an infinite value of a right answer, where quality alone "
            "counts."
        ),
    ]
    if plot:
        parts.append(f"![Cost–quality frontiers]({plot})")
    for board in report.leaderboards:
        parts += [f"## {board.table}", describe(board), _markdown_table(leaderboard_rows(board))]
    return "\n\n".join(parts) + "\n"


def write_report(report: Report, stem: Path, plot: str | None) -> list[Path]:
    """Write `stem.md` and `stem.json`; the paths written."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    page, numbers = stem.with_suffix(".md"), stem.with_suffix(".json")
    page.write_text(to_markdown(report, plot), encoding="utf-8")
    numbers.write_bytes(to_json(report))
    return [page, numbers]


def describe(board: Leaderboard) -> str:
    """One paragraph: what was evaluated and in which unit."""
    seeds = f"{len(board.seeds)} seed{'s' if len(board.seeds) != 1 else ''}"
    text = f"{board.queries:,} queries, {len(board.arms)} arms, split `{board.split}`, {seeds}, {board.tested_rows:,} tested rows. "
    text += f"Best single arm by training: {', '.join(board.baselines.best_single_arms)}. "
    if board.cost_unit is None:
        return text + "The table has no costs: quality only."
    basis = board.notes.get("cost_basis" if board.cost_unit == "usd" else "token_basis", "measured")
    detail = f" ({board.notes['cost_detail']})" if "cost_detail" in board.notes else ""
    unit = "dollars per 1,000 queries" if board.cost_unit == "usd" else "generated tokens per query"
    low, high = _cost(board.cost_low, board.cost_unit), _cost(board.cost_high, board.cost_unit)
    return text + f"Cost in {unit}, {basis}{detail}; AIQ over the range {low} to {high}."


def leaderboard_rows(board: Leaderboard) -> list[tuple[str, ...]]:
    """Header, baselines and routers as text, for any kind of table."""
    base, unit = board.baselines, board.cost_unit
    pair = any(router.apgr is not None for router in board.routers)
    header = COLUMNS + (PAIR_COLUMNS if pair else ())
    rows: list[tuple[str, ...]] = [
        _baseline("oracle", base.oracle, unit),
        _baseline("best, hindsight", base.best_single_hindsight, unit),
        _baseline("best single", base.best_single, unit),
        _baseline("random arm", base.random, unit),
    ]
    if base.task_lookup is not None:
        rows.insert(1, _baseline("task lookup", base.task_lookup, unit))
    if base.zero_router_aiq is not None:
        share = _share(base.zero_router_cost_share)
        rows.append(("random mixing", "", "", "", f"{base.zero_router_aiq:.4f}", "", share))
    for router in board.routers:
        cells = (
            f"**{router.router}**",
            f"{router.quality:.4f}",
            _cost(router.cost, unit),
            _signed(router.gain_over_best_single),
            _plain(router.aiq),
            _signed(router.aiq_gain_over_zero_router),
            _share(router.cost_share),
            _number(router.random_at_equal_cost),
            _number(router.random_at_equal_rates),
            f"{router.entropy_bits:.2f}",
            f"{router.predict_us:.0f}",
        )
        ends = (
            _number(router.apgr),
            _number(router.apgr_ten_point),
            _share(router.cpt50),
            _share(router.cpt80),
        )
        rows.append(cells + (ends if pair else ()))
    return [header, *(row + ("",) * (len(header) - len(row)) for row in rows)]


def terminal_rows(board: Leaderboard) -> list[tuple[str, ...]]:
    """What fits 80 columns: fewer columns, intervals of one only. Markdown and JSON have it all."""
    header, *rows = leaderboard_rows(board)
    short = {
        "": "",
        "quality": "quality",
        "cost": "cost",
        "gain over best single": "points over best",
        "AIQ": "AIQ",
        "cost share": "share",
        "µs": "µs",
        "APGR": "APGR",
    }
    kept = [header.index(name) for name in short if name in header]
    cells = [[row[column] for column in kept] for row in rows]
    aiq = list(short).index("AIQ")
    gains = {router.router: router.gain_over_best_single for router in board.routers}
    for row in cells:
        row[aiq] = row[aiq].split(" ")[0]
        row[aiq + 1] = re.sub(r"\.\d%", "%", row[aiq + 1])
        gain = gains.get(row[0].strip("*"))
        if gain is not None:
            row[aiq - 1] = f"{gain.mean:+.1%} [{gain.low:+.1%} {gain.high:+.1%}]".replace("%", "")
    return [tuple(short[header[column]] for column in kept), *(tuple(row) for row in cells)]


def _baseline(name: str, point: Point, unit: str | None) -> tuple[str, ...]:
    return name, f"{point.quality:.4f}", _cost(point.cost, unit)


def _markdown_table(rows: Sequence[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)


def _cost(cost: float | None, unit: str | None) -> str:
    if cost is None:
        return "–"
    return f"${cost * 1000:.3g}" if unit == "usd" else f"{cost:.1f}"


def _signed(value: Interval | None) -> str:
    return "–" if value is None else f"{value.mean:+.4f} [{value.low:+.4f}, {value.high:+.4f}]"


def _plain(value: Interval | None) -> str:
    return "–" if value is None else f"{value.mean:.4f} [{value.low:.4f}, {value.high:.4f}]"


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.4f}"


def _share(value: float | None) -> str:
    if value is None:
        return "–"
    return "never" if math.isnan(value) else f"{value:.1%}"


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
