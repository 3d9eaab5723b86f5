"""`thinkroute config`: check, describe and show configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Check, describe and show configurations.", no_args_is_help=True, rich_markup_mode=None
)

FileArgument = Annotated[Path, typer.Argument(help="YAML configuration.")]


@app.command("validate")
def validate(file: FileArgument) -> None:
    """Check a file: keys, types, environment references, names, prices, the router, and the address."""
    from thinkroute.cli.console import out
    from thinkroute.cli.serve import prior_note
    from thinkroute.config import load_config
    from thinkroute.gateway.assemble import resolve_shipped, router_of
    from thinkroute.gateway.serve import check_exposure

    config = load_config(file)
    check_exposure(config.server)
    resolved = resolve_shipped(config)
    router = router_of(resolved)
    out().print(
        f"{file} is valid: {len(resolved.models)} model(s), {len(resolved.arms)} arm(s), "
        f"router {router.version}{prior_note(router)}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors and CI."""
    import json

    from thinkroute.cli.console import out
    from thinkroute.config import Config

    out().file.write(json.dumps(Config.model_json_schema(), indent=2) + "\n")


@app.command("show")
def show(
    file: Annotated[Path | None, typer.Argument(help="YAML configuration; none: the defaults.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show what a file resolves to: models with their families and prices, and every arm. Secrets stay hidden."""
    import json

    from rich.table import Table

    from thinkroute.cli.console import out
    from thinkroute.config import Config, load_config
    from thinkroute.gateway.assemble import resolve_shipped

    config = load_config(file) if file is not None else Config()
    resolved = resolve_shipped(config)
    models = [
        {
            "model": model.name,
            "engine": model.engine if model.engine == "embedded" else model.base_url,
            "family": model.family.name,
            "efforts": list(model.family.levels),
            "off_means": model.family.off_means,
            "price_usd_per_mtok": [model.price.input_usd_per_mtok, model.price.output_usd_per_mtok]
            if model.price
            else None,
            "context_window": model.context_window,
        }
        for model in resolved.models.values()
    ]
    arms = [{"arm": arm.id, "program": arm.program} for arm in resolved.arms]
    console = out()
    if as_json:
        settings = json.loads(config.model_dump_json())
        console.file.write(
            json.dumps({"models": models, "arms": arms, "settings": settings}, indent=2) + "\n"
        )
        return
    for title, rows in (("models", models), ("arms", arms)):
        table = Table(title=title, title_justify="left")
        for name in rows[0] if rows else ():
            table.add_column(name)
        for row in rows:
            table.add_row(*("unknown" if cell is None else str(cell) for cell in row.values()))
        console.print(table)
