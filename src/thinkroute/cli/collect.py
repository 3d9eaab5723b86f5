"""`thinkroute collect`: ask every arm every question, grade, and write an outcome table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thinkroute.cli.serve import ConfigOption, UpstreamKeyOption, UpstreamModelOption, UpstreamOption

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from thinkroute.evaluation.collect import Answered, Collected, Question
    from thinkroute.evaluation.graders import Grader
    from thinkroute.gateway.exchange import Exchange
    from thinkroute.gateway.runtime import Runtime
    from thinkroute.routers.table import Measure, OutcomeTable
    from thinkroute.types import Arm


def _nothing(collected: Collected, journal: Path) -> str:
    why = ", ".join(f"{code} ({count})" for code, count in collected.errors.items())
    return (
        f"no answer was collected: {collected.failed} call(s) failed{': ' + why if why else ''}, "
        f"{collected.unasked} not asked because of the spend cap; {journal} has the details"
    )


@dataclass(frozen=True)
class ArmSummary:
    """Means of one arm over the questions it answered."""

    arm: str
    answered: int
    quality: float | None
    reasoning_tokens: float | None
    answer_tokens: float | None
    cost_usd: float | None


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("collect")(collect)


def collect(
    output: Annotated[Path, typer.Option("--output", "-o", help="Outcome table to write (Parquet).")],
    questions: Annotated[
        Path | None, typer.Argument(help="JSON lines with id, text, answer, and optionally grader and task.")
    ] = None,
    fleet: Annotated[
        int | None, typer.Option(min=1, help="Instead of a file: this many questions of the embedded fleet.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the fleet's questions.")] = 0,
    arm: Annotated[list[str] | None, typer.Option(help="Arm to ask (repeatable); default: all.")] = None,
    grader: Annotated[
        str | None,
        typer.Option(
            help="exact, number, contains, multiple_choice or package.module:function; default: each question's."
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Calls under way at once.")] = 8,
    max_usd: Annotated[
        float | None,
        typer.Option(
            min=0, help="Stop before spending more than this; answers are then cut at 4,096 tokens."
        ),
    ] = None,
    journal: Annotated[
        Path | None,
        typer.Option(help="Progress file; run again with it to resume. Default: OUTPUT.journal.jsonl"),
    ] = None,
    config: ConfigOption = None,
    upstream: UpstreamOption = None,
    model: UpstreamModelOption = None,
    upstream_key: UpstreamKeyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    features: Annotated[
        bool, typer.Option(help="Also keep what answers say of themselves: what `cascade fit` learns from.")
    ] = False,
    samples: Annotated[
        int,
        typer.Option(min=0, help="With --features: further samples of each answer, to see if they agree."),
    ] = 0,
    split: Annotated[
        str, typer.Option(help="With --fleet: `fit` (questions to learn from) or `eval` (to judge by).")
    ] = "fit",
) -> None:
    """Ask every arm every question and grade the answers.

    The table is what `fit` and `evaluate` read. Every answer is kept at once in a journal: a run that was stopped goes on
    where it was, failed calls are asked again, and a failed call is a missing cell, never a wrong answer.
    """
    import asyncio
    from dataclasses import replace

    from thinkroute.errors import ConfigError, DataError
    from thinkroute.evaluation.collect import read_questions
    from thinkroute.evaluation.graders import grader_named
    from thinkroute.evaluation.outcomes import write_outcomes
    from thinkroute.gateway.arm_info import arm_info
    from thinkroute.gateway.assemble import assemble, read_config
    from thinkroute.routers.prior import PriorRouter
    from thinkroute.store import MemoryStore

    if (questions is None) == (fleet is None):
        raise ConfigError("give a question file, or --fleet N for questions of the embedded fleet")
    # Every call names its arm, so no prediction is needed: not even the router that these outcomes will teach.
    runtime = assemble(
        read_config(config, upstream, model or [], upstream_key), MemoryStore(), PriorRouter([])
    )
    arms = _chosen(runtime, arm or [])
    if split not in ("fit", "eval"):
        raise ConfigError(f"--split {split!r}: use fit or eval", param="--split")
    asked = read_questions(questions) if questions is not None else fleet_questions(fleet or 0, seed, split)
    judge = grader_named(grader) if grader else _fleet_grader if fleet else None
    progress_file = journal or output.with_name(output.name + ".journal.jsonl")
    run = _run(
        runtime,
        asked,
        arms,
        progress_file,
        judge,
        concurrency,
        max_usd,
        quiet=as_json,
        features=features,
        samples=samples,
    )
    collected = asyncio.run(run)
    if not collected.table.arms:
        raise DataError(_nothing(collected, progress_file))
    info = {arm: known for arm, known in arm_info(runtime.resolved).items() if arm in collected.table.arms}
    collected = replace(collected, table=replace(collected.table, arm_info=info))
    if features:
        from thinkroute.evaluation.cascade_files import answers_of, write_answers

        write_answers(answers_of(collected), output)
    else:
        write_outcomes(collected.table, output)
    _report(collected, output, as_json=as_json)


def fleet_questions(count: int, seed: int, purpose: str = "fit") -> list[Question]:
    """Different questions of the fleet's language, equally many of each family and level where there are so many.

    They come from the split that no member was trained on; short questions are few, so the training split fills up.
    None comes from the evaluation split, unless the purpose is `eval`: then all do.
    """
    from random import Random

    from thinkroute.evaluation.collect import Question
    from thinkroute.fleet.tasks import FAMILIES, LEVELS, FamilyName, Split, generate

    rng = Random(seed)  # noqa: S311 - reproducible questions, not secrets
    kinds: list[tuple[FamilyName, int]] = [(family, level) for family in FAMILIES for level in LEVELS]
    found: dict[str, Question] = {}

    def draw(family: FamilyName, level: int, split: Split) -> bool:
        for _ in range(_TRIES):
            problem = generate(rng, family, level, split)
            if problem.question not in found:
                found[problem.question] = Question(
                    id=f"fleet-{'eval-' if purpose == 'eval' else ''}{seed}-{len(found)}",
                    text=problem.question,
                    answer=problem.answer,
                    task=f"{family}-{level}",
                )
                return True
        return False

    while len(found) < count:
        before = len(found)
        for family, level in kinds[: count - len(found)]:
            if purpose == "eval":
                draw(family, level, "eval")
            else:
                _ = draw(family, level, "filter") or draw(family, level, "train")
        if len(found) == before:
            break
    return list(found.values())


_TRIES = 20


def _fleet_grader(answer: str, reference: str) -> float:
    from thinkroute.fleet.tasks import result_of

    return float(result_of(answer) == reference)


def _chosen(runtime: Runtime, wanted: Sequence[str]) -> list[Arm]:
    from thinkroute.errors import ConfigError
    from thinkroute.types import arm_by_id

    arms = runtime.resolved.arms
    if not wanted:
        # What the shipped cascade does follows from its stages, which are all asked.
        return [arm for arm in arms if not arm.stages or runtime.resolved.config.arms]
    chosen = [arm_by_id(arms, name) for name in wanted]
    for name, arm in zip(wanted, chosen, strict=True):
        if arm is None:
            raise ConfigError(
                f"no arm {name!r}; there are {', '.join(arm.id for arm in arms)}", param="--arm"
            )
    return [arm for arm in chosen if arm is not None]


async def _run(
    runtime: Runtime,
    questions: Sequence[Question],
    arms: Sequence[Arm],
    journal: Path,
    grader: Grader | None,
    concurrency: int,
    max_usd: float | None,
    *,
    quiet: bool,
    features: bool = False,
    samples: int = 0,
) -> Collected:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from thinkroute.cli.console import err
    from thinkroute.evaluation.collect import SpendCap
    from thinkroute.evaluation.collect import collect as collect_outcomes

    columns = (
        TextColumn("asking"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("${task.fields[spent]:.4g}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err(), disable=quiet) as bar:
        task = bar.add_task("asking", total=len(questions) * len(arms), spent=0.0)

        def show(done: int, total: int, spent_usd: float) -> None:
            bar.update(task, completed=done, total=total, spent=spent_usd)

        await runtime.start()
        try:
            return await collect_outcomes(
                questions,
                arms,
                lambda question, arm: _answer(
                    runtime, question, arm, capped=max_usd is not None, features=features, samples=samples
                ),
                journal=journal,
                grader=grader,
                concurrency=concurrency,
                cap=SpendCap(max_usd, lambda question, arm: _worst_case_usd(runtime, question, arm)),
                progress=show,
            )
        finally:
            await runtime.aclose()


_CAPPED_TOKENS = 4096
"""Cap on each answer while there is a spend cap and the context window is unknown: without it there is no worst case."""
_TEMPLATE_TOKENS = 200


def _worst_case_usd(runtime: Runtime, question: Question, arm: Arm) -> float:
    """Dollars of the longest answer an arm can give, its prompt and thinking billed again by a second leg."""
    model = runtime.model(arm)
    if model.price is None:
        return 0.0  # an unknown price is refused by the cap itself, at the first answer
    most_tokens = model.context_window or _CAPPED_TOKENS
    prompt_tokens = 2 * (len(question.text.encode()) + _TEMPLATE_TOKENS) + most_tokens
    return model.price.cost_usd(prompt_tokens, most_tokens)


async def _answer(
    runtime: Runtime, question: Question, arm: Arm, *, capped: bool, features: bool, samples: int
) -> Answered:
    """One arm's answer, on the path every request takes."""
    import orjson

    from thinkroute.errors import ThinkrouteError
    from thinkroute.evaluation.collect import Answered
    from thinkroute.gateway.converse import converse
    from thinkroute.gateway.exchange import Exchange

    body: dict[str, object] = {"model": arm.id, "messages": [{"role": "user", "content": question.text}]}
    if capped and runtime.model(arm).context_window is None:
        body["max_tokens"] = _CAPPED_TOKENS
    exchange = Exchange(None)
    error: str | None = None
    said: dict[str, float] | None = None
    try:
        asked = {**body, "logprobs": True} if features and not arm.stages else body
        await converse(runtime, orjson.dumps(asked), lambda delta: None, exchange)
        if features and not arm.stages:
            said = await _said_of_itself(runtime, body, exchange, samples)
    except ThinkrouteError as failure:
        error = failure.code
    return Answered(
        text=exchange.answer_text,
        ledger=exchange.ledger,
        finish_reason=exchange.run.finish if exchange.run else None,
        ttft_s=exchange.ttft_s,
        latency_s=exchange.latency_s,
        error=error,
        features=said,
    )


