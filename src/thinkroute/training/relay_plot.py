"""The figure of a relay campaign: accuracy against the teacher's share, and where the teacher wrote. Imports matplotlib late."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BASELINES = {
    "random tokens": "x",
    "random tokens, 4 times the share": "x",
    "random queries": "+",
    "cascade": "v",
    "oracle queries": "^",
    "relay, calls banned": "s",
}
_WHERE = (
    ("unknown_steps_by_teacher", "steps it\ndoes not know"),
    ("known_steps_by_teacher", "steps it\nknows"),
    ("easy_questions_that_call", "questions\nit knows"),
)


def draw_relay(record: Mapping[str, Any], path: Path) -> None:
    """Draw a record to `path`: every run a point, the baselines those of the first relay."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    runs: Mapping[str, Mapping[str, Any]] = record["runs"]
    for number, (variant, seeds) in enumerate(runs.items()):
        lines = [_line(report, _of(report)) for report in seeds.values()]
        left.plot(
            [100 * line["teacher_share"] for line in lines],
            [line["accuracy"] for line in lines],
            f"C{number % 10}o",
            label=variant,
        )
    main = next(iter(runs.get("relay", next(iter(runs.values()))).values()))
    for policy, mark in _BASELINES.items():
        for line in main["policies"]:
            if line["policy"] == policy:
                left.plot(100 * line["teacher_share"], line["accuracy"], f"k{mark}", label=policy)
    for policy, style in (("student", ":"), ("teacher", "--")):
        left.axhline(_line(main, policy)["accuracy"], color="k", linestyle=style, linewidth=1, label=policy)
    left.set(xlabel="teacher's share of the tokens, %", ylabel="share of right answers")
    left.legend(fontsize=7)
    _where(right, runs)
    figure.savefig(path)  # pyright: ignore[reportUnknownMemberType]


def _of(report: Mapping[str, Any]) -> str:
    return "relay" if report["config"]["calls"] else "plain GRPO"


def _line(report: Mapping[str, Any], policy: str) -> Mapping[str, float]:
    return next(line for line in report["policies"] if line["policy"] == policy)


def _where(axis: Any, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Whose hand the results are from, by variant."""
    relays = {name: seeds for name, seeds in runs.items() if "where" in next(iter(seeds.values()))}
    width = 0.8 / max(len(relays), 1)
    for number, (name, seeds) in enumerate(relays.items()):
        means = [sum(r["where"][key] for r in seeds.values()) / len(seeds) for key, _ in _WHERE]
        axis.bar([place + number * width for place in range(len(_WHERE))], means, width, label=name)
    axis.set_xticks([place + 0.4 - width / 2 for place in range(len(_WHERE))], [text for _, text in _WHERE])
    axis.set(ylabel="share with a hand-over")
    axis.legend(fontsize=7)
