"""Relays between real members: the example's picture, and a rule that calls recovers what the student lacks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean

from thinkroute.evaluation.relay import compare
from thinkroute.fleet import relay_bench, shipped
from thinkroute.programs.relay import RelayLimits
from thinkroute.types import Effort

UNKNOWN = re.compile("times|gap|star|doubles|triples", re.IGNORECASE)
"""Words of the operators that the student does not know."""


async def test_calls_at_every_result_recover_the_gap_and_random_places_do_not() -> None:
    async with relay_bench.opened_bench(
        relay_bench.draw_questions(50, seed=0),
        student=shipped.directory("student"),
        teacher=shipped.directory("teacher"),
        effort=Effort("on"),
        rule=relay_bench.Rule(),
    ) as bench:
        lines, relayed = await compare(bench, RelayLimits(most_calls=32))
    table = {line.policy: line for line in lines}
    assert table["relay"].accuracy > table["random tokens"].accuracy
    assert table["relay"].accuracy > table["random queries"].accuracy
    assert table["relay, no teacher"].accuracy == table["student"].accuracy
    assert 0 < table["relay"].teacher_share < 0.2
    assert all(
        each.tokens == 1 for log in relayed.logs for each in log.hand_overs if each.outcome == "served"
    )


async def test_the_shipped_student_calls_where_it_does_not_know_and_nowhere_else() -> None:
    questions = relay_bench.draw_questions(50, seed=1)
    async with relay_bench.opened_bench(
        questions,
        student=shipped.directory("student-relay"),
        untrained=shipped.directory("student"),
        teacher=shipped.directory("teacher"),
        effort=Effort("on"),
    ) as bench:
        lines, relayed = await compare(bench, RelayLimits(most_calls=16))
    table = {line.policy: line for line in lines}
    assert table["relay"].accuracy >= 0.9
    assert table["student"].accuracy < 0.7
    assert table["relay"].teacher_share <= 0.03
    assert table["relay"].accuracy > table["random tokens"].accuracy + 0.2
    called = [
        (bool(UNKNOWN.search(question.text)), bool(log.hand_overs))
        for question, log in zip(questions, relayed.logs, strict=True)
    ]
    assert not any(calls for unknown, calls in called if not unknown)
    assert fmean(calls for unknown, calls in called if unknown) > 0.8


def test_the_example_colours_the_teachers_tokens_and_draws_the_same_page(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "relay.py"
    page = tmp_path / "relay.html"
    done = subprocess.run(
        [sys.executable, str(example), "--html", str(page)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    coloured = re.findall("\x1b\\[1;31m(.*?)\x1b", done.stdout)
    assert coloured
    assert re.findall("<span class=teacher>(.*?)</span>", page.read_text(encoding="utf-8")) == coloured
    assert "call>" not in done.stdout
