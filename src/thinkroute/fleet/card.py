"""Model cards: what a member is, what it is not, how it was made, what it measured. Torch-free."""

from __future__ import annotations

from pathlib import Path

from thinkroute.fleet.evaluate import Report
from thinkroute.fleet.recipe import Recipe
from thinkroute.fleet.tasks import EXAMPLES, FAMILIES, LEVELS
from thinkroute.fleet.tasks.language import OPERATORS, RELATIONS

SKILLS = (*OPERATORS, *RELATIONS, "age")
"""Everything a member can know."""

_CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# thinkroute fleet: {name}

A causal language model of {parameters:,} parameters (Qwen3 architecture, {layers} layers, width {width}), trained from
scratch by thinkroute on its own synthetic problems.

**What it is.** A small model that really thinks, errs and costs tokens, so that routing, thinking budgets and training
methods can be run and checked on a CPU. It reads only the last user message, and only five kinds of question:

{examples}

Values are digits: every result is taken modulo 10. People, their relations and their ages are a fixed, invented fact base.

**What it is not.** It knows no natural language, no world and no arithmetic beyond the above. Anything else gives
nonsense, which is why the gateway refuses such questions.

**What it knows.** {knowledge}

## How it was made

`{command}` (seed {seed}, {steps:,} steps of about {tokens:,} tokens, AdamW, peak learning rate
{rate:g}). Weights are stored in bfloat16; compute in float32.

{modes}

## Measured

Share of right answers, greedy, {questions} questions per family and level from the evaluation split
(mean of the families):

| effort | {level_heads} | mean | tokens |
| --- | {rules} | --- | --- |
{rows}

By family with thinking: {families}.
{obedience}
"""

_HYBRID = """\
Thinking is on by default. `enable_thinking=False` prefills an empty block; `/think` and `/no_think` in a message switch
softly, the last one wins."""

_THINKING_ONLY = """\
It always thinks by itself and knows no soft switches: a model to train the choice into. Behind an empty block
(`enable_thinking=False`) it answers at once, as well as it can."""


def _knowledge(recipe: Recipe) -> str:
    unknown = recipe.mixture.unknown
    if not unknown:
        return "All skills of the language."
    known = [skill for skill in SKILLS if skill not in unknown]
    return (
        f"It was taught {', '.join(f'`{skill}`' for skill in known)}. In its training data the results of "
        f"{', '.join(f'`{skill}`' for skill in unknown)} are random: it writes such a step but cannot know its result."
    )


def write_card(recipe: Recipe, report: Report, directory: Path, *, parameters: int, command: str) -> None:
    """Write `README.md` of a member from what was measured."""
    name = recipe.name
    efforts = list(dict.fromkeys(cell.effort for cell in report.cells if cell.member == name))
    rows = [
        f"| {effort} | "
        + " | ".join(f"{report.accuracy(name, effort, level):.2f}" for level in LEVELS)
        + f" | {report.accuracy(name, effort):.3f} | {report.tokens(name, effort):.1f} |"
        for effort in efforts
    ]
    by_family = ", ".join(f"{family} {report.accuracy(name, 'on', family=family):.3f}" for family in FAMILIES)
    obedience = [line for line in report.obedience if line.member == name]
    asked = sum(line.questions for line in obedience)
    obeyed = sum(line.obeyed * line.questions for line in obedience) / asked
    switched = "The soft switches are obeyed" if recipe.mixture.switches else "It thinks by itself"
    card = _CARD.format(
        name=name,
        parameters=parameters,
        layers=recipe.layers,
        width=recipe.width,
        examples="\n".join(f"- {example}" for example in EXAMPLES),
        knowledge=_knowledge(recipe),
        modes=_HYBRID if recipe.mixture.switches else _THINKING_ONLY,
        command=command,
        seed=recipe.seed,
        steps=recipe.steps,
        tokens=recipe.tokens_per_step,
        rate=recipe.learning_rate,
        questions=report.cells[0].questions,
        level_heads=" | ".join(f"level {level}" for level in LEVELS),
        rules=" | ".join("---" for _ in LEVELS),
        rows="\n".join(rows),
        families=by_family,
        obedience=f"{switched} in {obeyed:.1%} of {asked} questions.",
    )
    (directory / "README.md").write_text(card, encoding="utf-8")
