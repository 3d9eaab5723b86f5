"""Leaderboards as rows of text, for Markdown and for terminals. Owns wording and rounding, computes nothing."""

from __future__ import annotations

import math
import re
from typing import Final

from thinkroute.evaluation.metrics import Interval
from thinkroute.evaluation.scores import EqualCost, Leaderboard, Point, RouterScore

Row = tuple[str, ...]

COLUMNS: Final = (
    "",
    "quality",
    "cost",
    "gain over best single",
    "AIQ",
    "AIQ over random mixing",
    "gain at equal cost",
    "cost at equal quality",
    "p50 µs",
)
"""Columns of the leaderboard, explained in docs/evaluation.md."""
PAIR_COLUMNS: Final = ("APGR", "APGR, 10 points", "CPT 50 %", "CPT 80 %")
"""Further columns for two-arm tables."""
DETAIL_COLUMNS: Final = (
    "",
    "over equal rates",
    "over prompt length",
    "over task lookup",
    "unlike any learned",
    "entropy",
    "ECE",
    "ECE, chosen",
    "excess, chosen",
    "S",
    "Opt.Sel",
    "Opt.Cost",
    "Opt.Acc",
)
"""Columns of the second table: whether the first can be believed."""
_MOST_TASKS: Final = 12
"""With more tasks than this, quality by task is in the JSON alone."""
_TERMINAL: Final = {
    "": "",
    "quality": "quality",
    "cost": "cost",
    "gain over best single": "over best, pt",
    "AIQ": "AIQ",
    "cost at equal quality": "share",
    "APGR": "APGR",
    "CPT 50 %": "CPT50",
    "CPT 80 %": "CPT80",
    "p50 µs": "µs",
}
"""Columns that fit 80 characters, and their names there. A pair has CPT in place of the share."""


def leaderboard_rows(board: Leaderboard) -> list[Row]:
    """Header, baselines and routers, for any kind of table."""
    base, unit = board.baselines, board.cost_unit
    pair = any(router.apgr is not None for router in board.routers)
    header = COLUMNS + (PAIR_COLUMNS if pair else ())
    rows: list[Row] = [
        _baseline("oracle", base.oracle, unit),
        _baseline("best, hindsight", base.best_single_hindsight, unit),
        _baseline("best single", base.best_single, unit),
        _baseline("random arm", base.random, unit),
    ]
    if base.task_lookup is not None:
        rows.insert(1, _baseline("task lookup", base.task_lookup, unit))
    if base.zero_router_aiq is not None:
        share = _share(base.zero_router_cost_share)
        rows.append(("random mixing", "", "", "", f"{base.zero_router_aiq:.4f}", "", "", share))
    rows += [
        _router(router, unit, router.router.replace("_", " "), pair) for router in board.baseline_routers
    ]
    rows += [_router(router, unit, f"**{router.router}**", pair) for router in board.routers]
    return [header, *(row + ("",) * (len(header) - len(row)) for row in rows)]


def detail_rows(board: Leaderboard) -> list[Row]:
    """Header and one row per router: what its numbers rest on. Columns empty in every row are left out."""
    rows = [DETAIL_COLUMNS, *(_detail(router) for router in (*board.baseline_routers, *board.routers))]
    used = [column for column in range(len(DETAIL_COLUMNS)) if any(row[column] != "–" for row in rows[1:])]
    return [tuple(row[column] for column in used) for row in rows]


def cut_rows(board: Leaderboard) -> list[Row]:
    """Header and one row per router whose encoder cut tested prompts; the header alone when none did."""
    rows: list[Row] = [
        ("", "prompts cut", "read at most", "quality there", "gain over best single", "decided otherwise")
    ]
    for router in board.routers:
        cut = router.cut
        if cut is None or not cut.share:
            continue
        changed = "–" if cut.changed_share is None else f"{cut.changed_share:.1%}"
        gain = _signed(cut.gain_over_best_single)
        limit = f"{cut.limit_bytes:,} bytes"
        rows.append((router.router, f"{cut.share:.1%}", limit, _number(cut.quality), gain, changed))
    return rows


def task_rows(board: Leaderboard) -> list[Row]:
    """Header and one row per router: quality on each task, and the mean over tasks. Empty with one task, or too many."""
    scores = [*board.baseline_routers, *board.routers]
    tasks = list(scores[0].quality_by_task) if scores else []
    if not 2 <= len(tasks) <= _MOST_TASKS:
        return []
    rows: list[Row] = [("", *tasks, "mean of tasks")]
    for score in scores:
        found = [score.quality_by_task[task] for task in tasks]
        mean = sum(found) / len(found)
        rows.append((score.router.replace("_", " "), *(f"{quality:.3f}" for quality in found), f"{mean:.4f}"))
    return rows


def terminal_rows(board: Leaderboard) -> list[Row]:
    """What fits 80 columns: fewer columns, an interval of one only. Markdown and JSON have it all."""
    header, *rows = leaderboard_rows(board)
    names = [name for name in _TERMINAL if name in header]
    if "APGR" in header:
        names.remove("cost at equal quality")
    kept = [header.index(name) for name in names]
    scores = {f"**{score.router}**": score for score in board.routers}
    scores |= {score.router.replace("_", " "): score for score in board.baseline_routers}
    short: list[Row] = []
    for row in rows:
        cells = {name: row[column] for name, column in zip(names, kept, strict=True)}
        for name in ("quality", "AIQ", "APGR"):
            if name in cells:
                cells[name] = cells[name].split(" ")[0].removeprefix("0")
        for name in ("cost at equal quality", "CPT 50 %", "CPT 80 %"):
            if name in cells:
                cells[name] = re.sub(r"\.\d%", "%", cells[name].split(" ")[0])
        score = scores.get(row[0])
        if score is not None:
            gain = score.gain_over_best_single
            ends = f"{gain.low * 100:.1f} {gain.high * 100:.1f}"
            cells["gain over best single"] = f"{gain.mean * 100:+.1f} [{ends}]"
        short.append(tuple(cells[name] for name in names))
    return [tuple(_TERMINAL[name] for name in names), *short]


