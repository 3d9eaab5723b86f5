"""`thinkroute export`: the graded part of the decision log as an outcome table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thinkroute.cli.serve import ConfigOption


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(export)


def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="Outcome table to write (Parquet).")],
    since_days: Annotated[
        float | None, typer.Option(min=0, help="Only the last days; default: everything.")
    ] = None,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Turn the decision log into an outcome table: answers with feedback, and how likely each choice was.

    `fit` and `evaluate` read it like any other table.
    """
    import json
    import time

    from thinkroute.cli.console import out
    from thinkroute.evaluation.from_log import table_from_log
    from thinkroute.evaluation.outcomes import write_outcomes
    from thinkroute.gateway.assemble import open_store, read_config

    store = open_store(read_config(config))
    try:
        since_s = 0.0 if since_days is None else time.time() - since_days * 86_400
        found = table_from_log(store.iter_records(since_s))
    finally:
        store.close()
    write_outcomes(found.table, output)
    console = out()
    if as_json:
        summary = {"table": str(output), "questions": len(found.table), "without_text": found.without_text}
        console.file.write(json.dumps(summary) + "\n")
        return
    console.print(
        f"{output}: {len(found.table)} question(s), {len(found.table.arms)} arm(s)",
        highlight=False,
        markup=False,
    )
    if found.without_text:
        console.print(
            f"{found.without_text} graded answer(s) left out: their question was not kept", markup=False
        )
