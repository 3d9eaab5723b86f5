"""Asking every arm every question: bounded, resumable, capped in dollars.

Owns the loop and the journal; how one arm answers one question is the caller's `answer_one`. Every finished cell is
appended to a journal of JSON lines at once, so nothing paid for is lost by a crash; starting again with the same
journal asks only what is missing or failed. A failed cell is missing, with its error's code, never a wrong answer.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, TypeAlias

import msgspec

from thinkroute.errors import ConfigError, DataError, ThinkrouteError
from thinkroute.evaluation.graders import GRADERS, Grader
from thinkroute.routers.table import OutcomeTable, table_from_outcomes
from thinkroute.types import Arm, Ledger, Outcome, Query, Usage

JOURNAL_VERSION: Final = 1


class Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of a question file."""

    id: str
    text: str
    """What the arms are asked, and what a router may read."""
    answer: str
    """The reference the grader compares with."""
    grader: str = "exact"
    """Name of a grader, see `thinkroute.evaluation.graders`."""
    task: str | None = None


@dataclass(frozen=True)
class Answered:
    """What one arm made of one question."""

    text: str
    """The answer without its thinking."""
    ledger: Ledger
    finish_reason: str | None
    ttft_s: float | None
    latency_s: float | None
    error: str | None = None
    """Code of a failure, for callers that know what the failed call cost; otherwise raise it."""
    features: Mapping[str, float] | None = None
    """What the answer said of itself (`thinkroute.routers.cascade`); None where it was not asked to."""


AnswerOne: TypeAlias = Callable[[Question, Arm], Awaitable[Answered]]
"""Asks one arm one question; failures are raised as `ThinkrouteError`."""

Progress: TypeAlias = Callable[[int, int, float], None]
"""Called after every cell with cells done, cells in all, and dollars spent so far."""


WorstCase: TypeAlias = Callable[[Question, Arm], float]
"""Dollars one arm's answer to one question can cost at most."""


@dataclass(frozen=True)
class SpendCap:
    """The cap of a run and what is needed to keep it."""

    usd: float | None
    """Dollars; None for no cap."""
    worst_case_usd: WorstCase | None = None
    """What a call can cost at most; None: not known."""


@dataclass(frozen=True)
class Collected:
    """What a run brought."""

    table: OutcomeTable
    spent_usd: float
    """Dollars over the whole journal, earlier runs included."""
    failed: int
    """Cells whose last attempt failed."""
    unasked: int
    """Cells the spend cap left out."""
    errors: Mapping[str, int] = field(default_factory=dict[str, int])
    """Error code → failed cells, commonest first."""
    features: Mapping[tuple[str, str], Mapping[str, float]] = field(
        default_factory=dict[tuple[str, str], Mapping[str, float]]
    )
    """By query and arm: what answers said of themselves, where they were asked to."""


class _Header(msgspec.Struct, frozen=True, tag="journal"):
    version: int
    questions_sha256: str


class _Cell(msgspec.Struct, frozen=True, tag="cell", omit_defaults=True):
    query_id: str
    arm_id: str
    quality: float | None = None
    usage: Usage | None = None
    cost_usd: float | None = None
    booked_usd: float | None = None
    """What counts against the cap where the cost is unknown: the call's worst case."""
    ttft_s: float | None = None
    latency_s: float | None = None
    finish_reason: str | None = None
    answer: str | None = None
    error: str | None = None
    features: dict[str, float] | None = None

    @property
    def spent_usd(self) -> float:
        """Dollars this attempt counts for."""
        return self.cost_usd if self.cost_usd is not None else self.booked_usd or 0.0


