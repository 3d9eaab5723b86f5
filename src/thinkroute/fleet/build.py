"""Building one member from its recipe to a finished directory: train, export, measure, write the card."""

from __future__ import annotations

import asyncio
from pathlib import Path

from thinkroute.fleet import evaluate
from thinkroute.fleet.card import write_card
from thinkroute.fleet.evaluate import Report
from thinkroute.fleet.export import export_member
from thinkroute.fleet.recipe import Recipe
from thinkroute.fleet.train import Progress, Trainer


def build_member(
    recipe: Recipe,
    directory: Path,
    checkpoint: Path,
    *,
    questions: int,
    command: str,
    progress: Progress,
    threads: int = 1,
    measuring: evaluate.Progress = lambda what, done, total: None,
) -> Report:
    """Train a member (or finish an interrupted run), write it to `directory` and measure it there.

    Args:
        recipe: What to build.
        directory: Receives weights, tokenizer, graph and card; existing files are replaced.
        checkpoint: State of the run; an existing one of the same recipe is continued.
        questions: Evaluation questions per family and level for the card.
        command: How it was called, for the card.
        progress: Called as training goes on.
        threads: Of torch; the shipped weights come from one.
        measuring: Called as the evaluation for the card goes on.
    """
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    model = Trainer(recipe, checkpoint).run(progress, threads=threads)
    export_member(recipe, model.state_dict(), directory)
    members = {recipe.name: directory}
    report = asyncio.run(evaluate.evaluate(members, questions=questions, seed=0, progress=measuring))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    write_card(recipe, report, directory, parameters=parameters, command=command)
    return report
