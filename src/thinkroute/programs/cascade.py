"""`cascade`: answer cheaply, look at the answer, and go on only where that is worth it.

FrugalGPT's cascade (arXiv 2305.05176) with the choice of cascade routing (arXiv 2410.10347): after every answer a rule
stops, escalates to the next stage or jumps to a later one; before the first it may skip stages as well. The rule is a
fitted object (`thinkroute.routers.cascade`); this module owns only what running one means.

Contract: the caller sees one answer, the accepted one. All stages together, samples included, generate at most
`max_tokens`; a stage that would not fit is not begun. A stage that fails is skipped: a later one is tried, or a better
earlier one that was jumped over, or the best answer in hand is given. Only when there is none does the failure end the
request. A last stage may be streamed live: then its answer is the accepted one, and it can only be taken back until its
first word.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from thinkroute.errors import EngineError, ThinkrouteError
from thinkroute.programs.effects import Adopt, Draft, Drafted, Program, Return
from thinkroute.types import Arm

Outcome = Literal["accepted", "rejected", "failed"]
FELL_BACK = "cascade_fell_back"
"""Reason code: a later stage failed, and an earlier answer was given."""
CAPPED = "cascade_capped"
"""Reason code: the token cap left no room for a stage the rule wanted."""

StageProgram = Callable[[Arm, int | None], Program]
"""Builds the program of a stage under a token cap."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule says of the answers so far."""

    next_stage: int | None
    """The stage to run now; None: stop."""
    best: int | None
    """Which of the runs to accept when stopping; None when none is usable."""
    quality: float | None = None
    """Believed probability that the latest answer is right."""
    features: Mapping[str, float] = field(default_factory=dict[str, float])
    """What the latest answer said of itself."""
    stop_usd: float | None = None
    """Utility of stopping now."""
    ways_usd: Mapping[int, float] = field(default_factory=dict[int, float])
    """Utility of going on, by stage."""


class StageRule(Protocol):
    """Decides for one request. Pure: the same answers give the same verdict."""

    def judge(self, runs: Sequence[StageRun], allowed: Collection[int]) -> Verdict:
        """What to do after these runs, when only the allowed stages may run."""
        ...

    def expected_tokens(self, stage: int) -> float:
        """Tokens a stage is expected to generate, samples included."""
        ...

    def sample_options(self, stage: int) -> Sequence[Mapping[str, Any]]:
        """Options of each further sample that a stage's answer is compared with; empty for none."""
        ...


@dataclass(frozen=True, slots=True)
class StageRun:
    """A stage that was run unseen."""

    stage: int
    draft: Drafted

    @property
    def usable(self) -> bool:
        """Whether there is an answer."""
        return self.draft.failure is None


@dataclass(slots=True)
class StageReport:
    """One stage on the explain card."""

    stage: str
    """Arm id."""
    outcome: Outcome
    quality: float | None = None
    """Believed probability that its answer is right; None where it was not looked at."""
    features: Mapping[str, float] = field(default_factory=dict[str, float])
    stop_usd: float | None = None
    """Utility of stopping with it."""
    ways_usd: Mapping[str, float] = field(default_factory=dict[str, float])
    """Utility of going on, by arm id."""
    generated_tokens: int | None = None
    """Samples included; None for a stage that was streamed."""
    cost_usd: float | None = None
    error: str | None = None


@dataclass(slots=True)
class CascadeLog:
    """What a cascade did, filled in while it runs."""

    before: Mapping[str, float] = field(default_factory=dict[str, float])
    """Utility of each first stage, by arm id, before any answer."""
    stages: list[StageReport] = field(default_factory=list[StageReport])
    """In the order they ran."""
    notes: list[str] = field(default_factory=list[str])
    """Reason codes known only at the end."""

    @property
    def accepted(self) -> str | None:
        """Arm id of the stage whose answer the caller got."""
        return next((stage.stage for stage in self.stages if stage.outcome == "accepted"), None)


