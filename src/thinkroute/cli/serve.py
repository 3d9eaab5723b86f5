"""`thinkroute serve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from thinkroute.routers.base import Router

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML configuration; none: the embedded fleet.", exists=False),
]
UpstreamOption = Annotated[
    str | None,
    typer.Option(
        "--upstream", help="An OpenAI-compatible API root, e.g. http://127.0.0.1:8000/v1; no file needed."
    ),
]
UpstreamModelOption = Annotated[
    list[str] | None,
    typer.Option("--model", help="With --upstream: the model to use (repeatable); default: all it lists."),
]
UpstreamKeyOption = Annotated[
    str | None,
    typer.Option("--upstream-key", envvar="OPENAI_API_KEY", help="With --upstream: the key it wants."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve")(serve)


def prior_note(router: Router) -> str:
    """What a user must know of a router that has seen no outcomes; empty for a fitted one."""
    if router.arms:
        return ""
    return " (a prior: it has seen no answer of these arms; collect some, and `thinkroute fit` replaces it)"


def serve(
    config: ConfigOption = None,
    upstream: UpstreamOption = None,
    model: UpstreamModelOption = None,
    upstream_key: UpstreamKeyOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; default 8080, 0 picks a free one.")
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Start the OpenAI-compatible gateway.

    Without a file it serves the embedded fleet of small models: no key, no download. Point any OpenAI client at
    http://127.0.0.1:8080/v1 and ask for the model "auto".
    """
    from thinkroute.cli.console import err
    from thinkroute.gateway.assemble import assemble, read_config
    from thinkroute.gateway.serve import run

    settings = read_config(config, upstream, model or [], upstream_key, host=host, port=port)
    runtime = assemble(settings)
    console = err()

    def announce(url: str) -> None:
        arms = ", ".join(arm.id for arm in runtime.resolved.arms)
        console.print(f"[bold]thinkroute[/bold] is ready at [bold]{url}/v1[/bold]  (Ctrl-C stops it)")
        console.print(f"arms: {arms}", highlight=False, markup=False)
        console.print(
            f"router: {runtime.router.version}{prior_note(runtime.router)}", highlight=False, markup=False
        )

    run(runtime, log_level=log_level, on_ready=announce)
