"""`thinkroute evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thinkroute.cli import evaluate_log, evaluate_relay, misroutes
from thinkroute.cli.data import DataOption, JsonOption

if TYPE_CHECKING:
    from thinkroute.evaluation.leaderboard import Protocol
    from thinkroute.evaluation.scores import Leaderboard
    from thinkroute.evaluation.splits import SplitKind
    from thinkroute.routers.table import OutcomeTable


def register(app: typer.Typer) -> None:
    """Add this command, and its relatives for decision logs, relays and prompts meant to mislead."""
    app.command("evaluate")(evaluate)
    app.command("evaluate-log")(evaluate_log.evaluate_log)
    app.command("evaluate-relay")(evaluate_relay.evaluate_relay)
    app.command("misroutes")(misroutes.misroutes)


def evaluate(
    tables: Annotated[
        list[str] | None,
        typer.Argument(
            help="Outcome tables: Parquet files or names of data sets. Default: all that lie here."
        ),
    ] = None,
    router: Annotated[list[str] | None, typer.Option(help="Router to judge (repeatable).")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Judge every router that fits quickly; one that fails is a line.")
    ] = False,
    slow: Annotated[
        bool, typer.Option("--slow", help="With --all: those that take minutes to fit, too.")
    ] = False,
    fit_limit: Annotated[
        float, typer.Option(min=0, help="With --all: seconds one fit may take before a router drops out.")
    ] = 120.0,
    split: Annotated[
        str, typer.Option(help="iid, task (a part unseen), each-task, arm (each new once) or source.")
    ] = "iid",
    seeds: Annotated[int, typer.Option(min=1, help="How many random splits.")] = 5,
    test_share: Annotated[
        float, typer.Option(min=0.05, max=0.95, help="Part of the queries that is tested.")
    ] = 0.3,
    shots: Annotated[
        int, typer.Option(min=0, help="With --split arm: outcomes of the new arm the fit may see.")
    ] = 0,
    arm: Annotated[
        list[str] | None, typer.Option("--arm", help="Judge only these arms (repeatable); two make a pair.")
    ] = None,
    unseen: Annotated[
        list[str] | None,
        typer.Option(help="With --split task: test these tasks, and learn nothing of them (repeatable)."),
    ] = None,
    drop_near: Annotated[
        bool, typer.Option("--drop-near", help="Learn from no question that resembles a tested one.")
    ] = False,
    together: Annotated[
        bool,
        typer.Option("--together", help="Judge on all tables as one; questions they share stay together."),
    ] = False,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Setting of the one router that is judged, e.g. neighbours=20 (repeatable)."
        ),
    ] = None,
    encoder: Annotated[str, typer.Option(help="Which encoder reads the text.")] = "blend",
    encoder_setting: Annotated[
        list[str] | None, typer.Option("--encoder-set", help="Setting of the encoder (repeatable).")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the frontiers to this .svg, .png or .pdf.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write NAME.md, NAME.json, NAME.svg and NAME-reliability.svg."),
    ] = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Judge routers on outcome tables, beside the baselines every router must beat.

    Fits on one part, replays on the other at every value of a right answer; prints quality, AIQ, cost share and
    paired intervals against the best single arm. docs/evaluation.md explains every column.
    """
    from thinkroute.cli.console import out
    from thinkroute.cli.fit import read_settings
    from thinkroute.errors import ConfigError
    from thinkroute.evaluation import report
    from thinkroute.evaluation.leaderboard import SLOW_ROUTERS, Protocol
    from thinkroute.evaluation.leakage import shared_questions
    from thinkroute.evaluation.outcomes import concat
    from thinkroute.evaluation.splits import SPLITS
    from thinkroute.routers import ROUTERS, router_kind

    kinds: dict[str, SplitKind] = {kind: kind for kind in SPLITS}
    named = tuple(dict.fromkeys(router or ()))
    for name in named:
        router_kind(name)
    compared = named
    if every or not named:
        compared = (*(name for name in ROUTERS if slow or name not in SLOW_ROUTERS), *named)
    if setting and len(compared) != 1:
        raise ConfigError("--set is for one router: name it with --router")
    if slow and named and not every:
        raise ConfigError("--slow adds routers to --all: give --all, or name the router with --router")
    _refuse_early(split, shots, encoder, plot)
    protocol = Protocol(
        tuple(dict.fromkeys(compared)),
        kinds[split],
        tuple(range(seeds)),
        test_share,
        parameters=read_settings(setting or []),
        encoder=encoder,
        encoder_parameters=read_settings(encoder_setting or []),
        near_duplicates="drop" if drop_near else "report",
        shots=shots,
        arms=tuple(dict.fromkeys(arm or ())),
        unseen=tuple(dict.fromkeys(unseen or ())),
        keep_going=every or not named,
        fit_limit_s=None if slow or not (every or not named) else fit_limit,
    )
    loaded = _load(tables or [], data, protocol)
    if together:
        loaded = {" + ".join(loaded): concat(list(loaded.values()), list(loaded))}
    boards = _judge(loaded, protocol)
    shared = (
        shared_questions({name: table.texts for name, table in loaded.items()}) if len(loaded) > 1 else []
    )
    found = report.make_report(boards, report.command_line(), shared)
    pictures = _draw(boards, plot, output)
    written = report.write_report(found, output, [path.name for path in pictures]) if output else []
    if json:
        typer.echo(report.to_json(found).decode())
        return
    for board in boards:
        _print_board(board)
    for path in [*written, *pictures]:
        out().print(f"wrote {path}", highlight=False, soft_wrap=True)


