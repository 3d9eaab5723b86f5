"""A cascade as an arm of a real gateway: streamed and whole, its card, its failures and its limits."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.gateway.conftest import Gateway, serving, sse, text_of
from tests.routers.cascade.worlds import STAGES, world
from thinkroute.errors import ConfigError, EngineUnavailable
from thinkroute.gateway.assemble import assemble, read_config
from thinkroute.programs.protocol import Call, Chunk, Segment, TokenLogprob
from thinkroute.routers.cascade import CascadeRules, CascadeSettings, fit_cascade, save_cascade
from thinkroute.routers.prior import PriorRouter
from thinkroute.testing import Reply, ScriptedEngine

ARM = "cascade(weak@off -> strong@on)"
MODEL: Mapping[str, Any] = {"url": "http://127.0.0.1:9/v1", "family": "qwen3"}


class Sure(ScriptedEngine):
    """A scripted engine that says how sure it was, when it is asked to."""

    def __init__(self, script: Reply | str, logprob: float) -> None:
        super().__init__(script)
        self._logprob = logprob

    async def generate(self, call: Call) -> AsyncGenerator[Chunk | Segment, None]:
        async for item in super().generate(call):
            if isinstance(item, Segment) and call.options.get("logprobs"):
                item = Segment(  # noqa: PLW2901
                    item.text,
                    item.owner,
                    item.finish,
                    None,
                    (TokenLogprob(item.text, self._logprob),),
                    item.usage,
                )
            yield item


@pytest.fixture(scope="module")
def rules() -> CascadeRules:
    return CascadeRules(
        fit_cascade(
            world(),
            STAGES,
            CascadeSettings(router="ridge", trees=4, encoder_parameters={"buckets": 64, "components": 8}),
        )
    )


@asynccontextmanager
async def cascading(
    rules: CascadeRules, weak: ScriptedEngine, strong: ScriptedEngine, **policy: Any
) -> AsyncGenerator[Gateway]:
    price = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 10}
    settings = {
        "models": {name: {**MODEL, "price": price} for name in ("weak", "useless", "strong")},
        "arms": [ARM],
        "policy": {"value_usd": 0.1, **policy},
    }
    engines = {"weak": weak, "useless": ScriptedEngine("no"), "strong": strong}
    async with serving(settings, engines, cascades=rules) as gateway:
        yield gateway


async def test_a_sure_answer_is_kept_and_nothing_else_is_asked(rules: CascadeRules) -> None:
    strong = ScriptedEngine("It is 5.")
    async with cascading(rules, Sure("It is 4.", -0.05), strong) as g:
        response = await g.chat()
        body = orjson.loads(await response.read())
        assert body["choices"][0]["message"]["content"] == "It is 4."
        assert body["choices"][0]["logprobs"] is None
        assert (body["thinkroute"]["arm"], body["thinkroute"]["answered_by"]) == (ARM, "weak@off")
        assert not strong.calls
        record = g.record()
        assert record.decision is not None
        assert record.decision.arm.id == ARM
        assert [stage.outcome for stage in record.stages] == ["accepted"]
        assert record.stages[0].features["answer_least_logprob"] == pytest.approx(-0.05)
        assert (record.stages[0].quality or 0) > 0.9
        assert set(record.first_stage_usd) == {"weak@off", "strong@on"}


async def test_a_doubtful_answer_is_replaced_and_the_stream_shows_the_accepted_one_alone(
    rules: CascadeRules,
) -> None:
    strong = Reply("It is surely 5.", reasoning="let me see")
    async with cascading(rules, Sure("It is 4.", -2.5), ScriptedEngine(strong)) as g:
        response = await g.chat(stream=True)
        events = await sse(response)
        assert text_of(events) == "It is surely 5."
        assert text_of(events, "reasoning_content") == "let me see"
        assert events[-1] == "[DONE]"
        record = await g.recorded()
        assert [(stage.arm_id, stage.outcome) for stage in record.stages] == [
            ("weak@off", "rejected"),
            ("strong@on", "accepted"),
        ]
        assert [leg.owner for leg in record.legs] == ["weak", "strong"]
        assert record.stages[0].ways_usd["strong@on"] > (record.stages[0].stop_usd or 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_when_the_strong_arm_is_down_the_weak_answer_is_given_and_said(
    rules: CascadeRules, *, stream: bool
) -> None:
    down = ScriptedEngine(Reply("never", error=EngineUnavailable("down")))
    async with cascading(rules, Sure("It is 4.", -2.5), down) as g:
        response = await g.chat(stream=stream)
        assert response.status == 200
        if stream:
            events = await sse(response)
            assert text_of(events) == "It is 4."
            codes = events[-2]["thinkroute"]["reason_codes"]
        else:
            body = orjson.loads(await response.read())
            assert body["choices"][0]["message"]["content"] == "It is 4."
            codes = body["thinkroute"]["reason_codes"]
        assert "cascade_fell_back" in codes
        assert [stage.outcome for stage in (await g.recorded()).stages] == ["accepted", "failed"]


async def test_a_cascade_can_be_asked_for_by_name_and_an_unknown_one_is_refused(rules: CascadeRules) -> None:
    async with cascading(rules, Sure("It is 4.", -0.05), ScriptedEngine("no")) as g:
        response = await g.chat(model="cascade(weak@off→strong@on)")
        assert orjson.loads(await response.read())["thinkroute"]["reason_codes"][0] == "pinned"
        response = await g.chat(model="cascade(weak@off -> useless@off)")
        assert response.status == 404


async def test_the_worst_case_of_all_stages_bounds_what_is_spent(rules: CascadeRules) -> None:
    budgets = {"usd_per_request": 0.0005}
    long = "one " * 200
    async with cascading(rules, Sure(long, -2.5), ScriptedEngine(long), budgets=budgets) as g:
        response = await g.chat()
        assert response.status == 200
        record = g.record()
        assert (record.cost_usd or 0) <= 0.0005
        assert sum(leg.completion_tokens for leg in record.legs) <= (record.enforced_max_tokens or 0)
        response = await g.chat(messages=[{"role": "user", "content": "x" * 600}])
        assert response.status != 200


def test_a_cascade_that_was_never_fitted_is_refused_at_the_start(rules: CascadeRules, tmp_path: Path) -> None:
    save_cascade(rules.cascade, tmp_path / "cascade")
    config = tmp_path / "thinkroute.yaml"
    text = (
        "models:\n  weak: {url: http://127.0.0.1:9/v1}\n  strong: {url: http://127.0.0.1:9/v1}\n"
        "arms: ['cascade(strong@default -> weak@default)']\n"
        f"cascade: {{path: {tmp_path / 'cascade'}}}\nstore: {{path: memory}}\n"
    )
    config.write_text(text)
    with pytest.raises(ConfigError, match="fitted on its stages"):
        assemble(read_config(config), router=PriorRouter([]))
    config.write_text(text.replace("-> weak@default", "-> strong@default"))
    with pytest.raises(ConfigError, match="two different stages"):
        assemble(read_config(config), router=PriorRouter([]))
