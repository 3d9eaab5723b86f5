"""`budgeted`: a hard thinking budget on any engine that can continue its own message.

The two-call program of Qwen3 (Qwen3 Technical Report, section 4.7 "thinking budget"): think for at most B tokens;
if the block is still open, write the family's stop text, close the block, and let the model answer.

Deviations: an answer floor is always reserved, so a cap smaller than budget + floor shrinks the budget, never the
answer to nothing; and where the engine cannot stop at the close tag, the first call may already hold (part of) the
answer, in which case only the rest is asked for.
"""

from __future__ import annotations

from thinkroute.programs.effects import Append, Generate, Program, Return
from thinkroute.programs.protocol import ThinkingFormat
from thinkroute.types import Effort


def thinking_allowance(
    budget_tokens: int | None, max_tokens: int | None, answer_floor_tokens: int
) -> int | None:
    """Thinking tokens left after reserving the answer floor; None for no limit.

    The floor is at most half of `max_tokens`, so a tiny cap still leaves an answer. 0 means: do not think.
    """
    if max_tokens is None:
        return budget_tokens
    room = max_tokens - min(answer_floor_tokens, (max_tokens + 1) // 2)
    return room if budget_tokens is None else min(budget_tokens, room)


def budgeted(
    model: str, effort: Effort, max_tokens: int | None, thinking: ThinkingFormat, answer_floor_tokens: int
) -> Program:
    """Think for at most `effort.budget_tokens`, then answer; `max_tokens` caps both together.

    Contract: generated thinking tokens <= budget; the answer is never empty while `max_tokens` allows one token.
    The stop text is not counted against `max_tokens`: nobody generated it.
    """
    budget = thinking_allowance(effort.budget_tokens, max_tokens, answer_floor_tokens)
    if budget == 0:
        segment = yield Generate(model, Effort("off"), max_tokens)
        return Return(segment.finish)
    return (yield from go_on_thinking(model, budget, max_tokens, thinking))


def go_on_thinking(
    model: str, budget: int | None, max_tokens: int | None, thinking: ThinkingFormat
) -> Program:
    """Think for at most `budget` tokens, in a block that is open already or that the model opens, then answer."""
    thought = yield Generate(model, Effort("on"), budget, until_thinking_end=True)
    if thought.finish not in ("thinking_end", "length"):
        return Return(thought.finish)  # the whole answer came within the budget
    if not thought.thinking_closed:
        cut = f"\n{thinking.stop_text}" if thinking.stop_text else ""
        forced = cut + thinking.close_text
        # A cut right after a line break must not leave an empty line: no model was trained on one there.
        if thought.text.endswith("\n"):
            forced = forced.removeprefix("\n")
        yield Append(forced, closes_thinking=True)
    rest = None if max_tokens is None else max_tokens - thought.usage.completion_tokens
    if rest is not None and rest < 1:
        return Return("length")
    answer = yield Generate(model, Effort("on"), rest)
    return Return(answer.finish)
