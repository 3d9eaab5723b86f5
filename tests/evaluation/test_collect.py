"""Collecting outcomes: every cell once, nothing paid for is lost, failures are missing, caps hold."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from thinkroute.errors import ConfigError, DataError, EngineTimeout
from thinkroute.evaluation.collect import Answered, Question, SpendCap, collect, read_questions
from thinkroute.types import Arm, Effort, Ledger, LedgerEntry, Usage

ARMS = (Arm("direct", ("small",), Effort("off")), Arm("direct", ("big",), Effort("high")))
QUESTIONS = [
    Question(id=f"q{i}", text=f"{i} + {i}?", answer=str(2 * i), grader="number", task="sums")
    for i in range(6)
]


class Answers:
    """Answers sums; `small` is wrong on odd ones. Counts calls and how many are under way."""

    def __init__(self, cost_usd: float | None = 0.01, fails: tuple[str, ...] = ()) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.under_way = self.most_under_way = 0
        self._cost_usd, self._fails = cost_usd, fails

    async def __call__(self, question: Question, arm: Arm) -> Answered:
        self.calls[question.id, arm.id] += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(0.001)
        self.under_way -= 1
        if question.id in self._fails:
            raise EngineTimeout("too slow")
        number = int(question.id[1:])
        right = arm.models[0] == "big" or number % 2 == 0
        usage = Usage(10, 5, 2, provenance="counted")
        ledger = Ledger((LedgerEntry(arm.models[0], usage, self._cost_usd),))
        return Answered(f"It is {2 * number if right else 0.5}", ledger, "stop", 0.1, 0.2)


async def test_every_arm_is_asked_every_question_once(tmp_path: Path) -> None:
    answers = Answers()
    seen: list[tuple[int, int, float]] = []

    def note(done: int, total: int, spent_usd: float) -> None:
        seen.append((done, total, spent_usd))

    journal = tmp_path / "j.jsonl"
    got = await collect(QUESTIONS, ARMS, answers, journal=journal, concurrency=3, progress=note)
    assert set(answers.calls.values()) == {1}
    assert answers.most_under_way == 3
    assert got.table.arms == ("small@off", "big@high")
    np.testing.assert_array_equal(got.table.quality_QA, [[1, 1], [0, 1]] * 3)
    np.testing.assert_array_equal(got.table.measured["reasoning_tokens"], 2)
    assert got.table.tasks == ("sums",) * 6
    assert (got.failed, got.unasked) == (0, 0)
    assert got.spent_usd == pytest.approx(0.12)
    assert seen[-1] == (12, 12, pytest.approx(0.12))


async def test_starting_again_asks_only_what_is_missing(tmp_path: Path) -> None:
    journal = tmp_path / "j.jsonl"
    first = Answers()
    await collect(QUESTIONS, ARMS[:1], first, journal=journal)
    second = Answers()
    got = await collect(QUESTIONS, ARMS, second, journal=journal)
    assert {arm for _, arm in second.calls} == {"big@high"}
    assert not np.isnan(got.table.quality_QA).any()
    assert got.spent_usd == pytest.approx(0.12)


async def test_a_crash_loses_at_most_the_cells_under_way(tmp_path: Path) -> None:
    journal = tmp_path / "j.jsonl"
    with pytest.raises(DataError, match="grader failed"):
        await collect(QUESTIONS, ARMS, Answers(), journal=journal, grader=_breaks_on_seventh())
    kept = len(journal.read_text().splitlines()) - 1
    assert kept == 6
    with journal.open("a") as file:
        file.write('{"type": "cell", "query_id": "q')
    again = Answers()
    got = await collect(QUESTIONS, ARMS, again, journal=journal)
    assert sum(again.calls.values()) == 12 - kept
    assert not np.isnan(got.table.quality_QA).any()


def _breaks_on_seventh() -> Callable[[str, str], float]:
    count = 0

    def grade(answer: str, reference: str) -> float:
        nonlocal count
        count += 1
        if count > 6:
            raise ZeroDivisionError
        return 1.0

    return grade


async def test_a_failed_cell_is_missing_with_its_code_and_is_asked_again(tmp_path: Path) -> None:
    journal = tmp_path / "j.jsonl"
    got = await collect(QUESTIONS, ARMS, Answers(fails=("q2",)), journal=journal)
    assert np.isnan(got.table.quality_QA[2]).all()
    assert got.failed == 2
    assert got.table.finish_QA is not None
    assert got.table.finish_QA[2].tolist() == ["error", "error"]
    codes = {json.loads(line).get("error") for line in journal.read_text().splitlines()}
    assert "upstream_timeout" in codes
    healed = await collect(QUESTIONS, ARMS, Answers(), journal=journal)
    assert healed.failed == 0
    assert not np.isnan(healed.table.quality_QA).any()


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_the_spend_cap_holds_and_a_higher_one_goes_on(tmp_path: Path, concurrency: int) -> None:
    journal = tmp_path / "j.jsonl"
    got = await collect(
        QUESTIONS, ARMS, Answers(), journal=journal, cap=SpendCap(0.055), concurrency=concurrency
    )
    assert 0.04 <= got.spent_usd <= 0.055
    assert got.unasked == 12 - round(got.spent_usd / 0.01)
    more = await collect(QUESTIONS, ARMS, Answers(), journal=journal, cap=SpendCap(0.5))
    assert more.unasked == 0


async def test_a_cap_is_refused_when_an_arm_has_no_price(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no price"):
        await collect(
            QUESTIONS, ARMS, Answers(cost_usd=None), journal=tmp_path / "j.jsonl", cap=SpendCap(1.0)
        )
    free = await collect(QUESTIONS, ARMS, Answers(cost_usd=None), journal=tmp_path / "k.jsonl")
    assert "cost_usd" not in free.table.measures


async def test_a_journal_belongs_to_its_questions(tmp_path: Path) -> None:
    journal = tmp_path / "j.jsonl"
    await collect(QUESTIONS, ARMS, Answers(), journal=journal)
    with pytest.raises(DataError, match="other questions"):
        await collect(QUESTIONS[:2], ARMS, Answers(), journal=journal)
    journal.write_text("not a journal\n")
    with pytest.raises(DataError, match="line 1"):
        await collect(QUESTIONS, ARMS, Answers(), journal=journal)


async def test_repeated_ids_and_unknown_graders_are_refused_before_any_call(tmp_path: Path) -> None:
    answers = Answers()
    with pytest.raises(DataError, match="question 'q0' occurs twice"):
        await collect([QUESTIONS[0]] * 2, ARMS, answers, journal=tmp_path / "j.jsonl")
    with pytest.raises(DataError, match="arm 'small@off' occurs twice"):
        await collect(QUESTIONS, [ARMS[0]] * 2, answers, journal=tmp_path / "j.jsonl")
    strange = Question(id="x", text="x", answer="x", grader="judge")
    with pytest.raises(ConfigError, match="names the grader 'judge'"):
        await collect([strange], ARMS, answers, journal=tmp_path / "j.jsonl")
    assert not answers.calls


async def test_cancelling_keeps_what_is_done(tmp_path: Path) -> None:
    journal = tmp_path / "j.jsonl"
    task = asyncio.create_task(collect(QUESTIONS, ARMS, Answers(), journal=journal, concurrency=1))
    while not journal.is_file() or len(journal.read_bytes().splitlines()) < 3:  # noqa: ASYNC110  # a real file
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(journal.read_bytes().splitlines()) >= 3


def test_questions_are_read_with_the_line_of_the_fault(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(
        '{"id": "a", "text": "1+1?", "answer": "2", "grader": "number"}\n\n{"id": "b", "text": "?"}\n'
    )
    with pytest.raises(DataError, match=r"line 3: .*answer"):
        read_questions(path)
    path.write_text('{"id": "a", "text": "1+1?", "answer": "2", "grader": "number"}\n')
    assert read_questions(path) == [Question(id="a", text="1+1?", answer="2", grader="number")]
    with pytest.raises(DataError, match="no such file"):
        read_questions(tmp_path / "absent.jsonl")