async def collect(
    questions: Sequence[Question],
    arms: Sequence[Arm],
    answer_one: AnswerOne,
    *,
    journal: Path,
    grader: Grader | None = None,
    concurrency: int = 8,
    cap: SpendCap | None = None,
    progress: Progress | None = None,
) -> Collected:
    """Ask every arm every question that the journal does not hold yet.

    Args:
        questions: Unique ids.
        arms: Unique ids.
        answer_one: Called with at most `concurrency` calls under way.
        journal: JSON-lines file, created or continued. One journal belongs to one question set.
        grader: Grades all answers; None takes each question's own.
        concurrency: Calls under way at once, >= 1.
        cap: No call is started that could pass it: each call under way is reserved at its worst case. Without a
            worst case the arm's dearest answer so far stands in, and every arm is first asked once, alone, to learn
            that; then a dearer answer can pass the cap by the difference. None for no cap.
        progress: Called after every cell.

    Raises:
        ConfigError: an unknown grader, or a cap while an arm's cost is unknown.
        DataError: the journal belongs to other questions or is damaged, or ids repeat.
    """
    _check_unique([question.id for question in questions], "question")
    _check_unique([arm.id for arm in arms], "arm")
    if concurrency < 1:
        raise ConfigError(f"concurrency={concurrency} must be at least 1")
    graders = {question.grader: grader or _own_grader(question) for question in questions}
    done = _read_journal(journal, questions)
    with _open_journal(journal, questions) as file:
        run = _Run(
            done, file, answer_one, graders, cap or SpendCap(None), progress, len(questions) * len(arms)
        )
        todo = [(q, a) for q in questions for a in arms if not run.has(q.id, a.id)]
        try:
            async with asyncio.TaskGroup() as group:
                if cap is not None and cap.usd is not None and cap.worst_case_usd is None:
                    first = list(_first_of_each_arm(todo))
                    await run.work(iter(first))
                    todo = [cell for cell in todo if cell not in first]
                rest = iter(todo)
                for _ in range(concurrency):
                    group.create_task(run.work(rest))
        except* ThinkrouteError as errors:
            raise errors.exceptions[0] from None
    return run.collected(questions, arms)


def _own_grader(question: Question) -> Grader:
    """The grader a question names. Only names of the table: a data file must not choose code to run."""
    if question.grader not in GRADERS:
        raise ConfigError(
            f"question {question.id!r} names the grader {question.grader!r}; a file may name {', '.join(GRADERS)}, "
            "code of your own is given with --grader"
        )
    return GRADERS[question.grader]


def read_questions(path: Path) -> list[Question]:
    """Questions of a JSON-lines file.

    Raises:
        DataError: the file is missing, or a line is not a question.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    questions: list[Question] = []
    for line, raw in enumerate(path.read_bytes().splitlines(), start=1):
        if not raw.strip():
            continue
        try:
            questions.append(msgspec.json.decode(raw, type=Question))
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise DataError(f"{path}: line {line}: {error}") from error
    return questions


class _Run:
    """The state of one run: what is done, what is spent, what is reserved."""

    def __init__(
        self,
        journal: _Journal,
        file: IO[bytes],
        answer_one: AnswerOne,
        graders: dict[str, Grader],
        cap: SpendCap,
        progress: Progress | None,
        total: int,
    ) -> None:
        self._done, self._file, self._answer_one, self._graders = journal.cells, file, answer_one, graders
        self._cap, self._worst_case = cap.usd, cap.worst_case_usd
        self._progress, self._total = progress, total
        self._spent = journal.spent_usd
        self._reserved = 0.0
        self._dearest: dict[str, float] = {}
        for cell in journal.cells.values():
            self._see(cell)

    def has(self, query_id: str, arm_id: str) -> bool:
        """Whether the cell was answered; failed ones are asked again."""
        cell = self._done.get((query_id, arm_id))
        return cell is not None and cell.error is None

    async def work(self, todo: Iterator[tuple[Question, Arm]]) -> None:
        """Take cells until none is left or the cap is near."""
        for question, arm in todo:
            expected = self._expected_usd(question, arm)
            if self._cap is not None and self._spent + self._reserved + expected >= self._cap:
                return
            self._reserved += expected
            try:
                cell = await self._ask(question, arm)
            finally:
                self._reserved -= expected
            if cell.cost_usd is None and self._cap is not None:
                cell = msgspec.structs.replace(cell, booked_usd=expected)
            self._keep(cell)

    def _expected_usd(self, question: Question, arm: Arm) -> float:
        """Dollars to reserve for a call: its worst case where that is known, else the arm's dearest answer so far."""
        worst = self._worst_case(question, arm) if self._worst_case and self._cap is not None else 0.0
        return max(worst, self._dearest.get(arm.id, 0.0))

    async def _ask(self, question: Question, arm: Arm) -> _Cell:
        try:
            answered = await self._answer_one(question, arm)
        except ThinkrouteError as error:
            return _Cell(question.id, arm.id, finish_reason="error", error=error.code)
        cost_usd = answered.ledger.cost_usd
        if answered.error is not None:
            return _Cell(question.id, arm.id, cost_usd=cost_usd, finish_reason="error", error=answered.error)
        if cost_usd is None and self._cap is not None:
            raise ConfigError(
                f"arm {arm.id!r} has no price, so the spend cap cannot be kept: price its models or drop the cap"
            )
        return _Cell(
            question.id,
            arm.id,
            quality=self._graded(question, answered.text),
            usage=answered.ledger.usage,
            cost_usd=cost_usd,
            ttft_s=answered.ttft_s,
            latency_s=answered.latency_s,
            finish_reason=answered.finish_reason,
            answer=answered.text,
            features=None if answered.features is None else _known(answered.features),
        )

    def _graded(self, question: Question, answer: str) -> float:
        try:
            return self._graders[question.grader](answer, question.answer)
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"the grader failed on question {question.id!r}: {error!r}") from error

    def _keep(self, cell: _Cell) -> None:
        self._file.write(msgspec.json.encode(cell) + b"\n")
        self._file.flush()
        self._done[cell.query_id, cell.arm_id] = cell
        self._spent += cell.spent_usd
        self._see(cell)
        if self._progress:
            self._progress(len(self._done), self._total, self._spent)

    def _see(self, cell: _Cell) -> None:
        if cell.cost_usd is not None:
            self._dearest[cell.arm_id] = max(self._dearest.get(cell.arm_id, 0.0), cell.cost_usd)

    def collected(self, questions: Sequence[Question], arms: Sequence[Arm]) -> Collected:
        """The table of everything the journal holds for these questions and arms."""
        wanted = [self._done.get((question.id, arm.id)) for question in questions for arm in arms]
        cells = [cell for cell in wanted if cell is not None]
        queries = {question.id: Query(text=question.text, task=question.task) for question in questions}
        order = {arm.id: place for place, arm in enumerate(arms)}
        table = table_from_outcomes(
            queries, map(_outcome, cells), {"source": "collect", "cost_basis": "measured"}
        )
        table = table.select_arms(sorted(table.arms, key=order.__getitem__))
        return Collected(
            table=table,
            features={
                (cell.query_id, cell.arm_id): cell.features for cell in cells if cell.features is not None
            },
            spent_usd=self._spent,
            failed=sum(cell.error is not None for cell in cells),
            unasked=len(wanted) - len(cells),
            errors=dict(Counter(cell.error for cell in cells if cell.error is not None).most_common()),
        )