def cascade(
    arm: Arm,
    rule: StageRule,
    build_stage: StageProgram,
    max_tokens: int | None,
    log: CascadeLog,
    *,
    live: bool,
) -> Program:
    """Run stages until the rule stops.

    Args:
        arm: The cascade; its stages in order.
        rule: Decides, for this request alone.
        build_stage: Builds a stage's program.
        max_tokens: Cap on everything generated.
        log: Filled in.
        live: Whether a last stage is streamed as it comes.
    """
    runs: list[StageRun] = []
    failure: ThinkrouteError | None = None
    left = max_tokens
    while True:
        open_stages = _open(arm, runs)
        allowed = [stage for stage in open_stages if left is None or _fits(rule, stage, left)]
        if not allowed and not runs and left:
            allowed = [min(open_stages, key=rule.expected_tokens)]
        verdict = rule.judge(runs, allowed)
        _note(log, arm, runs, verdict, capped=len(allowed) < len(open_stages))
        stage = verdict.next_stage
        if stage is None:
            break
        if live and not any(later > stage for later in allowed):
            report = StageReport(arm.stages[stage].id, "accepted")
            log.stages.append(report)
            try:
                done = yield from build_stage(arm.stages[stage], left)
            except ThinkrouteError as error:
                failure, report.outcome, report.error = error, "failed", error.code
                runs.append(StageRun(stage, Drafted("", arm.stages[stage].models[0], failure=error)))
                continue
            return Return(done.finish)
        samples = rule.sample_options(stage)
        share = left if left is None else left // (1 + len(samples))
        draft = yield _draft(arm.stages[stage], build_stage, share, samples)
        if not isinstance(draft, Drafted):
            raise TypeError("a draft is answered with what became of it")
        failure = draft.failure or failure
        runs.append(StageRun(stage, draft))
        log.stages.append(_report(arm, runs[-1]))
        left = left if left is None else max(left - _generated(draft), 0)
    if verdict.best is None:
        raise failure or EngineError("no stage of the cascade could be run")
    accepted = runs[verdict.best]
    log.stages[verdict.best].outcome = "accepted"
    if runs[-1].draft.failure is not None:
        log.notes.append(FELL_BACK)
    yield Adopt(accepted.draft)
    return Return(accepted.draft.finish)


def _open(arm: Arm, runs: Sequence[StageRun]) -> list[int]:
    """Stages that may still run: those after the last answer that were not tried."""
    last = max((run.stage for run in runs if run.usable), default=-1)
    tried = {run.stage for run in runs}
    return [stage for stage in range(last + 1, len(arm.stages)) if stage not in tried]


def _fits(rule: StageRule, stage: int, left: int) -> bool:
    return left > 0 and rule.expected_tokens(stage) <= left


def _draft(
    stage: Arm, build_stage: StageProgram, cap: int | None, samples: Sequence[Mapping[str, Any]]
) -> Draft:
    wanted = {"logprobs": True}
    others = tuple(Draft(build_stage(stage, cap), {**wanted, **options}) for options in samples)
    return Draft(build_stage(stage, cap), wanted, others)


def _generated(draft: Drafted) -> int:
    return sum(each.billed.completion_tokens for each in (draft, *draft.others))


def _report(arm: Arm, run: StageRun) -> StageReport:
    costs = [each.cost_usd for each in (run.draft, *run.draft.others)]
    known = [cost for cost in costs if cost is not None]
    return StageReport(
        stage=arm.stages[run.stage].id,
        outcome="rejected" if run.usable else "failed",
        generated_tokens=_generated(run.draft),
        cost_usd=sum(known) if len(known) == len(costs) else None,
        error=run.draft.failure.code if run.draft.failure else None,
    )


def _note(log: CascadeLog, arm: Arm, runs: Sequence[StageRun], verdict: Verdict, *, capped: bool) -> None:
    """Write a verdict down: before any answer for the whole, afterwards for the stage it is about."""
    ways = {arm.stages[stage].id: utility for stage, utility in verdict.ways_usd.items()}
    if capped and CAPPED not in log.notes:
        log.notes.append(CAPPED)
    if not runs:
        log.before = ways
        return
    report = log.stages[-1]
    if report.outcome != "failed":
        report.quality, report.features = verdict.quality, verdict.features
        report.stop_usd, report.ways_usd = verdict.stop_usd, ways
