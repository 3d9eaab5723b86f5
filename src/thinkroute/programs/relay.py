"""`relay`: a small model writes and calls a large one for exactly the tokens it needs.

RelayLLM's inference program (arXiv 2601.05167; the paper's, not the released code's). The student writes; where it emits
`<call>n</call>` the teacher continues the same message for n tokens, then the student goes on. The student's own history
keeps its commands; the teacher and the caller never see them.

Contract: everything generated, by both, is at most `max_tokens`; at most `most_calls` commands are answered, good or bad,
so there are at most `most_calls` + 1 calls of the student and `most_calls` of the teacher; n is clamped to
`most_tokens_per_call` and to what the cap leaves; the teacher's end token ends the answer. A command that names no
number, or 0, calls nobody. After a failure of the teacher, or its time limit, what it had said stays and the student goes
on alone to the end. Only the student's failures end the request.

Deviations: a failed teacher does not end the answer (the released code does); the command stays in the student's history
(there it is rolled back, so that it cannot be learned).
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Final, Literal

from thinkroute.programs.asides import Asides
from thinkroute.programs.effects import Append, Effect, Generate, Interrupted, Program, Return
from thinkroute.programs.protocol import Segment, SegmentFinish, ThinkingFormat
from thinkroute.types import Arm

CALL: Final = Asides("<call>", "</call>")
"""The command's tags."""
TEACHER_FAILED: Final = "relay_teacher_failed"
"""Reason code: the teacher failed, and the student went on alone."""
TOO_MANY_COMMANDS: Final = "relay_calls_capped"
"""Reason code: all calls were used up, so that later commands called nobody."""
_NUMBER = re.compile(r"<call>([0-9 ]{1,16})(</call>)?\s*\Z")
_CONTEXT_FULL = "context_length_exceeded"

Outcome = Literal["served", "ended", "failed", "malformed", "empty"]
"""`ended` when the teacher's end token ended the answer; `empty` for a command of 0 tokens."""


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """What bounds a relay, whatever the student asks for."""

    most_calls: int = 8
    """Commands that are answered; 0 takes the teacher away."""
    most_tokens_per_call: int = 256
    teacher_timeout_s: float = 30.0
    """Longest one hand-over may take."""
    fixed_tokens: int | None = None
    """Hand over this many tokens, whatever number the command names; for comparison."""


@dataclass(slots=True)
class HandOver:
    """One command and what became of it."""

    after_tokens: int
    """Tokens of the message before it, those of the command included."""
    asked_tokens: int
    """The number in the command; 0 where there was none."""
    outcome: Outcome
    granted_tokens: int = 0
    tokens: int = 0
    """What the teacher wrote; estimated after a failure."""
    leg: int | None = None
    """Place of the teacher's call in the ledger; None when it was not called."""
    error: str | None = None

    @property
    def used_tokens(self) -> int:
        """What counts against the cap: a failed call may have generated all it was granted."""
        return self.granted_tokens if self.outcome == "failed" else self.tokens


@dataclass(slots=True)
class RelayLog:
    """What a relay did, filled in while it runs."""

    student_tokens: int = 0
    """Commands included."""
    hand_overs: list[HandOver] = field(default_factory=list[HandOver])
    notes: list[str] = field(default_factory=list[str])
    """Reason codes known only at the end."""

    @property
    def teacher_tokens(self) -> int:
        """What the teacher wrote."""
        return sum(each.tokens for each in self.hand_overs)

    @property
    def teacher_share(self) -> float:
        """The teacher's part of all generated tokens."""
        return _share(self.teacher_tokens, self.student_tokens)

    @property
    def teacher_share_asked(self) -> float:
        """The part it would have had, had it written every token it was asked for."""
        return _share(sum(each.asked_tokens for each in self.hand_overs), self.student_tokens)


