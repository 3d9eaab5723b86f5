"""Frontier and reliability plots. Owns contact with matplotlib, imported at the first call, never opening a window."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from thinkroute.errors import ConfigError
from thinkroute.evaluation.metrics import Hull, hull
from thinkroute.evaluation.scores import ArmScoreRow, Leaderboard, Point

_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#3D3D3D")
_DASHES: Final = ("-", "--", ":")
"""Each colour comes back with the next of these when there are more routers than colours."""
_UNDRAWN: Final = ("best_single", "random_mix", "constant")
"""Routers that are lines of every plot already, or no line at all."""
_GREY: Final = "#8A8A8A"
_WIDTH, _HEIGHT = 6.4, 4.8
_FORMATS: Final = (".svg", ".png", ".pdf")


def check_picture(path: Path) -> None:
    """Refuse what cannot be drawn, before anything is computed.

    Raises:
        ConfigError: the file's ending is no picture format.
    """
    if path.suffix not in _FORMATS:
        raise ConfigError(f"cannot plot to {path.name}: use one of {', '.join(_FORMATS)}")


def plot_frontiers(boards: Sequence[Leaderboard], path: Path) -> None:
    """Draw one panel per leaderboard that has costs: mean quality over mean cost, cost on a logarithmic axis.

    Raises:
        ConfigError: no leaderboard has costs, or the file's ending is no picture format.
    """
    check_picture(path)
    drawn = [board for board in boards if board.cost_unit is not None]
    if not drawn:
        raise ConfigError("nothing to plot: no table has costs")
    _draw(drawn, path, _panel)


def plot_reliability(boards: Sequence[Leaderboard], path: Path) -> None:
    """Draw one panel per leaderboard: measured over predicted quality in bins of equal mass, one line per router.

    Raises:
        ConfigError: the file's ending is no picture format.
    """
    _draw(boards, path, _reliability)


def _draw(boards: Sequence[Leaderboard], path: Path, panel: Callable[[Any, Leaderboard], None]) -> None:
    check_picture(path)
    figure_module = import_module("matplotlib.figure")
    # Text stays text and ids are fixed, so that equal results give equal files.
    settings = {"svg.fonttype": "none", "svg.hashsalt": "thinkroute"}
    with import_module("matplotlib").rc_context(settings):
        figure = figure_module.Figure(figsize=(_WIDTH * len(boards), _HEIGHT), layout="constrained")
        panels: Sequence[Any] = figure.subplots(1, len(boards), squeeze=False)[0]
        for axes, board in zip(panels, boards, strict=True):
            panel(axes, board)
            axes.grid(visible=True, color="#E6E6E6", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=150, metadata=metadata)


def _styles() -> Iterator[dict[str, str]]:
    for dash in _DASHES:
        for colour in _COLOURS:
            yield {"color": colour, "linestyle": dash}


def _reliability(axes: Any, board: Leaderboard) -> None:
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1.0, label="what is said is so")
    drawn = [score for score in board.routers if score.router not in _UNDRAWN]
    for score, style in zip(drawn, _styles(), strict=False):
        bins = score.calibration.bins
        label = f"{score.router}, ECE {score.calibration.ece:.3f}"
        predicted, measured = [b.predicted for b in bins], [b.measured for b in bins]
        axes.plot(predicted, measured, marker="o", markersize=3, linewidth=1.2, label=label, **style)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("predicted quality")
    axes.set_ylabel("measured quality")
    axes.set_title(f"{board.table}, split {board.split}", fontsize=11)


def _panel(axes: Any, board: Leaderboard) -> None:
    singles = _hull(board.arms)
    _line(axes, singles, board, color=_GREY, linestyle="--", label="random mixing of single arms")
    for baseline in board.baseline_routers:
        name = baseline.router.replace("_", " ")
        _line(axes, _hull(baseline.frontier), board, color="black", linestyle=":", label=name)
    used = [router for router in board.routers if router.router not in _UNDRAWN]
    for router, style in zip(used, _styles(), strict=False):
        _line(axes, _hull(router.frontier), board, label=router.router, **style)
    axes.scatter([a.cost for a in board.arms], [a.quality for a in board.arms], s=16, color=_GREY, zorder=3)
    _label_arms(axes, board, singles)
    marks = {"oracle": (board.baselines.oracle, "*"), "task lookup": (board.baselines.task_lookup, "D")}
    for name, (point, marker) in marks.items():
        if point is not None:
            size = 110 if marker == "*" else 40
            axes.scatter(
                [point.cost], [point.quality], s=size, marker=marker, color="black", label=name, zorder=4
            )
    _cost_axis(axes, board)
    _quality_axis(axes, board, singles)
    axes.set_title(f"{board.table}, split {board.split}", fontsize=11)


def _cost_axis(axes: Any, board: Leaderboard) -> None:
    """Logarithmic, with plain numbers at 1, 2 and 5 times each power of ten."""
    ticker = import_module("matplotlib.ticker")
    dollars = board.cost_unit == "usd"
    axes.set_xscale("log")
    axes.set_xlim(board.cost_low * 0.85, board.cost_high * 1.2)
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(ticker.NullLocator())

    def write(cost: float, _: int) -> str:
        return f"${cost * 1000:.3g}" if dollars else f"{cost:.3g}"

    axes.xaxis.set_major_formatter(write)
    unit = "dollars per 1,000 queries" if dollars else "generated tokens per query"
    basis = " (proxy)" if board.notes.get("cost_basis") == "proxy" else ""
    axes.set_xlabel(f"mean cost, {unit}{basis}")


def _quality_axis(axes: Any, board: Leaderboard, singles: Hull) -> None:
    """From a little under the hull of single arms to the oracle: far worse arms would flatten what is compared."""
    low, high = float(singles.quality_H[0]), board.baselines.oracle.quality
    bottom = low - 0.15 * (high - low)
    below = sum(arm.quality < bottom for arm in board.arms)
    if high > low:
        axes.set_ylim(bottom, high + 0.08 * (high - low))
    if below:
        note = f"{below} arm{'s' if below > 1 else ''} below"
        axes.annotate(note, (0.01, 0.015), xycoords="axes fraction", fontsize=7, color=_GREY)
    axes.set_ylabel("mean quality")


def _label_arms(axes: Any, board: Leaderboard, singles: Hull) -> None:
    """Names of the arms on the hull; the others would cover one another."""
    middle = (board.cost_low * board.cost_high) ** 0.5
    for arm in board.arms:
        if arm.cost is None or not np.any((singles.cost_H == arm.cost) & (singles.quality_H == arm.quality)):
            continue
        # A name at the right edge is written towards the left, or it would leave the panel.
        right = arm.cost > middle
        axes.annotate(
            arm.arm.rsplit("/", 1)[-1],
            (arm.cost, arm.quality),
            xytext=(-6 if right else 5, -11),
            textcoords="offset points",
            ha="right" if right else "left",
            fontsize=7,
            bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 0.5},
        )


def _hull(points: Sequence[Point] | Sequence[ArmScoreRow]) -> Hull:
    known = [(point.cost, point.quality) for point in points if point.cost is not None]
    return hull(np.array([cost for cost, _ in known]), np.array([quality for _, quality in known]))


def _line(axes: Any, points: Hull, board: Leaderboard, **style: str) -> None:
    """A hull between its ends, bent as straight mixing lines look on a logarithmic axis."""
    low, high = float(points.cost_H[0]), max(float(points.cost_H[-1]), board.cost_high)
    cost = np.unique(np.concatenate([np.geomspace(low, high, 200), points.cost_H]))
    axes.plot(cost, np.interp(cost, points.cost_H, points.quality_H), linewidth=1.6, **style)
