"""Reliability diagrams of the signal heads. Owns contact with matplotlib, imported at the call, opening no window."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from thinkroute.signals.head_training import HeadReport

_COLUMNS: Final = 4
_PANEL: Final = 2.4
_BLUE, _GREY = "#0072B2", "#8A8A8A"


def plot_heads(reports: Mapping[str, HeadReport], path: Path) -> None:
    """Draw one panel per head: observed share over predicted probability on left-out texts, dots as large as bins."""
    rows = -(-len(reports) // _COLUMNS)
    settings = {"svg.fonttype": "none", "svg.hashsalt": "thinkroute"}
    with import_module("matplotlib").rc_context(settings):
        figure = import_module("matplotlib.figure").Figure(
            figsize=(_PANEL * _COLUMNS, _PANEL * rows), layout="constrained"
        )
        grid: Any = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False)
        panels = list(grid.flat)
        for axes, (label, report) in zip(panels, reports.items(), strict=False):
            _panel(axes, label, report)
        for axes in panels[len(reports) :]:
            axes.set_axis_off()
        figure.supxlabel("predicted probability")
        figure.supylabel("observed share")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _panel(axes: Any, label: str, report: HeadReport) -> None:
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle="--")
    axes.plot(
        [part.predicted for part in report.bins],
        [part.observed for part in report.bins],
        "o-",
        color=_BLUE,
        markersize=3,
        linewidth=1,
    )
    axes.set_title(f"{label}\nECE {report.ece:.3f}, AUROC {report.auroc:.3f}", fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.tick_params(labelsize=7)
