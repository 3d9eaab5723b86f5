"""Figures of a campaign: accuracy, tokens and share of empty blocks by level, before and after. Imports matplotlib late."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

LEVELS = (1, 2, 3, 4, 5)
_PANELS = (
    ("correct", "share of right answers"),
    ("tokens", "tokens per response"),
    ("direct", "share of answers at once"),
)


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Draw a record to `path`; runs that differ in the seed alone are averaged, and their range is shaded."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.2), layout="constrained")
    axes = figure.subplots(1, 4)
    first = next(iter(next(iter(record["runs"].values())).values()))
    for (name, label), axis in zip(_PANELS, axes, strict=False):
        for mode, style in (("think", "k--"), ("direct", "k:")):
            axis.plot(
                LEVELS, _levels(first["before"][mode], name), style, label=f"before, {mode}", linewidth=1
            )
        for number, (variant, runs) in enumerate(record["runs"].items()):
            values = [_levels(report["after"]["free"], name) for report in runs.values()]
            by_level = list(zip(*values, strict=True))
            axis.plot(LEVELS, [fmean(v) for v in by_level], f"C{number}o-", label=variant)
            axis.fill_between(
                LEVELS, [min(v) for v in by_level], [max(v) for v in by_level], color=f"C{number}", alpha=0.2
            )
        axis.set(xlabel="level", ylabel=label, xticks=LEVELS)
    axes[0].legend(fontsize=7)
    _front(axes[3], record, first)
    figure.savefig(path)  # pyright: ignore[reportUnknownMemberType]


def _levels(result: Mapping[str, Any], name: str) -> list[float]:
    return list(result["by_level"][name].values())


def _front(axis: Any, record: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    """Accuracy against tokens on the easy-heavy mix, beside any random mix of both modes of the model before."""
    ends = [first["before"][mode]["easy_heavy"] for mode in ("direct", "think")]
    axis.plot(
        [e["tokens"] for e in ends],
        [e["accuracy"] for e in ends],
        "k--",
        linewidth=1,
        label="random mix, before",
    )
    for number, (variant, runs) in enumerate(record["runs"].items()):
        points = [report["after"]["free"]["easy_heavy"] for report in runs.values()]
        axis.plot(
            [p["tokens"] for p in points], [p["accuracy"] for p in points], f"C{number}o", label=variant
        )
    axis.set(xlabel="tokens, easy-heavy mix", ylabel="accuracy, easy-heavy mix")
    axis.legend(fontsize=7)
