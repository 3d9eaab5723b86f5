"""`thinkroute data`: list, fetch, convert and show outcome data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from thinkroute.routers.table import OutcomeTable

DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Directory that holds one folder per data set; default: $THINKROUTE_DATA."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(help="List, fetch, convert and show outcome data.", no_args_is_help=True)
    group.command("list")(list_datasets)
    group.command("fetch")(fetch_dataset)
    group.command("convert")(convert_datasets)
    group.command("show")(show)
    app.add_typer(group, name="data")


def list_datasets(data: DataOption = None, json: JsonOption = False) -> None:
    """List the public data sets thinkroute can read, and which of them lie here."""
    import msgspec
    from rich.table import Column, Table

    from thinkroute.cli.console import out
    from thinkroute.evaluation.datasets import DATASETS, data_root, dataset

    root = data_root(data)
    known = [dataset(name) for name in DATASETS]
    here = {found.name: root is not None and (root / found.name).is_dir() for found in known}
    if json:
        rows = [
            {
                "name": found.name,
                "title": found.title,
                "licence": found.licence,
                "source": found.source,
                "here": here[found.name],
                "fetchable": bool(found.remote),
            }
            for found in known
        ]
        typer.echo(msgspec.json.encode(rows).decode())
        return
    table = Table(Column("name", no_wrap=True), "here", "fetch", "what", Column("licence", overflow="fold"))
    for found in known:
        yes_here, yes_fetch = ("yes" if flag else "–" for flag in (here[found.name], bool(found.remote)))
        table.add_row(found.name, yes_here, yes_fetch, found.title, found.licence)
    out().print(table)


def fetch_dataset(
    name: Annotated[str, typer.Argument(help="Data set to download; see `thinkroute data list`.")],
    data: DataOption = None,
) -> None:
    """Download a data set's files from its public hub."""
    from rich.progress import Progress

    from thinkroute.cli.console import err, out
    from thinkroute.errors import ConfigError
    from thinkroute.evaluation.datasets import DATA_VARIABLE, data_root, dataset
    from thinkroute.evaluation.datasets.fetch import fetch

    root = data_root(data)
    if root is None:
        raise ConfigError(f"where should {name} go? Give --data DIRECTORY or set {DATA_VARIABLE}")
    with Progress(console=err()) as bar:
        tasks = {remote.name: bar.add_task(remote.name, total=None) for remote in dataset(name).remote}

        def advance(file: str, done: int, total: int | None) -> None:
            bar.update(tasks[file], completed=done, total=total)

        digests = fetch(dataset(name), root / name, advance)
    for file, digest in digests.items():
        out().print(f"{root / name / file}  sha256 {digest}", highlight=False, soft_wrap=True)


def convert_datasets(
    names: Annotated[list[str], typer.Argument(help="Data sets to convert, or `all` that lie here.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory for the Parquet files.")],
    data: DataOption = None,
) -> None:
    """Convert data sets to outcome tables in Parquet."""
    from rich.progress import track

    from thinkroute.cli.console import err, out
    from thinkroute.errors import ConfigError
    from thinkroute.evaluation.datasets import DATA_VARIABLE, DATASETS, convert, data_root
    from thinkroute.evaluation.outcomes import write_outcomes

    root = data_root(data)
    if root is None:
        raise ConfigError(f"where do the data sets lie? Give --data DIRECTORY or set {DATA_VARIABLE}")
    chosen = [name for name in DATASETS if (root / name).is_dir()] if names == ["all"] else names
    if not chosen:
        raise ConfigError(
            f"{root} holds none of {', '.join(DATASETS)}: fetch one with `thinkroute data fetch`"
        )
    for name in track(chosen, description="converting", console=err()):
        table = convert(name, root / name)
        path = output / f"{name}.parquet"
        write_outcomes(table, path)
        out().print(f"{path}: {len(table)} queries × {len(table.arms)} arms", highlight=False, soft_wrap=True)


def show(
    table: Annotated[str, typer.Argument(help="Parquet file, or name of a data set that lies here.")],
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Show what an outcome table holds: arms, means, and how much is missing."""
    import msgspec
    from rich.table import Table

    from thinkroute.cli.console import out
    from thinkroute.evaluation.datasets import load_table

    loaded = load_table(table, data)
    arms = _arm_means(loaded)
    if json:
        facts = {
            "queries": len(loaded),
            "hash": loaded.digest(),
            "tasks": sorted({task for task in loaded.tasks if task}),
            "notes": dict(loaded.notes),
            "arms": arms,
        }
        typer.echo(msgspec.json.encode(facts).decode())
        return
    measures = ("measured", *loaded.measures)
    grid = Table("arm", *measures, title=f"{table}: {len(loaded)} queries, {len(set(loaded.tasks))} tasks")
    for arm, means in arms.items():
        cells = ("–" if means[name] is None else f"{means[name]:.4g}" for name in measures)
        grid.add_row(arm, *cells)
    out().print(grid)
    for key, note in loaded.notes.items():
        out().print(f"{key}: {note}", highlight=False, markup=False)


def _arm_means(table: OutcomeTable) -> dict[str, dict[str, float | None]]:
    """Mean of every measure per arm over its measured cells, None without any; and the share of graded cells."""
    import numpy as np

    means: dict[str, dict[str, float | None]] = {}
    for column, arm in enumerate(table.arms):
        graded = ~np.isnan(table.quality_QA[:, column])
        means[arm] = {"measured": float(graded.mean()) if len(table) else 0.0}
        for measure in table.measures:
            cells = table.measured[measure][:, column]
            seen = cells[~np.isnan(cells)]
            means[arm][measure] = float(seen.mean()) if seen.size else None
    return means
