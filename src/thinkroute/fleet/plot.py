"""Figures of a fleet evaluation: accuracy by level, and accuracy against tokens spent. Imports matplotlib late."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from thinkroute.fleet.evaluate import Report
from thinkroute.fleet.tasks import LEVELS


def draw(report: Report, path: Path) -> None:
    """Draw the report to `path`; the suffix chooses the format (`.png`, `.svg`)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    by_level, by_tokens = figure.subplots(1, 2)
    members = list(dict.fromkeys(cell.member for cell in report.cells))
    efforts = list(dict.fromkeys(cell.effort for cell in report.cells))
    for number, member in enumerate(members):
        colour = f"C{number}"
        for effort, style in (("off", "--"), ("on", "-")):
            if effort in efforts:
                heights = [report.accuracy(member, effort, level) for level in LEVELS]
                by_level.plot(LEVELS, heights, style, color=colour, marker="o", label=f"{member}@{effort}")
        spent = [report.tokens(member, effort) for effort in efforts]
        reached = [report.accuracy(member, effort) for effort in efforts]
        by_tokens.plot(spent, reached, color=colour, marker="o", label=member)
        for text, x, y in _labels(efforts, spent, reached):
            by_tokens.annotate(text, (x, y), textcoords="offset points", xytext=(4, -10), fontsize=7)
    by_level.set(xlabel="level", ylabel="share of right answers", ylim=(-0.02, 1.02), xticks=LEVELS)
    by_tokens.set(xlabel="generated tokens per question", ylabel="share of right answers", ylim=(-0.02, 1.02))
    by_level.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    by_tokens.legend(fontsize=7)
    by_tokens.margins(x=0.15)
    figure.savefig(path, dpi=150)  # pyright: ignore[reportUnknownMemberType]


def _labels(
    efforts: Sequence[str], spent: Sequence[float], reached: Sequence[float]
) -> Iterator[tuple[str, float, float]]:
    """One label per point; efforts that spend the same share theirs."""
    for tokens in dict.fromkeys(round(value) for value in spent):
        sharing = [index for index, value in enumerate(spent) if round(value) == tokens]
        names = ", ".join(efforts[index].removeprefix("budget=") for index in sharing)
        yield names, spent[sharing[0]], reached[sharing[0]]
