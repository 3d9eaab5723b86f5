"""Every member in Transformers as it ships: loaded, prompted by its own template, it says what the engine says."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from thinkroute.engines.embedded import EmbeddedEngine
from thinkroute.fleet import shipped
from thinkroute.fleet.tasks import FAMILIES, LEVELS, generate
from thinkroute.programs.protocol import Call, Segment
from thinkroute.types import Effort

QUESTIONS = 6


def questions() -> list[str]:
    rng = Random(7)
    families = sorted(FAMILIES)
    return [
        generate(rng, families[i % len(families)], LEVELS[i % len(LEVELS)], "eval").question
        for i in range(QUESTIONS)
    ]


def library() -> Any:
    import transformers

    return cast("Any", transformers)  # partially typed


async def said_by_engine(directory: Path, question: str, effort: str) -> Segment:
    engine = EmbeddedEngine({"member": directory})
    call = Call("member", [{"role": "user", "content": question}], Effort.parse(effort), stream=False)
    try:
        items = [item async for item in engine.generate(call)]
    finally:
        await engine.aclose()
    assert isinstance(items[-1], Segment)
    return items[-1]


@pytest.mark.parametrize("name", shipped.names())
async def test_a_member_prompted_by_its_template_continues_as_the_engine_does(name: str) -> None:
    """Greedy and the end token come from its own `generation_config.json`; nothing is set by hand."""
    import torch

    torch.set_num_threads(1)
    directory = shipped.directory(name)
    model = library().AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokenizer = library().AutoTokenizer.from_pretrained(directory)
    for question in questions():
        for thinking in (True, False):
            prompt = tokenizer.apply_chat_template(
                [{"role": "user", "content": question}],
                add_generation_prompt=True,
                enable_thinking=thinking,
                return_tensors="pt",
                return_dict=True,
            )
            with torch.no_grad():
                whole = model.generate(**prompt, max_new_tokens=160)[0]
            generated = tuple(whole[prompt["input_ids"].shape[1] :].tolist())
            expected = await said_by_engine(directory, question, "on" if thinking else "off")
            assert generated == expected.token_ids
            assert tokenizer.decode(generated, skip_special_tokens=True) == expected.text
            assert ("<think>" in expected.text) == thinking