async def _said_of_itself(
    runtime: Runtime, body: Mapping[str, object], exchange: Exchange, samples: int
) -> dict[str, float]:
    """The features of an answer; its samples are drawn as the gateway would draw them, and paid apart."""
    import orjson

    from thinkroute.gateway.converse import converse
    from thinkroute.gateway.exchange import Exchange
    from thinkroute.routers.cascade.features import features_of
    from thinkroute.types import FORCED, Usage

    others: list[Exchange] = []
    for number in range(samples):
        other = Exchange(None)
        await converse(
            runtime, orjson.dumps({**body, "temperature": 1.0, "seed": 1 + number}), lambda delta: None, other
        )
        others.append(other)
    segments = exchange.run.segments if exchange.run else []
    usages = [segment.usage for segment in segments if segment.owner != FORCED]
    said = features_of(
        "".join(segment.text for segment in segments),
        [token for segment in segments for token in segment.logprobs or ()],
        sum(usages[1:], usages[0]) if usages else Usage(),
        exchange.run.finish if exchange.run else None,
        [other.answer_text for other in others],
    )
    if others:
        said["samples_tokens"] = sum(other.ledger.usage.completion_tokens for other in others)
        costs = [other.ledger.cost_usd for other in others]
        said["samples_cost_usd"] = (
            sum(cost for cost in costs if cost is not None) if None not in costs else float("nan")
        )
    return said


