"""`thinkroute train`: teach a model when to think, or when to call another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from thinkroute.cli.train_progress import training_progress
from thinkroute.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(
    help="""Teach one model when to think, or when to call a larger one: four published ways, one core.

    fusion      Qwen3's thinking-mode fusion: a model that always thinks becomes one that obeys /think and /no_think.

    adaptthink  AdaptThink: reinforcement with a bonus for answering at once, never at the price of accuracy.

    adacot      AdaCoT: penalties for thinking too little and too much, by labels.

    relay       RelayLLM: a small model learns to call a large one for exactly the tokens it needs.

    Try one on the embedded fleet, on one CPU core, in minutes:

      thinkroute train adaptthink --config adaptthink-fleet --out runs/adaptthink

    The same commands train real checkpoints: see the shipped configurations (`--config list`) and docs/training.md.
    """,
    no_args_is_help=True,
    rich_markup_mode=None,
)

ConfigOption = Annotated[
    str,
    typer.Option(
        "--config",
        "-c",
        help="A training file (.yaml), the name of a shipped one, or `list` to see their names.",
    ),
]
OutOption = Annotated[
    Path, typer.Option("--out", "-o", help="Folder of the run. An interrupted run in it is continued.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a value, e.g. delta=0.1 or rollouts.group=8 (repeatable)."),
]
SeedOption = Annotated[int | None, typer.Option(help="Another seed than the file's.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of a table.")]


@app.command("fusion")
def fusion(
    config: ConfigOption = "fusion-fleet",
    out: OutOption = Path("runs/fusion"),
    override: SetOption = None,
    seed: SeedOption = None,
    json: JsonOption = False,
) -> None:
    """Fuse both modes into one model by supervised fine-tuning.

    Thinking samples are drawn from the model itself and kept where they are right; non-thinking ones come from the data,
    behind an empty block. The result obeys the last flag of a message, and thinks when there is none.

    Watch `loss`. Afterwards compare `/think` with `think` before (nothing forgotten) and `/no_think` with `direct`.
    """
    _train("fusion", config, out, override, seed, json)


@app.command("adaptthink")
def adaptthink(
    config: ConfigOption = "adaptthink-fleet",
    out: OutOption = Path("runs/adaptthink"),
    override: SetOption = None,
    seed: SeedOption = None,
    json: JsonOption = False,
) -> None:
    """Learn to answer at once wherever that costs no accuracy (arXiv 2505.13417).

    First the model's own accuracy on every training question is sampled (kept in the run's folder). Then half of each
    group of responses is forced to answer at once, and an answer earns `delta` for doing so, on top of being right, minus
    the sampled accuracy. `delta` is the dial: 0 never trades accuracy, 0.05 is the paper's choice, more saves more.

    Watch `p_direct/level-…`, the policy's own probability of answering at once, rise where `right/direct/level-…` is high.
    """
    _train("adaptthink", config, out, override, seed, json)


@app.command("adacot")
def adacot(
    config: ConfigOption = "adacot-fleet",
    out: OutOption = Path("runs/adacot"),
    override: SetOption = None,
    seed: SeedOption = None,
    json: JsonOption = False,
) -> None:
    """Learn when to think from labels and penalties (arXiv 2505.11896).

    Labels come from an audit: think where it helps by more than `label_margin`. A supervised warm-up imitates them, then
    PPO with a value head takes `penalties.miss` from a response that should have thought and `penalties.over` from one
    that should not have. `masks_decision: true` is selective loss masking, for stages where every question needs thinking.

    Watch `thinks/label-…`.
    """
    _train("adacot", config, out, override, seed, json)


@app.command("relay")
def relay(
    config: ConfigOption = "relay-fleet",
    out: OutOption = Path("runs/relay"),
    override: SetOption = None,
    seed: SeedOption = None,
    json: JsonOption = False,
) -> None:
    """Learn to call a larger model for the tokens one cannot write oneself (arXiv 2601.05167).

    Questions that the teacher cannot answer are left out. A warm-up puts commands at random into the student's own answers,
    which teaches the syntax. Reinforcement then teaches when: being right alone earns most, being right with calls
    earns less the more the teacher wrote, and calling is explored where nobody was right. `--set calls=false --set
    reward.kind=right` is plain GRPO. Judge the result with `thinkroute evaluate-relay --student runs/relay/model`.

    Watch `right` and `share`: the first rises while the second falls to what is needed.
    """
    _train("relay", config, out, override, seed, json)


@app.command("gates")
def gates(
    method: Annotated[str, typer.Argument(help="adaptthink, adacot, fusion or relay.")],
    work: Annotated[Path, typer.Option(help="Folder of the runs; finished ones are not run again.")] = Path(
        "runs"
    ),
    questions: Annotated[int, typer.Option("--n", min=1, help="Evaluation questions per level.")] = 400,
    save: Annotated[Path | None, typer.Option(help="Store the record in this .json file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw accuracy, tokens and modes to this .png or .svg.")
    ] = None,
    override: SetOption = None,
    finished_only: Annotated[
        bool, typer.Option("--finished-only", help="Run nothing: judge the runs that are there.")
    ] = False,
) -> None:
    """Prove a method on the fleet: several runs, fixed promises, a stored record. Exits with 1 when one is not kept."""
    import json

    from thinkroute.cli.console import out as stdout
    from thinkroute.cli.targets import check_figure, check_file, make_folder

    check_file(save, "--save")
    check_figure(plot, "--plot")
    make_folder(work, "--work")
    try:
        from thinkroute.training import gates as proving
        from thinkroute.training.assemble import Watcher
        from thinkroute.training.settings import read_overrides
    except ModuleNotFoundError as missing:
        raise ConfigError(f"training needs {missing.name}: pip install 'thinkroute[train]'") from missing
    if method not in proving.CAMPAIGNS:
        raise ConfigError(f"no gates for {method!r}; known: {', '.join(proving.CAMPAIGNS)}")
    given = [f"--set {text}" for text in override or ()]
    command = " ".join(["thinkroute train gates", method, f"--n {questions}", *given])
    command += " --finished-only" if finished_only else ""
    with training_progress() as live:
        record = proving.run_campaign(
            method,
            work / method,
            questions=questions,
            overrides=read_overrides(override or []),
            command=command,
            watcher=Watcher(live.stage, live.step),
            finished_only=finished_only,
        )
    if save:
        save.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if plot:
        from thinkroute.training.plot import draw
        from thinkroute.training.relay_plot import draw_relay

        (draw_relay if method == "relay" else draw)(record, plot)
    stdout().print(_verdicts(record))
    if proving.failed(record):
        raise typer.Exit(1)


def _verdicts(record: Mapping[str, Any]) -> Table:
    from rich.table import Table

    table = Table("promise", "measured", "bound", "")
    for gate in record["gates"]:
        mark = "[green]met[/]" if gate["met"] else "[red]not met[/]"
        table.add_row(gate["promise"], f"{gate['measured']:.3f}", gate["bound"], mark)
    return table


def _train(
    method: str, config: str, out: Path, override: list[str] | None, seed: int | None, as_json: bool
) -> None:
    import msgspec

    from thinkroute.cli.console import out as stdout
    from thinkroute.cli.targets import make_folder
    from thinkroute.training import settings
    from thinkroute.training.run_folder import check_run

    if config == "list":
        stdout().print("\n".join(settings.shipped()), highlight=False)
        return
    overrides = settings.read_overrides(override or [])
    if seed is not None:
        overrides["seed"] = seed
    loaded = settings.load(config, method, overrides)
    try:
        from thinkroute.training.assemble import Watcher, execute
    except ModuleNotFoundError as missing:
        raise ConfigError(f"training needs {missing.name}: pip install 'thinkroute[train]'") from missing
    make_folder(out, "--out")
    check_run(out, loaded)
    with training_progress() as live:
        report = execute(loaded, out, Watcher(live.stage, live.step))
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
        return
    stdout().print(_policies(report) if method == "relay" else _table(report))
    stdout().print(
        f"written: {out / 'model'}, {out / 'report.json'}, {out / 'metrics-*.jsonl'}", highlight=False
    )


def _policies(report: Mapping[str, Any]) -> Table:
    from rich.table import Table

    table = Table("policy", "accuracy", "teacher's tokens", "calls", "gap")
    for line in report["policies"]:
        recovered = line["gap_recovered"]
        table.add_row(
            line["policy"],
            f"{line['accuracy']:.3f}",
            f"{line['teacher_share']:.1%}",
            f"{line['calls']:.2f}",
            "" if recovered is None else f"{recovered:.0%}",
        )
    return table


def _table(report: Mapping[str, Any]) -> Table:
    from rich.table import Table

    table = Table("model", "mode", "accuracy by level", "tokens by level", "answers at once, by level")
    for when in ("before", "after"):
        for mode, result in cast("Mapping[str, Any]", report[when]).items():
            by_level = result["by_level"]
            table.add_row(
                when,
                mode,
                " ".join(f"{value:.2f}" for value in by_level["correct"].values()),
                " ".join(f"{value:.0f}" for value in by_level["tokens"].values()),
                " ".join(f"{value:.2f}" for value in by_level["direct"].values()),
            )
    return table
