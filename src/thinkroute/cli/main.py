"""`thinkroute`: the table of commands, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from thinkroute import __version__
from thinkroute.cli import (
    ask,
    cascade,
    collect,
    config,
    data,
    evaluate,
    explain,
    export,
    fit,
    fleet,
    serve,
    signals,
    train,
)
from thinkroute.cli.console import print_error
from thinkroute.errors import ThinkrouteError

app = typer.Typer(
    name="thinkroute",
    help="""Decide how much compute each LLM request deserves, and enforce it.

    Try it without any key or GPU:

      thinkroute ask "Who is the tutor of the neighbor of Dora?"

      thinkroute serve                                  the gateway on the embedded fleet

      thinkroute serve --upstream http://host:port/v1   … or in front of your own server

    Then teach it on your own outcomes: collect → fit → evaluate → serve.
    """,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"thinkroute {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


for command in (serve, ask, explain, collect, fit, evaluate, export, data, signals):
    command.register(app)
app.add_typer(config.app, name="config")
app.add_typer(fleet.app, name="fleet")
app.add_typer(cascade.app, name="cascade")
app.add_typer(train.app, name="train")


def main() -> None:
    """Run the command line; errors made on purpose print one message and exit with 2."""
    # Our matrices are small: threads of the linear algebra library only fight each other. Read when numpy loads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        app()
    except ThinkrouteError as error:
        print_error(error)
        sys.exit(2)


if __name__ == "__main__":
    main()
