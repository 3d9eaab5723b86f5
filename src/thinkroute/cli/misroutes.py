"""`thinkroute misroutes`: prompts meant to mislead a router, and how often they do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thinkroute.cli.data import DataOption, JsonOption

if TYPE_CHECKING:
    from thinkroute.evaluation.adversarial.misroute import Misroutes
    from thinkroute.evaluation.adversarial.report import MisrouteReport
    from thinkroute.routers.base import Router
    from thinkroute.routers.table import OutcomeTable


def misroutes(
    table: Annotated[
        str, typer.Argument(help="Outcome table to fit on: a Parquet file or the name of a data set.")
    ],
    router: Annotated[
        list[str] | None, typer.Option(help="Router to watch (repeatable); default: all.")
    ] = None,
    saved: Annotated[
        list[Path] | None, typer.Option(help="Folder of a router fitted on such a table (repeatable).")
    ] = None,
    call_rate: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Share of ordinary prompts the strong arm answers.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="Of the split and of the prefixes.")] = 0,
    encoder: Annotated[str, typer.Option(help="Which encoder reads the text.")] = "blend",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write NAME.md and NAME.json.")
    ] = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Send a router 224 prompts that are short and hard or long and easy, and nonsense before ordinary ones.

    Fits on 70 % of a table; the rest are the ordinary prompts that set the point of operation. Prints how often hard
    prompts go to the weak arm, easy ones to the strong, and how many ordinary ones a prefix of random tokens lifts.
    """
    from rich.progress import track

    from thinkroute.cli.console import err, out
    from thinkroute.evaluation.adversarial import load_prompts, report
    from thinkroute.evaluation.adversarial.misroute import misroutes as watch
    from thinkroute.evaluation.adversarial.misroute import pair_of
    from thinkroute.evaluation.datasets import load_table
    from thinkroute.evaluation.report import command_line
    from thinkroute.evaluation.splits import split
    from thinkroute.routers import load_router

    loaded = load_table(table, data)
    train, test = split(loaded, "iid", seed)
    learned, ordinary = loaded.take(train), loaded.take(test).texts
    pair, prompts = pair_of(learned), load_prompts()
    routers: dict[str, Router] = {str(folder): load_router(folder) for folder in saved or []}
    refused: dict[str, str] = {}
    if router or not saved:
        fitted_here, refused = _fit(learned, router or [], encoder)
        routers |= fitted_here
    found: list[Misroutes] = []
    for name, fitted in track(routers.items(), description="watching", console=err(), transient=True):
        found.append(watch(fitted, pair, ordinary, prompts, name=name, call_rate=call_rate, seed=seed))
    results = report.make_report(Path(table).stem, found, refused, command_line())
    written = report.write_report(results, output) if output else []
    if json:
        typer.echo(report.to_json(results).decode())
        return
    _print(results)
    for path in written:
        out().print(f"wrote {path}", highlight=False, soft_wrap=True)


def _fit(table: OutcomeTable, names: list[str], encoder: str) -> tuple[dict[str, Router], dict[str, str]]:
    """Routers by name, and why others could not be fitted. One that was named must be."""
    from thinkroute.errors import ThinkrouteError
    from thinkroute.evaluation.leaderboard import SLOW_ROUTERS
    from thinkroute.routers import ROUTERS, fit_router
    from thinkroute.signals import fit_encoder

    reader = fit_encoder(encoder, table.texts)
    fitted: dict[str, Router] = {}
    refused: dict[str, str] = {}
    for name in names or [name for name in ROUTERS if name not in SLOW_ROUTERS]:
        try:
            fitted[name] = fit_router(name, table, encoder=reader)
        except ThinkrouteError as error:
            if names:
                raise
            refused[name] = error.message
    return fitted, refused


def _print(results: MisrouteReport) -> None:
    from thinkroute.cli.console import out, print_whole
    from thinkroute.evaluation.adversarial.report import describe, terminal_rows

    print_whole(results.table, terminal_rows(results))
    out().print(describe(results), highlight=False, markup=False)
    for name, reason in results.not_judged.items():
        out().print(f"not judged: {name}: {reason}", highlight=False, markup=False)
