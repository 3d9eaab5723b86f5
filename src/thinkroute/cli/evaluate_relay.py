"""`thinkroute evaluate-relay`: a relay beside what else the same teacher tokens could buy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thinkroute.cli.data import JsonOption
from thinkroute.cli.targets import check_file
from thinkroute.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from thinkroute.evaluation.relay import Line


def evaluate_relay(
    student: Annotated[
        str | None,
        typer.Option(
            help="A member's folder or name; default: student-relay, which learned to call, and student with a rule."
        ),
    ] = None,
    teacher: Annotated[str, typer.Option(help="A member's folder or name.")] = "teacher",
    untrained: Annotated[
        str | None,
        typer.Option(
            help="The student before it learned to call, for `student` and `random tokens`; default: the member student"
            " for student-relay, else the student itself."
        ),
    ] = None,
    questions: Annotated[int, typer.Option("--n", min=10, help="Questions of the standard mix.")] = 500,
    effort: Annotated[str, typer.Option(help="off or on, for both.")] = "on",
    most_calls: Annotated[int, typer.Option(min=1, help="Commands that are answered per question.")] = 32,
    call_where: Annotated[
        str | None,
        typer.Option(
            help="Make an untrained student call for one token after every ` is` that ends a match of this regular"
            " expression (`.*`: after every one)."
        ),
    ] = None,
    fixed: Annotated[
        list[int] | None, typer.Option(min=1, help="Also hand over always this many tokens (repeatable).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the questions and the random baselines.")] = 0,
    save: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
    json: JsonOption = False,
) -> None:
    """Judge a relay between two members: accuracy, teacher share, tokens and dollars, beside its baselines."""
    import asyncio
    import shlex

    import msgspec
    import orjson

    from thinkroute.cli.console import out as stdout
    from thinkroute.evaluation.relay import Answers, compare
    from thinkroute.evaluation.report import origin
    from thinkroute.fleet import relay_bench
    from thinkroute.programs.relay import RelayLimits
    from thinkroute.types import Effort

    check_file(save, "--save")
    rule = None if call_where is None else relay_bench.Rule(where=call_where)
    chosen = student or ("student" if rule else "student-relay")
    before = untrained or ("student" if chosen == "student-relay" else None)
    given = {"--n": questions, "--seed": seed, "--effort": effort, "--most-calls": most_calls}
    given |= {"--student": chosen, "--teacher": teacher}
    given |= {"--untrained": before} if before else {}
    given |= {"--call-where": shlex.quote(call_where)} if call_where is not None else {}
    command = " ".join(
        ["thinkroute evaluate-relay", *(f"{name} {value}" for name, value in given.items())]
        + [f"--fixed {count}" for count in fixed or ()]
    )

    async def judged() -> tuple[list[Line], Answers]:
        async with relay_bench.opened_bench(
            relay_bench.draw_questions(questions, seed),
            student=_folder(chosen, "--student"),
            teacher=_folder(teacher, "--teacher"),
            effort=Effort.parse(effort),
            rule=rule,
            untrained=_folder(before, "--untrained") if before else None,
        ) as bench:
            return await compare(bench, RelayLimits(most_calls=most_calls), fixed or (), seed=seed)

    lines, relayed = asyncio.run(judged())
    report = {
        "origin": msgspec.to_builtins(origin(command)),
        "questions": questions,
        "seed": seed,
        "effort": effort,
        "student": chosen,
        "teacher": teacher,
        "call_where": call_where,
        "teacher_share_asked": _asked_share(relayed.logs),
        "policies": lines,
    }
    text = orjson.dumps(report, option=orjson.OPT_INDENT_2)
    if save:
        save.write_bytes(text + b"\n")
    if json:
        typer.echo(text)
    else:
        stdout().print(_table(lines))


def _folder(named: str, option: str) -> Path:
    """A folder that is there, or a member's."""
    from thinkroute.fleet import shipped

    if named in shipped.all_names():
        return shipped.directory(named)
    if (Path(named) / "config.json").is_file():
        return Path(named)
    raise ConfigError(
        f"{option} {named!r} is neither a member ({', '.join(shipped.all_names())}) nor a folder with a config.json",
        param=option,
    )


def _asked_share(logs: Sequence[object]) -> float:
    """Teacher's share had it written every token it was asked for, pooled over questions."""
    from thinkroute.programs.relay import RelayLog

    every = [log for log in logs if isinstance(log, RelayLog)]
    asked = sum(each.asked_tokens for log in every for each in log.hand_overs)
    student = sum(log.student_tokens for log in every)
    return asked / (asked + student) if asked + student else 0.0


def _table(lines: Sequence[Line]) -> Table:
    from rich import box
    from rich.table import Table

    from thinkroute.cli.console import dollars

    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("policy", no_wrap=True)
    for name in ("accuracy", "share", "tokens", "cost", "calls", "gap"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        spread = f" ±{line.half_width:.3f}" if line.half_width else ""
        table.add_row(
            line.policy,
            f"{line.accuracy:.3f}{spread}",
            f"{line.teacher_share:.1%}",
            f"{line.tokens:.1f}",
            dollars(line.cost_usd),
            f"{line.calls:.2f}",
            "" if line.gap_recovered is None else f"{line.gap_recovered:.0%}",
        )
    return table
