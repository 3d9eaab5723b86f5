"""`thinkroute fit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thinkroute.cli.data import DataOption, JsonOption

if TYPE_CHECKING:
    from thinkroute.evaluation.leaderboard import Protocol
    from thinkroute.routers import CalibrationCard
    from thinkroute.routers.table import OutcomeTable
    from thinkroute.signals.base import Scalar


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("fit")(fit)


def fit(
    tables: Annotated[list[str], typer.Argument(help="Outcome tables: Parquet files or names of data sets.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the fitted router.")],
    router: Annotated[
        str, typer.Option(help="Which router: guarded_knn, kmeans, …; a wrong name lists all.")
    ] = "guarded_knn",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Setting of the router, e.g. neighbours=20 (repeatable)."),
    ] = None,
    encoder: Annotated[
        str, typer.Option(help="Which encoder reads the text; a wrong name lists all.")
    ] = "blend",
    encoder_setting: Annotated[
        list[str] | None, typer.Option("--encoder-set", help="Setting of the encoder (repeatable).")
    ] = None,
    check: Annotated[
        bool, typer.Option(help="First judge the router on held-out queries, and write that on its card.")
    ] = True,
    join: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a fitted graph router: the tables' new arms join it, nothing is trained."
        ),
    ] = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Fit a router on outcome tables and save it.

    The folder written is what `thinkroute serve` takes as its router.
    """
    import msgspec
    from rich.status import Status

    from thinkroute.cli.console import err, out
    from thinkroute.errors import ConfigError, DataError
    from thinkroute.evaluation.leaderboard import Protocol
    from thinkroute.routers import fit_router, router_kind, save_router
    from thinkroute.signals import fit_encoder

    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file: a router is a folder, give --output another name")
    settings, encoder_settings = read_settings(setting or []), read_settings(encoder_setting or [])
    if join is not None:
        if settings or encoder_settings:
            raise ConfigError(f"--join {join} trains nothing: leave out --set and --encoder-set")
        _join(join, _read(tables, data), output, json)
        return
    reads_text = router_kind(router).reads_text
    with Status("reading outcomes", console=err()) as status:
        table = _read(tables, data)
        held_out = _HeldOut(unknown_because="--no-check")
        if check:
            status.update(f"judging {router} on held-out queries")
            protocol = Protocol((router,), seeds=(0,), resamples=200, parameters=settings)
            held_out = _held_out(table, protocol, encoder, encoder_settings)
        status.update(f"fitting {router} on {len(table)} queries")
        reader = fit_encoder(encoder, table.texts, encoder_settings) if reads_text else None
        try:
            fitted = fit_router(router, table, parameters=settings, encoder=reader)
        except DataError as error:
            raise DataError(f"{', '.join(tables)}: {error.message}") from error
        card = save_router(
            fitted,
            output,
            metrics=held_out.metrics,
            calibration=held_out.calibration,
            notes=table.notes,
        )
    if json:
        typer.echo(msgspec.json.encode(card).decode())
        return
    out().print(f"{output}: {card.version}, {card.rows} queries, {len(card.arms)} arms", highlight=False)
    _print_held_out(held_out)


def _read(tables: Sequence[str], data: Path | None) -> OutcomeTable:
    from thinkroute.evaluation.datasets import load_table
    from thinkroute.evaluation.outcomes import concat

    parts = [load_table(reference, data) for reference in tables]
    return parts[0] if len(parts) == 1 else concat(parts, [Path(reference).stem for reference in tables])


def _join(folder: Path, table: OutcomeTable, output: Path, json: bool) -> None:
    import msgspec

    from thinkroute.cli.console import out
    from thinkroute.cli.join import join_arms

    card, joined = join_arms(folder, table, output)
    if json:
        typer.echo(msgspec.json.encode(card).decode())
        return
    out().print(
        f"{output}: {card.version}, {len(card.arms)} arms; joined: {', '.join(joined)}",
        highlight=False,
        soft_wrap=True,
    )


def _print_held_out(held_out: _HeldOut) -> None:
    from thinkroute.cli.console import out

    for name, value in held_out.metrics.items():
        out().print(f"  {name}: {value:.4f}", highlight=False)
    if held_out.calibration is None:
        out().print(
            f"  not judged: {held_out.unknown_because}", highlight=False, markup=False, soft_wrap=True
        )
    else:
        found = held_out.calibration
        out().print(
            f"  held_out_ece: {found.ece:.4f} (predicted quality is off by so much, over {found.cells:,} cells)",
            highlight=False,
            soft_wrap=True,
        )


def read_settings(texts: Sequence[str]) -> dict[str, Scalar]:
    """`name=value` texts as settings: whole numbers, numbers, true/false, else text.

    Raises:
        ConfigError: a text without `=`.
    """
    from thinkroute.errors import ConfigError

    settings: dict[str, Scalar] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"setting {text!r} must have the form name=value")
        settings[name] = _scalar(value)
    return settings


def _scalar(text: str) -> Scalar:
    if text in ("true", "false"):
        return text == "true"
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


@dataclass(frozen=True)
class _HeldOut:
    """What a router is worth on queries it was not fitted on."""

    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    calibration: CalibrationCard | None = None
    unknown_because: str = ""
    """Why nothing was measured, where nothing was."""


def _held_out(
    table: OutcomeTable, protocol: Protocol, encoder: str, encoder_settings: Mapping[str, Scalar]
) -> _HeldOut:
    """Worth on 30 % of the queries, after fitting on the others; a table too small to tell is no error."""
    from thinkroute.errors import DataError
    from thinkroute.evaluation.leaderboard import evaluate
    from thinkroute.routers import CalibrationCard

    protocol = replace(protocol, encoder=encoder, encoder_parameters=encoder_settings)
    try:
        board = evaluate(table, protocol, name="held out")
    except DataError as error:
        return _HeldOut(unknown_because=error.message)
    score = board.routers[0]
    metrics = {
        "held_out_quality": score.quality,
        "held_out_quality_best_single": board.baselines.best_single.quality,
        "held_out_quality_oracle": board.baselines.oracle.quality,
    }
    if score.aiq is not None and board.baselines.zero_router_aiq is not None:
        metrics |= {
            "held_out_aiq": score.aiq.mean,
            "held_out_aiq_random_mixing": board.baselines.zero_router_aiq,
        }
    found = score.calibration
    return _HeldOut(
        metrics,
        CalibrationCard(
            cells=sum(part.cells for part in found.bins),
            ece=found.ece,
            brier=found.brier,
            chosen_excess=found.chosen_excess,
            reliability=tuple((part.predicted, part.measured, part.cells) for part in found.bins),
        ),
    )