def _report(collected: Collected, output: Path, *, as_json: bool) -> None:
    from rich.table import Table

    from thinkroute.cli.console import dollars, out

    table = collected.table
    rows = [_summary(table, column) for column in range(len(table.arms))]
    console = out()
    if as_json:
        import json
        from dataclasses import asdict

        summary = {
            "table": str(output),
            "questions": len(table),
            "spent_usd": collected.spent_usd,
            "failed": collected.failed,
            "errors": dict(collected.errors),
            "unasked": collected.unasked,
            "arms": [asdict(row) for row in rows],
        }
        console.file.write(json.dumps(summary) + "\n")
        return
    shown = Table(
        title=f"{output}: {len(table)} questions, {dollars(collected.spent_usd)}", title_justify="left"
    )
    for name in ("arm", "answered", "quality", "thinking", "answer", "cost"):
        shown.add_column(name, justify="left" if name == "arm" else "right")
    for row in rows:
        shown.add_row(
            row.arm,
            str(row.answered),
            "" if row.quality is None else f"{row.quality:.3f}",
            "" if row.reasoning_tokens is None else f"{row.reasoning_tokens:.1f}",
            "" if row.answer_tokens is None else f"{row.answer_tokens:.1f}",
            dollars(row.cost_usd),
        )
    console.print(shown)
    if collected.failed or collected.unasked:
        why = ", ".join(f"{code} {count}x" for code, count in collected.errors.items())
        console.print(
            f"{collected.failed} call(s) failed{f' ({why})' if why else ''}, {collected.unasked} not asked: "
            "run again to go on",
            markup=False,
        )


def _summary(table: OutcomeTable, column: int) -> ArmSummary:
    import numpy as np

    def mean(measure: Measure) -> float | None:
        cells = table.measured.get(measure)
        return (
            None if cells is None or np.isnan(cells[:, column]).all() else float(np.nanmean(cells[:, column]))
        )

    return ArmSummary(
        arm=table.arms[column],
        answered=int((~np.isnan(table.quality_QA[:, column])).sum()),
        quality=mean("quality"),
        reasoning_tokens=mean("reasoning_tokens"),
        answer_tokens=mean("answer_tokens"),
        cost_usd=mean("cost_usd"),
    )