def _known(features: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in features.items() if value == value}  # noqa: PLR0124 - NaN is unknown


def _first_of_each_arm(todo: Sequence[tuple[Question, Arm]]) -> Iterator[tuple[Question, Arm]]:
    first: dict[str, tuple[Question, Arm]] = {}
    for question, arm in todo:
        first.setdefault(arm.id, (question, arm))
    return iter(list(first.values()))


def _outcome(cell: _Cell) -> Outcome:
    return Outcome(
        query_id=cell.query_id,
        arm_id=cell.arm_id,
        quality=float("nan") if cell.quality is None else cell.quality,
        usage=cell.usage,
        cost_usd=cell.cost_usd,
        ttft_s=cell.ttft_s,
        latency_s=cell.latency_s,
        finish_reason=cell.finish_reason,
        answer=cell.answer,
    )


@dataclass(frozen=True)
class _Journal:
    cells: dict[tuple[str, str], _Cell]
    """The last attempt of each cell."""
    spent_usd: float
    """Over all attempts, replaced ones included."""


def _read_journal(path: Path, questions: Sequence[Question]) -> _Journal:
    """What an earlier run left; a torn last line is an interrupted write."""
    if not path.is_file():
        return _Journal({}, 0.0)
    spent_usd = 0.0
    lines = path.read_bytes().split(b"\n")
    cells: dict[tuple[str, str], _Cell] = {}
    for number, raw in enumerate(lines[:-1], start=1):
        try:
            record = msgspec.json.decode(raw, type=_Header | _Cell)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise DataError(f"{path}: line {number}: not a journal line: {error}") from error
        if isinstance(record, _Header):
            _check_header(path, record, questions)
        else:
            cells[record.query_id, record.arm_id] = record
            spent_usd += record.spent_usd
    return _Journal(cells, spent_usd)


def _check_header(path: Path, header: _Header, questions: Sequence[Question]) -> None:
    if header.version != JOURNAL_VERSION:
        raise DataError(
            f"{path}: journal version {header.version}, this thinkroute continues {JOURNAL_VERSION}"
        )
    if header.questions_sha256 != _questions_sha256(questions):
        raise DataError(f"{path}: was begun with other questions: take another journal or the same questions")


def _open_journal(path: Path, questions: Sequence[Question]) -> IO[bytes]:
    """The journal, cut after its last whole line and opened at its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+b")
    file.seek(0)
    whole = file.read().rfind(b"\n") + 1
    file.truncate(whole)
    if whole == 0:
        header = _Header(JOURNAL_VERSION, _questions_sha256(questions))
        file.write(msgspec.json.encode(header) + b"\n")
        file.flush()
    return file


def _questions_sha256(questions: Sequence[Question]) -> str:
    return hashlib.sha256(msgspec.json.encode(list(questions))).hexdigest()


def _check_unique(names: Sequence[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{what} {name!r} occurs twice")
        seen.add(name)
