"""The engine computes what Transformers computes: same greedy tokens, same log-probabilities, for every shipped member."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytest

from thinkroute.engines.embedded import EmbeddedEngine
from thinkroute.engines.embedded.prompt import last_turn, render
from thinkroute.fleet import shipped
from thinkroute.fleet.bench import draw_prompts
from thinkroute.programs.protocol import Call, Segment
from thinkroute.types import Effort

PROMPTS = 512
BATCH = 64
MOST_TOKENS = 150
TIE = 1e-4
"""Two logits this close may come out in either order: float32 sums depend on the order of their terms."""
MOST_TIES = 2
"""Answers per member that may leave the reference at such a tie."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What Transformers generates for one prompt."""

    token_ids: list[int]
    logprobs: list[float]
    gaps: list[float]
    """Distance of the chosen token's logit to the next best, per token."""


def requests(member: str, count: int) -> list[Call]:
    """Thinking and not thinking in turn."""
    questions = draw_prompts(count, seed=17)
    return [
        Call(
            member,
            [{"role": "user", "content": question}],
            Effort("on" if index % 2 else "off"),
            max_tokens=MOST_TOKENS,
            options={"logprobs": True},
            stream=False,
        )
        for index, question in enumerate(questions)
    ]


async def served(calls: Sequence[Call]) -> list[Segment]:
    member = calls[0].model
    engine = EmbeddedEngine({member: shipped.directory(member)}, queue_limit=len(calls))

    async def one(call: Call) -> Segment:
        items = [item async for item in engine.generate(call)]
        assert isinstance(items[-1], Segment)
        return items[-1]

    segments = await asyncio.gather(*(one(call) for call in calls))
    await engine.aclose()
    return segments


class Transformers:
    """The reference implementation of one member."""

    def __init__(self, member: str) -> None:
        import torch
        import transformers

        torch.set_num_threads(1)
        library = cast("Any", transformers)  # partially typed
        directory = shipped.directory(member)
        self._tokenizer: Any = library.AutoTokenizer.from_pretrained(directory, padding_side="left")
        self.end_id: int = self._tokenizer.eos_token_id
        self._model: Any = library.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a message, without its end token."""
        return self._tokenizer.decode([token_id for token_id in token_ids if token_id != self.end_id])

    def generate(self, calls: Sequence[Call]) -> list[Reference]:
        prompts = [render(last_turn(call.messages), thinking=call.effort.thinks) for call in calls]
        inputs = self._tokenizer(prompts, return_tensors="pt", padding=True)
        made = self._model.generate(
            **inputs,
            max_new_tokens=MOST_TOKENS,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        rows = made.sequences[:, inputs["input_ids"].shape[1] :].tolist()
        chosen_TB = [step.log_softmax(-1).max(-1).values.tolist() for step in made.logits]
        best = [step.topk(2).values for step in made.logits]
        gaps_TB = [(two[:, 0] - two[:, 1]).tolist() for two in best]
        references: list[Reference] = []
        for row, token_ids in enumerate(rows):
            ends = [place for place, token_id in enumerate(token_ids) if token_id == self.end_id]
            length = ends[0] + 1 if ends else len(token_ids)
            logprobs = [chosen_TB[place][row] for place in range(length)]
            gaps = [gaps_TB[place][row] for place in range(length)]
            references.append(Reference(token_ids[:length], logprobs, gaps))
        return references


def agreeing_tokens(segment: Segment, reference: Reference) -> int:
    """Tokens up to where the two part, which is the end unless two logits tie there."""
    assert segment.token_ids is not None
    pairs = zip(segment.token_ids, reference.token_ids, strict=False)
    parted = next((place for place, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
    if parted is None:
        assert len(segment.token_ids) == len(reference.token_ids)
        return len(reference.token_ids)
    assert reference.gaps[parted] < TIE
    return parted


async def check(member: str, count: int) -> None:
    calls = requests(member, count)
    segments = await served(calls)
    library = Transformers(member)
    ties = 0
    for first in range(0, count, BATCH):
        part = slice(first, first + BATCH)
        for segment, reference in zip(segments[part], library.generate(calls[part]), strict=True):
            agreeing = agreeing_tokens(segment, reference)
            assert segment.logprobs is not None
            ours = [entry.logprob for entry in segment.logprobs[:agreeing]]
            assert ours == pytest.approx(reference.logprobs[:agreeing], abs=1e-3)
            if agreeing == len(reference.token_ids):
                assert segment.text == library.decode(reference.token_ids)
            else:
                ties += 1
    assert ties <= MOST_TIES


@pytest.mark.parametrize("member", shipped.names())
async def test_greedy_tokens_and_logprobs_equal_those_of_transformers(member: str) -> None:
    await check(member, 64)


@pytest.mark.slow
@pytest.mark.parametrize("member", shipped.names())
async def test_they_are_equal_on_hundreds_of_prompts(member: str) -> None:
    await check(member, PROMPTS)
