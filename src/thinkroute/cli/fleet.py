"""`thinkroute fleet`: build the embedded models from scratch, and measure them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer

from thinkroute.cli.targets import check_figure, check_file, check_folder, make_folder
from thinkroute.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import TaskID
    from rich.table import Table

    from thinkroute.fleet.evaluate import Report
    from thinkroute.fleet.gates import Gate
    from thinkroute.fleet.recipe import Recipe

app = typer.Typer(help="The embedded fleet: small real models, trained here.", no_args_is_help=True)

MemberOption = Annotated[
    list[str] | None, typer.Option("--member", "-m", help="Member (repeatable); default: all.")
]


@app.command("build")
def build(
    member: MemberOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Where members go, one folder each; default: into the package.")
    ] = None,
    work: Annotated[Path, typer.Option(help="Checkpoints; an interrupted build continues from here.")] = Path(
        ".thinkroute-fleet"
    ),
    seed: Annotated[int | None, typer.Option(help="Another seed than the recipe's.")] = None,
    questions: Annotated[
        int, typer.Option("--n", min=1, help="Evaluation questions per family and level.")
    ] = 100,
    threads: Annotated[
        int,
        typer.Option(
            min=1, help="CPU threads. The shipped weights come from one; two take a third less time."
        ),
    ] = 1,
) -> None:
    """Train members from scratch on the CPU; needs the [train] extra.

    The same seed gives the same weights on one thread and the same kind of machine. Ctrl-C is safe: the next call
    continues.
    """
    from thinkroute.cli.console import out as stdout
    from thinkroute.fleet.recipe import RECIPES

    try:
        from thinkroute.fleet.build import build_member
    except ModuleNotFoundError as missing:
        raise ConfigError(
            f"building the fleet needs {missing.name}: pip install 'thinkroute[train]'"
        ) from missing
    chosen = _known(member, tuple(RECIPES))
    make_folder(work, "--work")
    make_folder(out or _package_weights(), "--out")
    for name in chosen:
        recipe = RECIPES[name] if seed is None else replace(RECIPES[name], seed=seed)
        directory = (out or _package_weights()) / name
        with _TrainingBar(recipe) as bar:
            report = build_member(
                recipe,
                directory,
                work / f"{name}.checkpoint",
                questions=questions,
                command=f"thinkroute fleet build --member {name} --seed {recipe.seed} --n {questions} "
                f"--threads {threads}",
                progress=bar.update,
                threads=threads,
                measuring=bar.measure,
            )
        stdout().print(f"{name}: written to {directory}", highlight=False)
        stdout().print(_table(report))


@app.command("eval")
def evaluate(
    member: MemberOption = None,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="Folder with one folder per member; default: the shipped ones."),
    ] = None,
    questions: Annotated[int, typer.Option("--n", min=1, help="Questions per family and level.")] = 40,
    seed: Annotated[int, typer.Option(help="Seed of the evaluation questions.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON instead of a table.")
    ] = False,
    save: Annotated[Path | None, typer.Option(help="Also store the JSON in this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw accuracy and tokens to this .png or .svg.")] = None,
) -> None:
    """Measure accuracy and tokens by member, effort and level, as served."""
    import asyncio

    from rich.progress import Progress

    from thinkroute.cli.console import err
    from thinkroute.cli.console import out as stdout
    from thinkroute.fleet import evaluate as measuring
    from thinkroute.fleet import shipped
    from thinkroute.fleet.gates import judge
    from thinkroute.fleet.record import record

    check_folder(directory, "--dir")
    check_file(save, "--save")
    check_figure(plot, "--plot")
    root = directory or _package_weights()
    present = _present(directory) if directory else shipped.names()
    members = {name: root / name for name in _known(member, present)}
    with Progress(console=err(), transient=True) as bars:
        task = bars.add_task("measuring", total=None)

        def progress(what: str, done: int, total: int) -> None:
            bars.update(task, description=what, completed=done, total=total)

        report = asyncio.run(measuring.evaluate(members, questions=questions, seed=seed, progress=progress))
    command = f"thinkroute fleet eval --n {questions} --seed {seed}" + "".join(
        f" --member {name}" for name in member or ()
    )
    text = record(report, members, seed=seed, command=command)
    if save:
        save.write_text(text, encoding="utf-8")
    if plot:
        from thinkroute.fleet.plot import draw

        draw(report, plot)
    if as_json:
        typer.echo(text, nl=False)
    else:
        stdout().print(_table(report))
        stdout().print(_gate_table(judge(report)))


@app.command("bench")
def bench(
    member: MemberOption = None,
    questions: Annotated[int, typer.Option("--n", min=64, help="Questions at the largest batch.")] = 256,
    threads: Annotated[int, typer.Option(min=1, help="Most threads that either may compute with.")] = 2,
    save: Annotated[Path | None, typer.Option(help="Also store the result as JSON in this file.")] = None,
) -> None:
    """Measure tokens per second at batch 1, 8 and 64, beside Transformers where it is installed."""
    from rich.table import Table

    from thinkroute.cli.console import out as stdout
    from thinkroute.fleet import shipped
    from thinkroute.fleet.bench import measure
    from thinkroute.fleet.record import record_speeds

    chosen = _known(member, shipped.names())
    check_file(save, "--save")
    speeds = [
        speed
        for name in chosen
        for speed in measure(name, shipped.directory(name), questions=questions, threads=threads)
    ]
    table = Table("member", "batch", "engine tok/s", "Transformers tok/s", "times", box=None, pad_edge=False)
    for speed in speeds:
        reference = speed.transformers_tokens_per_s
        beside = (
            ("not installed", "")
            if reference is None
            else (f"{reference:.0f}", f"{speed.engine_tokens_per_s / reference:.1f}")
        )
        table.add_row(speed.member, str(speed.batch), f"{speed.engine_tokens_per_s:.0f}", *beside)
    stdout().print(table)
    if save:
        save.write_text(
            record_speeds(speeds, command=f"thinkroute fleet bench --n {questions} --threads {threads}"),
            encoding="utf-8",
        )


@app.command("export")
def export(
    gguf: Annotated[Path, typer.Option("--gguf", help="The file to write, for llama.cpp's server.")],
    member: Annotated[str, typer.Option("--member", "-m", help="Which member.")],
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="Folder with one folder per member; default: the shipped ones."),
    ] = None,
) -> None:
    """Write a member as one GGUF file; needs the [gguf] extra."""
    from thinkroute.cli.console import out as stdout
    from thinkroute.fleet import shipped
    from thinkroute.fleet.gguf import export_gguf

    check_folder(directory, "--dir")
    check_file(gguf, "--gguf")
    _known([member], _present(directory) if directory else shipped.all_names())
    source = directory / member if directory else shipped.directory(member)
    export_gguf(source, gguf, name=f"thinkroute-fleet-{member}")
    stdout().print(f"{member}: written to {gguf}", highlight=False)


@app.command("serve")
def serve_members(
    member: MemberOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on; it takes no keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8001,
) -> None:
    """Serve members' raw /v1/completions, e.g. as the teacher of a relay in another process."""
    from thinkroute.cli.console import out as stdout
    from thinkroute.fleet import shipped
    from thinkroute.fleet.server import NAME_PREFIX, serve

    members = _known(member, shipped.all_names())
    _check_address(host, port)
    listed = ", ".join(NAME_PREFIX + name for name in members)
    stdout().print(f"{listed} at http://{host}:{port}/v1/completions", highlight=False, soft_wrap=True)
    serve(members, host, port)