def _refuse_early(split: str, shots: int, encoder: str, plot: Path | None) -> None:
    """Refuse, before any data is read, what cannot work."""
    from thinkroute.errors import ConfigError
    from thinkroute.evaluation.plots import check_picture
    from thinkroute.evaluation.splits import SPLITS
    from thinkroute.signals import encoder_kind

    if split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    if shots and split != "arm":
        raise ConfigError(f"--shots {shots} is for --split arm, where an arm is new, not for --split {split}")
    encoder_kind(encoder)
    if plot is not None:
        check_picture(plot)


def _load(references: list[str], data: Path | None, protocol: Protocol) -> dict[str, OutcomeTable]:
    """Tables by name. Without references: every data set that lies here and can be judged under this protocol."""
    from thinkroute.cli.console import err
    from thinkroute.errors import ConfigError, DataError
    from thinkroute.evaluation.datasets import DATASETS, data_root, load_table
    from thinkroute.evaluation.leaderboard import fits_planned

    if references:
        loaded = {Path(reference).stem: load_table(reference, data) for reference in references}
        if len(loaded) < len(references):
            raise ConfigError("two tables have the same name: rename one, a report tells them apart by name")
        return loaded
    root = data_root(data)
    if root is None:
        raise ConfigError("nothing to evaluate: name a table, or give --data a directory of data sets")
    here = [name for name in DATASETS if (root / name).is_dir()]
    if not here:
        raise ConfigError(
            f"nothing to evaluate: {root} holds none of {', '.join(DATASETS)}; name a table, or give --data "
            "the directory they lie in"
        )
    found: dict[str, OutcomeTable] = {}
    for name in here:
        table = load_table(name, data)
        try:
            fits_planned(table, protocol)
        except DataError as error:
            err().print(f"{name} left out: {error.message}", highlight=False, markup=False, soft_wrap=True)
        else:
            found[name] = table
    return found


def _judge(tables: dict[str, OutcomeTable], protocol: Protocol) -> list[Leaderboard]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from thinkroute.cli.console import err
    from thinkroute.errors import DataError
    from thinkroute.evaluation.leaderboard import evaluate as evaluate_table
    from thinkroute.evaluation.leaderboard import fits_planned

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    boards: list[Leaderboard] = []
    with Progress(*columns, console=err(), transient=True) as bar:
        for name, table in tables.items():
            try:
                planned = fits_planned(table, protocol)
            except DataError as error:
                raise DataError(f"{name}: {error.message}") from error
            task = bar.add_task(name, total=planned)

            def advance(line: str, task: int = task) -> None:
                bar.update(bar.task_ids[task], description=line, advance=1)
                # Where no bar can be drawn, a line per fit says how far it has come.
                if not bar.console.is_terminal:
                    bar.console.print(line, highlight=False, markup=False, soft_wrap=True)

            boards.append(evaluate_table(table, protocol, name=name, progress=advance))
    return boards


def _draw(boards: list[Leaderboard], plot: Path | None, output: Path | None) -> list[Path]:
    """Draw what was asked for; the paths drawn. Without costs there is no frontier to draw beside a report."""
    from thinkroute.evaluation.plots import plot_frontiers, plot_reliability

    drawn: list[Path] = []
    frontiers = plot
    if output is not None and plot is None and any(board.cost_unit for board in boards):
        frontiers = output.with_suffix(".svg")
    if frontiers is not None:
        plot_frontiers(boards, frontiers)
        drawn.append(frontiers)
    if output is not None:
        drawn.append(output.with_name(f"{output.stem}-reliability.svg"))
        plot_reliability(boards, drawn[-1])
    return drawn


def _print_board(board: Leaderboard) -> None:
    from thinkroute.cli.console import out, print_whole
    from thinkroute.evaluation.tables import describe, describe_leakage, describe_terminal, terminal_rows

    print_whole(board.table, terminal_rows(board))
    lines = [describe_terminal(board), describe(board), describe_leakage(board)]
    lines += [f"not judged: {dropped.router}: {dropped.reason}" for dropped in board.not_judged]
    for line in lines:
        out().print(line, highlight=False, markup=False)
