"""`thinkroute explain`: the decision card of an earlier request."""

from __future__ import annotations

from typing import Annotated

import typer

from thinkroute.cli.serve import ConfigOption


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("explain")(explain)


def explain(
    decision_id: Annotated[
        str, typer.Argument(help="Id from the x-thinkroute-decision header, or `last` for the newest.")
    ] = "last",
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Show why a request was answered the way it was: every arm, its predictions, and what was really spent."""
    import orjson

    from thinkroute.cli.card import card_table
    from thinkroute.cli.console import out
    from thinkroute.errors import UnknownDecision
    from thinkroute.gateway.assemble import open_store, read_config
    from thinkroute.gateway.recording import card

    store = open_store(read_config(config))
    try:
        record = store.get(decision_id) if decision_id != "last" else store.newest()
    finally:
        store.close()
    if record is None:
        message = (
            "the log holds no decision yet"
            if decision_id == "last"
            else f"no decision {decision_id!r} in the log"
        )
        raise UnknownDecision(message, param="decision_id")
    shown = card(record)
    if as_json:
        out().file.write(orjson.dumps(shown).decode() + "\n")
    else:
        out().print(card_table(shown))