def describe_terminal(board: Leaderboard) -> str:
    """One sentence on the short names of `terminal_rows`."""
    last = (
        "CPT50, CPT80: share of strong calls that recovers half, four fifths of the gap"
        if any(router.apgr is not None for router in board.routers)
        else "share: cost at the best single arm's quality"
    )
    return (
        f"over best: gain over the best single arm in points, 95 % interval; {last}; µs: median from text to decision. "
        "-o NAME stores the other columns, calibration and pictures; docs/evaluation.md explains all."
    )


def describe(board: Leaderboard) -> str:
    """One paragraph: what was evaluated and in which unit."""
    folds = f"{len(board.folds)} folds" if len(board.folds) > 1 else f"1 fold ({board.folds[0]})"
    text = (
        f"{board.queries:,} queries, {len(board.arms)} arms, split `{board.split}`, {folds}, "
        f"{board.tested_rows:,} tested rows, encoder `{board.encoder}`, {board.took_s:.0f} s ({board.cpu_s:.0f} s of CPU). "
        f"Best single arm by training: {', '.join(board.baselines.best_single_arms)}. "
    )
    if board.cost_unit is None:
        return text + "The table has no costs: quality only."
    basis = board.notes.get("cost_basis" if board.cost_unit == "usd" else "token_basis", "measured")
    detail = f" ({board.notes['cost_detail']})" if "cost_detail" in board.notes else ""
    unit = "dollars per 1,000 queries" if board.cost_unit == "usd" else "generated tokens per query"
    low, high = _cost(board.cost_low, board.cost_unit), _cost(board.cost_high, board.cost_unit)
    return text + f"Cost in {unit}, {basis}{detail}; AIQ over the range {low} to {high}."


def describe_leakage(board: Leaderboard) -> str:
    """One sentence: what stands on both sides of the split."""
    found = board.leakage
    text = (
        f"Leakage: no equal question on both sides; {found.near_share:.2%} of the tested rows have a near duplicate "
        f"among the learned (Jaccard ≥ {found.near_from:g}), {found.contained_share:.2%} contain one or are contained "
        f"in one (≥ {found.contained_from:g})."
    )
    return text + (" The learned ones of such pairs were left out." if found.dropped else "")


def _router(router: RouterScore, unit: str | None, name: str, pair: bool) -> Row:
    cells = (
        name,
        f"{router.quality:.4f}",
        _cost(router.cost, unit),
        _signed(router.gain_over_best_single),
        _plain(router.aiq),
        _signed(router.aiq_gain_over_zero_router),
        _signed(None if router.equal_cost is None else router.equal_cost.quality_gain),
        _shares(router.equal_cost),
        f"{router.decide_us:.0f}",
    )
    if not pair:
        return cells
    return (
        *cells,
        _plain(router.apgr_interval) if router.apgr_interval else _number(router.apgr),
        _number(router.apgr_ten_point),
        _share(router.cpt50),
        _share(router.cpt80),
    )


def _detail(router: RouterScore) -> Row:
    arena = router.arena
    return (
        router.router.replace("_", " ") if router.gain_over_prompt_length is None else f"**{router.router}**",
        _signed(router.gain_over_equal_rates),
        _signed(router.gain_over_prompt_length),
        _signed(router.gain_over_task_lookup),
        _signed(router.gain_without_leaks),
        f"{router.entropy_bits:.2f}",
        _number(router.calibration.ece),
        _number(router.calibration.chosen_ece),
        f"{router.calibration.chosen_excess:+.4f}",
        "–" if arena is None else f"{arena.score:.4f}",
        "–" if arena is None else _share(arena.optimal_selection),
        "–" if arena is None else _share(arena.optimal_cost),
        "–" if arena is None else _share(arena.optimal_accuracy),
    )


def _baseline(name: str, point: Point, unit: str | None) -> Row:
    return name, f"{point.quality:.4f}", _cost(point.cost, unit)


def _cost(cost: float | None, unit: str | None) -> str:
    if cost is None:
        return "–"
    return f"${cost * 1000:.3g}" if unit == "usd" else f"{cost:.1f}"


def _signed(value: Interval | None) -> str:
    if value is None or math.isnan(value.mean):
        return "–"
    return f"{value.mean:+.4f} [{value.low:+.4f}, {value.high:+.4f}]"


def _plain(value: Interval | None) -> str:
    return "–" if value is None else f"{value.mean:.4f} [{value.low:.4f}, {value.high:.4f}]"


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.4f}"


def _shares(value: EqualCost | None) -> str:
    if value is None:
        return "–"
    ends = (value.cost_share, value.cost_share_low, value.cost_share_high)
    mean, low, high = ("never" if share is None else f"{share:.1%}" for share in ends)
    return f"{mean} [{low}, {high}]"


def _share(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1%}" if math.isfinite(value) else "never"
