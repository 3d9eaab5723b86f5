"""`thinkroute cascade`: fit when to stop and when to go on, judge it, and prove it on the embedded fleet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thinkroute.cli.data import JsonOption
from thinkroute.cli.fit import read_settings
from thinkroute.cli.targets import check_figure, check_file

if TYPE_CHECKING:
    from thinkroute.evaluation.cascade_report import CascadeReport

app = typer.Typer(
    help="Cascades: answer cheaply, look at the answer, go on where it pays.", no_args_is_help=True
)

StageOption = Annotated[
    list[str] | None,
    typer.Option("--stage", help="Arm id, in the order they may run (repeatable); default: all."),
]
RouterOption = Annotated[str, typer.Option(help="What reads the query before any answer is there.")]
_QUERY_ROUTERS = ("ridge", "logistic", "mlp", "knn")


@app.command("fit")
def fit(
    table: Annotated[Path, typer.Argument(help="Outcomes collected with --features.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the fitted cascade.")],
    stage: StageOption = None,
    router: RouterOption = "logistic",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="trees, leaf_rows, ridge, seed: name=value (repeatable)."),
    ] = None,
    samples: Annotated[
        list[str] | None, typer.Option(help="arm=count: draw samples of this stage's answers (repeatable).")
    ] = None,
) -> None:
    """Learn from outcomes when an answer is good enough, when to go on, and where to.

    The folder is what `cascade.path` names in the configuration; its arms are written `cascade(a@off -> b@on)`.
    """
    from thinkroute.cli.console import out
    from thinkroute.errors import ConfigError
    from thinkroute.evaluation.cascade_files import read_answers
    from thinkroute.routers.cascade import CascadeSettings, fit_cascade, save_cascade

    answers = read_answers(table)
    known = {"trees", "leaf_rows", "ridge", "seed"}
    settings = read_settings(setting or [])
    if unknown := sorted(set(settings) - known):
        raise ConfigError(f"unknown setting {unknown[0]!r}: use {', '.join(sorted(known))}")
    drawn: dict[str, int] = {}
    for text in samples or []:
        # An arm id may hold an equals sign (`budget=32`).
        name, _, count = text.rpartition("=")
        if not count.isdigit() or name not in answers.table.arms:
            raise ConfigError(f"--samples {text!r} must be arm=count, the arm being in the table")
        drawn[name] = int(count)
    chosen = CascadeSettings(router=router, samples=drawn, **settings)  # pyright: ignore[reportArgumentType]
    fitted = fit_cascade(answers, stage or answers.table.arms, chosen)
    card = save_cascade(fitted, output, notes=answers.table.notes)
    out().print(f"{output}: {card.version}, {card.rows} queries, {' -> '.join(card.stages)}", highlight=False)


@app.command("evaluate")
def evaluate(
    folder: Annotated[Path, typer.Argument(help="A fitted cascade.")],
    fitted_on: Annotated[
        Path, typer.Option("--fit", help="The outcomes it was fitted on, for the routers beside it.")
    ],
    table: Annotated[Path, typer.Option("--eval", help="Outcomes to judge it on.")],
    reference: Annotated[str | None, typer.Option(help="Stage to compare with; default: the last.")] = None,
    json: JsonOption = False,
) -> None:
    """Judge a cascade on questions it has not seen, beside routers that read the question alone."""
    import msgspec

    from thinkroute.evaluation.cascade_files import read_answers
    from thinkroute.evaluation.cascade_report import judge_cascade
    from thinkroute.routers.cascade import load_cascade

    cascade = load_cascade(folder)
    report = judge_cascade(
        cascade, read_answers(fitted_on), read_answers(table), reference or cascade.stages[-1], _QUERY_ROUTERS
    )
    if json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        _show({str(folder): report})


_PAIR = ("student@off", "student@on", "teacher@off", "teacher@budget=32", "teacher@on")
_FLEET = (
    "student@on",
    "expert-arithmetic@on",
    "expert-operators@on",
    "teacher@off",
    "teacher@budget=32",
    "teacher@on",
)


@app.command("prove")
def prove(
    fitted_on: Annotated[Path, typer.Option("--fit", help="Fleet outcomes to learn from.")],
    table: Annotated[Path, typer.Option("--eval", help="Fleet outcomes of the evaluation split.")],
    save: Annotated[Path | None, typer.Option(help="Store the reports as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the frontiers.")] = None,
    ship: Annotated[Path | None, typer.Option(help="Also save the fleet's cascade to this folder.")] = None,
    router: RouterOption = "logistic",
) -> None:
    """Fit and judge the fleet's cascades: student to teacher, all members, and families nobody learned from.

    `make cascade-proof` collects both tables first.
    """
    import msgspec

    from thinkroute.evaluation.cascade_files import read_answers
    from thinkroute.evaluation.cascade_report import judge_cascade, plot_cascades
    from thinkroute.evaluation.cascade_shift import judge_unseen
    from thinkroute.evaluation.report import origin
    from thinkroute.routers.cascade import CascadeSettings, fit_cascade, save_cascade

    check_file(save, "--save")
    check_figure(plot, "--plot")
    learned, judged = read_answers(fitted_on), read_answers(table)
    settings = CascadeSettings(router=router)
    reports: dict[str, CascadeReport] = {}
    for name, stages in (("student to teacher", _PAIR), ("all members", _FLEET)):
        cascade = fit_cascade(learned, stages, settings)
        reports[name] = judge_cascade(cascade, learned, judged, "teacher@on", _QUERY_ROUTERS)
        if ship is not None and stages is _FLEET:
            metrics = {f"ece {stage}": error for stage, error in reports[name].ece.items()}
            save_cascade(cascade, ship, metrics=metrics, notes=learned.table.notes)
    unseen = judge_unseen(learned, judged, _PAIR, "teacher@on", settings, _QUERY_ROUTERS[:2])
    if save is not None:
        command = f"thinkroute cascade prove --fit {fitted_on} --eval {table}"
        body = {"origin": origin(command), "reports": reports, "unseen_families": unseen}
        save.write_bytes(msgspec.json.format(msgspec.json.encode(body), indent=1))
    if plot is not None:
        plot_cascades(reports, str(plot))
    _show(reports)
    for line in unseen:
        typer.echo(
            f"unseen family, query-only {line.router}: quality {line.router_quality:.3f} at {line.router_cost:.3f}; "
            f"cascade {line.cascade_quality:.3f} at {line.cascade_cost:.3f}; utility gain {line.utility_gain.mean:+.4f} "
            f"[{line.utility_gain.low:+.4f}, {line.utility_gain.high:+.4f}]"
        )


def _show(reports: dict[str, CascadeReport]) -> None:
    for name, report in reports.items():
        typer.echo(
            f"{name}: {report.queries} questions, fitted on {report.fitted_on}; {report.reference} "
            f"{report.reference_quality:.4f} at {report.reference_tokens:.1f} tokens; AIQ {report.aiq:.4f}; "
            f"an oracle generates {report.oracle_generated_share:.3f} of its tokens"
        )
        for label, point in (
            ("cheapest", report.chosen),
            ("fewest reference tokens", report.fewest_reference_tokens),
        ):
            if point is not None:
                typer.echo(
                    f"  {label} with 97 %: quality {point.quality_share:.4f}, dollars {point.cost_share:.3f}, "
                    f"reference tokens {point.reference_token_share:.3f}, all tokens {point.generated_share:.3f}"
                )
        for line in report.query_routers:
            share = "never" if line.cost_share is None else f"{line.cost_share:.3f}"
            typer.echo(
                f"  query only, {line.router}: AIQ {line.aiq:.4f}, dollars for 97 % {share}; cascade's AIQ "
                f"{line.aiq_gain.mean:+.4f} [{line.aiq_gain.low:+.4f}, {line.aiq_gain.high:+.4f}], quality at its cost "
                f"{line.quality_gain.mean:+.4f} [{line.quality_gain.low:+.4f}, {line.quality_gain.high:+.4f}]"
            )
        ece = ", ".join(f"{stage} {error:.3f}" for stage, error in report.ece.items())
        typer.echo(f"  ECE {ece}")