def _known(chosen: Sequence[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    for name in chosen or ():
        if name not in known:
            raise ConfigError(
                f"unknown member {name!r}; known members: {', '.join(known) or 'none'}", param="member"
            )
    return tuple(dict.fromkeys(chosen or known))


def _present(directory: Path) -> tuple[str, ...]:
    """The members in a folder, in the shipped order, others after them.

    Raises:
        ConfigError: there are none.
    """
    from thinkroute.fleet import shipped

    found = {path.parent.name for path in directory.glob("*/config.json")}
    if not found:
        raise ConfigError(f"--dir {directory}: holds no members, one folder each", param="--dir")
    known = [name for name in shipped.all_names() if name in found]
    return (*known, *sorted(found - set(known)))


def _check_address(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on before the members are loaded.

    Raises:
        ConfigError: it is taken, or none of this machine's.
    """
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}", param="--port") from error


def _package_weights() -> Path:
    from thinkroute.fleet import shipped

    return shipped.weights_directory()


def _table(report: Report) -> Table:
    """Accuracy by level, in the order measured."""
    from rich.table import Table

    from thinkroute.fleet.tasks import FAMILIES, LEVELS

    questions = report.cells[0].questions
    title = f"Share of right answers, {questions} questions per family and level"
    table = Table(title=title, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("arm", no_wrap=True)
    for head in (*(f"L{level}" for level in LEVELS), "mean", *(name[:3] for name in FAMILIES), "tok"):
        table.add_column(head, justify="right", no_wrap=True)
    for member, effort in dict.fromkeys((cell.member, cell.effort) for cell in report.cells):
        values = [
            *(report.accuracy(member, effort, level) for level in LEVELS),
            report.accuracy(member, effort),
            *(report.accuracy(member, effort, family=family) for family in FAMILIES),
        ]
        shown = [f"{value:.2f}".removeprefix("0") for value in values]
        table.add_row(f"{member}@{effort}", *shown, f"{report.tokens(member, effort):.1f}")
    return table


def _gate_table(gates: Sequence[Gate]) -> Table:
    """What the members promise, met or not."""
    from rich.table import Table

    table = Table("promise", "measured", "bound", "", title="Gates", box=None, pad_edge=False)
    for gate in gates:
        table.add_row(gate.name, f"{gate.measured:.3f}", gate.bound, "met" if gate.passed else "MISSED")
    return table


class _TrainingBar:
    """A progress bar over the optimiser steps of one member."""

    def __init__(self, recipe: Recipe) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from thinkroute.cli.console import err

        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]}"),
            console=err(),
        )
        self._task = self._bars.add_task(f"training {recipe.name}", total=recipe.steps, loss="?")
        self._measuring: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def update(self, step: int, loss: float) -> None:
        """Show the step reached and the recent loss."""
        self._bars.update(self._task, completed=step, loss=f"{loss:.3f}")

    def measure(self, what: str, done: int, total: int) -> None:
        """Show how much of the evaluation is done."""
        if self._measuring is None:
            self._measuring = self._bars.add_task("measuring", total=total, loss="-")
        self._bars.update(self._measuring, description=f"measuring {what}", completed=done)
