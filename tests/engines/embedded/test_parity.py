"""The engine computes what Transformers computes: same greedy tokens, same log-probabilities."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any, cast

import pytest

from thinkroute.engines.embedded import EmbeddedEngine
from thinkroute.engines.embedded.prompt import last_turn, render
from thinkroute.fleet import shipped
from thinkroute.fleet.tasks import FAMILIES, LEVELS, generate
from thinkroute.programs.protocol import Call, Segment
from thinkroute.types import Effort

PROMPTS = 64


def requests(member: str) -> list[Call]:
    rng = Random(17)
    calls: list[Call] = []
    for index in range(PROMPTS):
        family = sorted(FAMILIES)[index % len(FAMILIES)]
        question = generate(rng, family, LEVELS[index % len(LEVELS)], "eval").question
        effort = Effort("on" if index % 4 else "off")
        messages = [{"role": "user", "content": question}]
        calls.append(Call(member, messages, effort, options={"logprobs": True}, stream=False))
    return calls


async def served(calls: list[Call]) -> list[Segment]:
    engine = EmbeddedEngine({name: shipped.directory(name) for name in shipped.names()})

    async def one(call: Call) -> Segment:
        items = [item async for item in engine.generate(call)]
        assert isinstance(items[-1], Segment)
        return items[-1]

    segments = await asyncio.gather(*(one(call) for call in calls))
    await engine.aclose()
    return segments


@pytest.mark.parametrize("member", shipped.names())
async def test_greedy_tokens_and_logprobs_equal_those_of_transformers(member: str) -> None:
    import torch
    import transformers

    torch.set_num_threads(1)
    directory = shipped.directory(member)
    library = cast("Any", transformers)  # partially typed
    tokenizer = library.AutoTokenizer.from_pretrained(directory)
    model = library.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    calls = requests(member)
    for call, segment in zip(calls, await served(calls), strict=True):
        prompt = render(last_turn(call.messages), thinking=call.effort.thinks)
        prompt_ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        whole = model.generate(prompt_ids, max_new_tokens=150, do_sample=False)[0]
        generated = whole[prompt_ids.shape[1] :]
        assert segment.token_ids == tuple(generated.tolist())
        assert tokenizer.decode(generated[:-1]) == segment.text
        with torch.no_grad():
            logprobs = model(whole[None]).logits[0, prompt_ids.shape[1] - 1 : -1].log_softmax(-1)
        expected = logprobs[range(len(generated)), generated].tolist()
        assert segment.logprobs is not None
        assert [entry.logprob for entry in segment.logprobs] == pytest.approx(expected, abs=1e-3)