def relay(
    arm: Arm, max_tokens: int | None, thinking: ThinkingFormat, limits: RelayLimits, log: RelayLog
) -> Program:
    """Let the arm's first model write, and call the second for the tokens it asks for.

    Args:
        arm: Student and teacher; both get the arm's effort.
        max_tokens: Cap on everything generated; None leaves it to the engines.
        thinking: The student's thinking format.
        limits: Bounds that hold whatever the student asks for.
        log: Filled in.
    """
    student, _ = arm.models
    left = max_tokens
    legs, listening = 0, limits.most_calls > 0
    while True:
        segment = yield Generate(
            student,
            arm.effort,
            left,
            until_text=CALL.close_tag if listening else None,
            hides=CALL,
            # A later call may meet a full context window, which ends an answer and does not fail it.
            salvage=thinking if legs else None,
        )
        legs += 1
        if isinstance(segment, Interrupted):
            if segment.failure.code == _CONTEXT_FULL:
                return Return("length")
            raise segment.failure
        log.student_tokens += segment.usage.completion_tokens
        left = _minus(left, segment.usage.completion_tokens)
        hand_over = _command(segment, log) if listening else None
        if hand_over is None:
            return Return(segment.finish)
        log.hand_overs.append(hand_over)
        if not segment.text.rstrip().endswith(CALL.close_tag):
            yield Append(CALL.close_tag, hidden=True)  # a server took the stop string away
        hand_over.granted_tokens = _granted(hand_over, limits, left)
        if hand_over.granted_tokens:
            hand_over.leg, legs = legs, legs + 1
            finish = yield from _hand_over(arm, hand_over, thinking, limits, log)
            if finish is not None:
                return Return(finish)
            left = _minus(left, hand_over.used_tokens)
        if left == 0:
            return Return("length")
        listening = _still_listening(limits, log)


def _hand_over(
    arm: Arm, hand_over: HandOver, thinking: ThinkingFormat, limits: RelayLimits, log: RelayLog
) -> Generator[Effect, Segment, SegmentFinish | None]:
    """Let the teacher write; returns how the answer ended, or None when the student is to go on."""
    reply = yield Generate(
        arm.models[1],
        arm.effort,
        hand_over.granted_tokens,
        hides=CALL,
        without=CALL,
        timeout_s=limits.teacher_timeout_s,
        salvage=thinking,
    )
    hand_over.tokens = min(reply.usage.completion_tokens, hand_over.granted_tokens)
    if isinstance(reply, Interrupted):
        hand_over.outcome, hand_over.error = "failed", reply.failure.code
        log.notes.append(TEACHER_FAILED)
        return None
    if reply.finish == "length":
        return None
    hand_over.outcome = "ended"
    return reply.finish


def _still_listening(limits: RelayLimits, log: RelayLog) -> bool:
    """Whether the student's next command will be answered."""
    if TEACHER_FAILED in log.notes:
        return False
    if len(log.hand_overs) < limits.most_calls:
        return True
    log.notes.append(TOO_MANY_COMMANDS)
    return False


def _command(segment: Segment, log: RelayLog) -> HandOver | None:
    """The command a segment ended with; None when it ended otherwise."""
    number = _NUMBER.search(segment.text)
    # A server that takes stop strings away says `stop`; an engine that names ids tells that from the end of the answer.
    taken_away = segment.finish == "stop" and segment.token_ids is None and number is not None
    stopped = segment.finish == "text_end" or taken_away
    if not stopped:
        return None
    digits = number.group(1).replace(" ", "") if number else ""
    if not digits:
        return HandOver(_written(log), 0, "malformed")
    return HandOver(_written(log), int(digits), "served" if int(digits) else "empty")


def _written(log: RelayLog) -> int:
    return log.student_tokens + log.teacher_tokens


def _granted(hand_over: HandOver, limits: RelayLimits, left: int | None) -> int:
    """Tokens the teacher may write now."""
    if hand_over.outcome != "served":
        return 0
    wanted = limits.fixed_tokens or hand_over.asked_tokens
    return min(wanted, limits.most_tokens_per_call, wanted if left is None else left)


def _minus(left: int | None, tokens: int) -> int | None:
    return None if left is None else max(left - tokens, 0)


def _share(teacher: int, student: int) -> float:
    return teacher / (teacher + student) if teacher + student else 0.0
