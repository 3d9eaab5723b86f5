"""Stored results of the adversarial set, as JSON and Markdown. Owns wording and layout, computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from thinkroute.evaluation.adversarial.misroute import Misroutes
from thinkroute.evaluation.metrics import Interval
from thinkroute.evaluation.report import describe_origin, markdown_table, origin
from thinkroute.evaluation.scores import Origin

COLUMNS: Final = (
    "",
    "AUROC",
    "AUROC, bare",
    "hard to weak",
    "easy to strong",
    "bare to strong",
    "random prefix lifts",
    "searched prefix lifts",
)


class MisrouteReport(msgspec.Struct, frozen=True, kw_only=True):
    """Routers fitted on one table, on the adversarial set."""

    origin: Origin
    table: str
    routers: list[Misroutes]
    not_judged: dict[str, str]
    """Why, by router."""


def make_report(
    table: str, routers: Sequence[Misroutes], not_judged: Mapping[str, str], command: str
) -> MisrouteReport:
    """Wrap results with what it takes to get them again."""
    return MisrouteReport(
        origin=origin(command), table=table, routers=list(routers), not_judged=dict(not_judged)
    )


def to_json(report: MisrouteReport) -> bytes:
    """The report as JSON; NaN becomes null."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def write_report(report: MisrouteReport, stem: Path) -> list[Path]:
    """Write `stem.md` and `stem.json`; the paths written."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    page, numbers = stem.with_suffix(".md"), stem.with_suffix(".json")
    page.write_text(to_markdown(report), encoding="utf-8")
    numbers.write_bytes(to_json(report))
    return [page, numbers]


def to_markdown(report: MisrouteReport) -> str:
    """The report as a page."""
    parts = [
        f"# Prompts meant to mislead, routers fitted on {report.table}",
        describe_origin(report.origin),
        "Every column is explained in [evaluation.md](../evaluation.md). Brackets are 95 % intervals.",
        describe(report),
        markdown_table(rows(report)),
    ]
    parts += [f"Not judged: `{name}`: {reason}." for name, reason in report.not_judged.items()]
    domains = list(dict.fromkeys(domain for router in report.routers for domain in router.by_domain))
    if domains:
        lines = [
            (
                router.router,
                *(
                    f"{router.by_domain[domain].hard_to_weak:.0%} / {router.by_domain[domain].easy_to_strong:.0%}"
                    for domain in domains
                ),
            )
            for router in report.routers
        ]
        parts += ["By domain, hard to weak / easy to strong:", markdown_table([("", *domains), *lines])]
    return "\n\n".join(parts) + "\n"


def describe(report: MisrouteReport) -> str:
    """One paragraph: which arms, and at which point of operation."""
    if not report.routers:
        return "No router was watched."
    one = report.routers[0]
    return (
        f"Weak arm {one.weak}, strong arm {one.strong}, {one.call_rate:.0%} of ordinary prompts to the strong arm. A coin "
        f"has AUROC 0.5 and sends {1 - one.call_rate:.0%} of the hard prompts to the weak arm, {one.call_rate:.0%} of "
        "the easy ones to the strong."
    )


def rows(report: MisrouteReport) -> list[tuple[str, ...]]:
    """Header and one row per router."""
    return [COLUMNS, *(_row(router) for router in report.routers)]


def terminal_rows(report: MisrouteReport) -> list[tuple[str, ...]]:
    """What fits 80 columns: shorter names, no intervals. Markdown and JSON have them."""
    lines = [(row[0], *(cell.split(" ")[0] for cell in row[1:])) for row in rows(report)[1:]]
    return [("", "AUROC", "bare", "hard↓weak", "easy↑strong", "bare↑strong", "prefix", "searched"), *lines]


def _row(router: Misroutes) -> tuple[str, ...]:
    return (
        router.router,
        f"{router.auroc:.3f}",
        "–" if router.auroc_bare is None else f"{router.auroc_bare:.3f}",
        _rate(router.hard_to_weak),
        _rate(router.easy_to_strong),
        "–" if router.bare_to_strong is None else f"{router.bare_to_strong:.1%}",
        f"{router.random_prefix.upgraded:.1%}",
        f"{router.searched_prefix.upgraded:.1%}",
    )


def _rate(rate: Interval) -> str:
    return f"{rate.mean:.1%} [{rate.low:.0%}, {rate.high:.0%}]"
