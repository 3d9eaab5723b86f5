"""`thinkroute evaluate-log`: what another router would have earned on the traffic that was logged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thinkroute.cli.data import JsonOption
from thinkroute.cli.serve import ConfigOption

if TYPE_CHECKING:
    from thinkroute.evaluation.log_policy import Guess, Traffic
    from thinkroute.evaluation.log_report import LogReport, TargetScore
    from thinkroute.evaluation.offpolicy import OffPolicyEstimate


def evaluate_log(
    table: Annotated[
        Path | None,
        typer.Argument(help="Log exported by `thinkroute export`; default: the gateway's own log."),
    ] = None,
    router: Annotated[
        list[str] | None, typer.Option(help="Kind of router to fit on the log, cross-fitted (repeatable).")
    ] = None,
    saved: Annotated[
        list[Path] | None, typer.Option(help="Folder of a router fitted elsewhere (repeatable).")
    ] = None,
    value_usd: Annotated[
        float | None,
        typer.Option(min=0, help="Dollars a right answer is worth; default: quality alone counts."),
    ] = None,
    explore: Annotated[
        float, typer.Option(min=0, max=1, help="Share of even draws of the policy that is judged.")
    ] = 0.0,
    clip: Annotated[
        float | None, typer.Option(min=1, help="Also show estimates with weights clipped here.")
    ] = None,
    reward_model: Annotated[
        str, typer.Option(help="Kind of router that the doubly robust estimates expect, cross-fitted.")
    ] = "ridge",
    folds: Annotated[int, typer.Option(min=2, help="Parts of the cross-fitting.")] = 5,
    encoder: Annotated[str, typer.Option(help="Which encoder reads the text.")] = "blend",
    since_days: Annotated[
        float | None,
        typer.Option(min=0, help="Only the last days of the gateway's log; default: everything."),
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Judge other routers on logged traffic, without asking any model again.

    Needs a log made with exploration (`policy.explore`), texts (`store.log_content`) and feedback. Estimates mean
    quality and cost per request by IPS, SNIPS, a reward model and doubly robust.
    """
    import msgspec

    from thinkroute.errors import ConfigError
    from thinkroute.evaluation.log_policy import cross_guess, guess
    from thinkroute.evaluation.log_report import Plan, report_log
    from thinkroute.routers import fit_router, load_router, router_kind
    from thinkroute.signals import fit_encoder

    kinds, folders = router or [], saved or []
    if not kinds and not folders:
        raise ConfigError("which policy is to be judged? Give --router KIND or --saved FOLDER (repeatable)")
    for kind in (*kinds, reward_model):
        router_kind(kind)
    traffic = _traffic(table, config, since_days)

    # An encoder never sees an outcome, so one for all folds leaks nothing.
    reads_text = any(router_kind(kind).reads_text for kind in (*kinds, reward_model))
    reader = fit_encoder(encoder, traffic.texts) if reads_text else None

    def fitted_on_log(kind: str) -> Guess:
        return cross_guess(lambda outcomes: fit_router(kind, outcomes, encoder=reader), traffic, folds)

    targets = {kind: fitted_on_log(kind) for kind in kinds}
    targets |= {str(folder): guess(load_router(folder), traffic) for folder in folders}
    plan = Plan(float("inf") if value_usd is None else value_usd, explore, clip)
    name = f"{reward_model}, {folds} folds"
    found = report_log(
        traffic,
        targets,
        lambda: targets.get(reward_model) or fitted_on_log(reward_model),
        plan,
        model_name=name,
    )
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    _print(found)


def _traffic(table: Path | None, config: Path | None, since_days: float | None) -> Traffic:
    import time

    from thinkroute.evaluation.log_policy import traffic_of_records, traffic_of_table
    from thinkroute.evaluation.outcomes import read_outcomes
    from thinkroute.gateway.assemble import open_store, read_config

    if table is not None:
        return traffic_of_table(read_outcomes(table))
    store = open_store(read_config(config))
    try:
        return traffic_of_records(
            store.iter_records(0.0 if since_days is None else time.time() - since_days * 86_400)
        )
    finally:
        store.close()


def _print(found: LogReport) -> None:
    from thinkroute.cli.console import out

    console = out()
    value = (
        "quality alone counts" if found.value_usd == float("inf") else f"${found.value_usd:g} a right answer"
    )
    lines = [
        f"{found.choices:,} graded choices, {len(found.arms)} arms, {value}; reward model {found.reward_model}"
    ]
    lines += [f"left out: {count:,} {reason}" for reason, count in found.left_out.items()]
    for line in lines:
        console.print(line, highlight=False, markup=False)
    for target in found.targets:
        _print_target(found, target)


def _print_target(found: LogReport, target: TargetScore) -> None:
    from rich import box
    from rich.table import Table

    from thinkroute.cli.console import out

    grid = Table(title=target.name, box=box.SIMPLE)
    for column, name in enumerate(("", "quality", "95 %", "$ / 1,000", "95 %")):
        grid.add_column(name, justify="right" if column else "left", no_wrap=True)
    costs = {(cost.method, cost.clip): cost for cost in target.cost_usd}
    grid.add_row("as logged", *_cells(found.logging_quality, 1), *_cells(found.logging_cost_usd, 1000))
    for quality in target.quality:
        name = quality.method.upper() + ("" if quality.clip is None else f", clip {quality.clip:g}")
        cost = costs.get((quality.method, quality.clip))
        grid.add_row(name, *_cells(quality, 1), *_cells(cost, 1000))
    gains = (*_cells(target.quality_gain, 1, "+"), *_cells(target.cost_gain_usd, 1000, "+"))
    grid.add_row("gain (DR)", *gains, style="bold")
    out().print(grid)
    seen = target.overlap
    facts = (
        f"effective choices {seen.effective_choices:,.0f}, mean weight {seen.weight_mean:.3f} ± "
        f"{seen.weight_mean_error:.3f}, largest {seen.weight_most:.1f}, agrees with {seen.agreed_share:.1%}"
    )
    for line in (facts, *(f"warning: {warning}" for warning in target.warnings)):
        out().print(line, highlight=False, markup=False)


def _cells(estimate: OffPolicyEstimate | None, scale: float, sign: str = "") -> tuple[str, str]:
    if estimate is None:
        return "–", "–"
    ends = f"{estimate.low * scale:{sign}.4f} {estimate.high * scale:{sign}.4f}"
    return f"{estimate.mean * scale:{sign}.4f}", ends
