"""`thinkroute evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thinkroute.cli.data import DataOption, JsonOption

if TYPE_CHECKING:
    from thinkroute.evaluation.scores import Leaderboard


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate")(evaluate)


def evaluate(
    tables: Annotated[list[str], typer.Argument(help="Outcome tables: Parquet files or names of data sets.")],
    router: Annotated[list[str] | None, typer.Option(help="Router to judge (repeatable).")] = None,
    every: Annotated[bool, typer.Option("--all", help="Judge every router there is.")] = False,
    split: Annotated[str, typer.Option(help="iid, task (whole tasks unseen) or source.")] = "iid",
    seeds: Annotated[int, typer.Option(min=1, help="How many random splits.")] = 5,
    test_share: Annotated[
        float, typer.Option(min=0.05, max=0.95, help="Part of the queries that is tested.")
    ] = 0.3,
    plot: Annotated[Path | None, typer.Option(help="Draw the frontiers to this .svg, .png or .pdf.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write NAME.md, NAME.json and NAME.svg.")
    ] = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Judge routers on outcome tables, beside the baselines every router must beat.

    Fits on one part, replays on the other at every value of a right answer; prints quality, AIQ, cost share and
    paired intervals against the best single arm. docs/evaluation.md explains every column.
    """
    from rich.status import Status

    from thinkroute.cli.console import err, out
    from thinkroute.errors import ConfigError
    from thinkroute.evaluation import leaderboard, report
    from thinkroute.evaluation.datasets import load_table
    from thinkroute.evaluation.plots import plot_frontiers
    from thinkroute.evaluation.splits import SPLITS, SplitKind
    from thinkroute.routers import ROUTERS, router_kind

    kinds: dict[str, SplitKind] = {kind: kind for kind in SPLITS}
    if split not in kinds:
        raise ConfigError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    names = tuple(ROUTERS) if every or not router else tuple(dict.fromkeys(router))
    for name in names:
        router_kind(name)
    protocol = leaderboard.Protocol(names, kinds[split], tuple(range(seeds)), test_share)
    with Status("reading outcomes", console=err()) as status:
        boards = [
            leaderboard.evaluate(
                load_table(reference, data), protocol, name=Path(reference).stem, progress=status.update
            )
            for reference in tables
        ]
    found = report.make_report(boards, report.command_line())
    picture = plot
    if output is not None and plot is None and any(board.cost_unit for board in boards):
        picture = output.with_suffix(".svg")
    if picture is not None:
        plot_frontiers(boards, picture)
    written = report.write_report(found, output, picture.name if picture else None) if output else []
    if json:
        typer.echo(report.to_json(found).decode())
        return
    for board in boards:
        _print_board(board)
    for path in [*written, *([picture] if picture else [])]:
        out().print(f"wrote {path}", highlight=False, soft_wrap=True)


def _print_board(board: Leaderboard) -> None:
    from rich import box
    from rich.table import Table

    from thinkroute.cli.console import out
    from thinkroute.evaluation.report import describe, terminal_rows

    header, *rows = terminal_rows(board)
    grid = Table(title=board.table, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for column, name in enumerate(header):
        grid.add_column(name, justify="right" if column else "left", no_wrap=True)
    for row in rows:
        grid.add_row(row[0].strip("*"), *row[1:], style="bold" if row[0].startswith("**") else None)
    out().print(grid)
    out().print(describe(board), highlight=False, markup=False)
