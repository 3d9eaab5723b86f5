"""Relay arms through a real gateway: streamed, explained, bounded in dollars, and never failed by their teacher."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from tests.gateway.conftest import Gateway, GatewayFactory, sse, text_of
from thinkroute.config import Config, resolve
from thinkroute.engines.embedded import EmbeddedEngine
from thinkroute.engines.http import HttpEngine
from thinkroute.errors import ConfigError
from thinkroute.fleet import shipped
from thinkroute.fleet.server import application
from thinkroute.fleet.tasks import FAMILIES, generate
from thinkroute.gateway.recording import card
from thinkroute.testing import FakeUpstream, HangAfterChunks, HangBeforeHeaders, Reply, Reset, Status
from thinkroute.testing.calling import CallingEngine
from thinkroute.testing.faults import Break, Fault

IN_PROCESS = "relay(student -> teacher)@on"
OVER_HTTP = "relay(student -> remote)@on"


def settings(remote_url: str = "http://127.0.0.1:9", **more: Any) -> dict[str, Any]:
    def member(name: str, url: str, usd: float) -> dict[str, Any]:
        return {
            "url": url,
            "upstream_name": f"thinkroute-fleet-{name}",
            "continuation": "completions",
            "price": {"input_usd_per_mtok": usd, "output_usd_per_mtok": 4 * usd},
            "context_window": 256,
        }

    return {
        "models": {
            "student": member("student", "http://127.0.0.1:9", 1),
            "teacher": member("teacher", "http://127.0.0.1:9", 8),
            "remote": member("teacher", remote_url, 8),
        },
        "arms": [IN_PROCESS, OVER_HTTP, "student@on", "teacher@on"],
        **more,
    }


@asynccontextmanager
async def relaying(
    gateway: GatewayFactory, config: Mapping[str, Any], tokens: int = 2
) -> AsyncGenerator[Gateway]:
    """A gateway whose student and teacher are real members; the student is made to call after every ` is`."""
    engine = EmbeddedEngine({name: shipped.directory(name) for name in ("student", "teacher")})
    student = CallingEngine(
        engine, shipped.directory("student") / "tokenizer.json", after=" is", tokens=tokens
    )
    remote = HttpEngine(resolve(Config.model_validate(config)).models)
    async with gateway(config, {"student": student, "teacher": engine, "remote": remote}) as served:
        yield served


@asynccontextmanager
async def members_served() -> AsyncGenerator[str]:
    """The teacher behind the fleet's own HTTP server."""
    engine = EmbeddedEngine({"teacher": shipped.directory("teacher")})
    server = TestServer(application(engine, ["teacher"]))
    await server.start_server()
    try:
        yield str(server.make_url("/v1"))
    finally:
        await server.close()


def questions(count: int) -> list[str]:
    rng = Random(7)
    families = sorted(FAMILIES)
    return [generate(rng, families[i % len(families)], 1 + i % 4, "eval").question for i in range(count)]


async def whole(gateway: Gateway, question: str, model: str) -> dict[str, Any]:
    response = await gateway.chat(model=model, messages=[{"role": "user", "content": question}])
    body = await response.json()
    assert response.status == 200, body
    return body


async def test_a_relay_over_http_says_the_same_as_in_process_and_both_stream_thoughts_as_reasoning(
    gateway: GatewayFactory,
) -> None:
    async with members_served() as url, relaying(gateway, settings(url)) as g:
        for question in questions(6):
            here, there = [await whole(g, question, model) for model in (IN_PROCESS, OVER_HTTP)]
            messages = [body["choices"][0]["message"] for body in (here, there)]
            assert messages[0] == messages[1]
            assert "call>" not in str(messages)
            assert messages[0]["reasoning_content"].strip()
            assert here["thinkroute"]["teacher_share"] == there["thinkroute"]["teacher_share"] > 0
            events = await sse(
                await g.chat(model=OVER_HTTP, stream=True, messages=[{"role": "user", "content": question}])
            )
            assert text_of(events) == messages[0]["content"]
            assert text_of(events, "reasoning_content") == messages[0]["reasoning_content"]
            assert events[-2]["choices"][0]["finish_reason"] == "stop"


async def test_the_card_names_every_hand_over_with_its_tokens_and_cost(gateway: GatewayFactory) -> None:
    async with relaying(gateway, settings()) as g:
        body = await whole(g, questions(1)[0], IN_PROCESS)
        record = await g.recorded()
        assert record.relay is not None
        shown = card(record)["relay"]
        assert shown["teacher_share"] == body["thinkroute"]["teacher_share"]
        assert shown["teacher_share"] <= shown["teacher_share_asked"] < 1
        teacher_legs = [leg for leg in record.legs if leg.owner == "teacher"]
        served = [each for each in shown["hand_overs"] if each["granted_tokens"]]
        assert [each["cost_usd"] for each in served] == [leg.cost_usd for leg in teacher_legs]
        assert [each["tokens"] for each in served] == [leg.completion_tokens for leg in teacher_legs]
        assert record.cost_usd == pytest.approx(sum(leg.cost_usd or 0 for leg in record.legs))
        assert (record.program, record.arm_id) == ("relay", IN_PROCESS)


async def test_a_hand_over_computes_only_what_the_teacher_has_not_seen(gateway: GatewayFactory) -> None:
    """The stripped prefix only ever grows, so each hand-over finds the last one's keys and values."""
    async with relaying(gateway, settings()) as g:
        await whole(g, questions(4)[3], IN_PROCESS)
        legs = [leg for leg in (await g.recorded()).legs if leg.owner == "teacher"]
        assert len(legs) > 1
        for before, after in itertools.pairwise(legs):
            assert after.cached_tokens >= before.prompt_tokens
        students = [leg for leg in (await g.recorded()).legs if leg.owner == "student"]
        for before, after in itertools.pairwise(students):
            assert after.cached_tokens >= before.prompt_tokens


FAULTS: list[Fault] = [
    Reset(),
    Status(500),
    Status(429),
    Break("after_role"),
    Break("mid_event"),
    Break("before_finish"),
    HangBeforeHeaders(),
    HangAfterChunks(1),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("stream", [False, True])
async def test_whatever_happens_to_the_teacher_the_answer_comes(
    gateway: GatewayFactory, fault: Fault, stream: bool
) -> None:
    if isinstance(fault, HangAfterChunks) and not stream:
        pytest.skip("only a stream has chunks")
    async with FakeUpstream(_going_on, faults=[fault] * 4) as upstream:
        config = settings(upstream.base_url, relay={"teacher_timeout_s": 0.2})
        async with relaying(gateway, config, tokens=5) as g:
            question = {"role": "user", "content": questions(1)[0]}
            response = await g.chat(model=OVER_HTTP, messages=[question], stream=stream)
            assert response.status == 200
            if stream:
                events = await sse(response)
                assert (events[-1], events[-2]["choices"][0]["finish_reason"]) == ("[DONE]", "stop")
                answer = text_of(events)
            else:
                answer = (await response.json())["choices"][0]["message"]["content"]
            record = await g.recorded()
        assert answer.strip()
        assert record.status == "ok"
        assert "relay_teacher_failed" in record.reason_codes
        assert record.relay is not None
        assert [each.outcome for each in record.relay.hand_overs] == ["failed"]
        assert record.relay.hand_overs[0].error


def _going_on(body: Mapping[str, Any]) -> Reply:
    """A teacher that goes on inside the thought of whatever raw prompt it gets."""
    said = str(body["prompt"]).rpartition("assistant\n")[2].removeprefix("<think>\n")
    return Reply("never", said + " 1. second plus 2 is 3.")


async def test_what_a_relay_cannot_carry_rules_it_out_with_a_reason(gateway: GatewayFactory) -> None:
    async with relaying(gateway, settings()) as g:
        response = await g.chat(model=IN_PROCESS, logprobs=True)
        assert response.status == 422
        assert "missing_capability:logprobs" in await response.text()
        response = await g.chat(model="relay(teacher -> student)@on")
        assert response.status == 404
        assert "list it under `arms:`" in await response.text()
        body = await whole(g, questions(1)[0], "relay( student ⇢ teacher )@on")
        assert body["thinkroute"]["arm"] == IN_PROCESS


@pytest.mark.parametrize("usd", [0.001, 0.01, 0.05])
async def test_a_dollar_limit_holds_over_all_legs(gateway: GatewayFactory, usd: float) -> None:
    config = settings(policy={"budgets": {"usd_per_request": usd}}, relay={"most_calls": 3})
    async with relaying(gateway, config, tokens=9) as g:
        for question in questions(4):
            response = await g.chat(model=IN_PROCESS, messages=[{"role": "user", "content": question}])
            record = await g.recorded()
            if response.status == 429:
                assert usd == 0.001
                continue
            assert response.status == 200
            assert record.cost_usd is not None
            assert 0 < record.cost_usd <= usd
            assert sum(leg.completion_tokens for leg in record.legs) <= (record.enforced_max_tokens or 0)


@pytest.mark.parametrize(
    ("arm", "says"),
    [
        ("relay(student -> student)@on", "two different models"),
        ("relay(student -> nobody)@on", "unknown model"),
        ("relay(student -> chat)@on", "continuation: completions"),
        ("relay(student -> teacher)@budget=8", "thinking budget"),
        ("relay(student -> teacher)@xhigh", "not known"),
    ],
)
def test_a_relay_that_cannot_work_is_refused_at_the_start(arm: str, says: str) -> None:
    config = settings(arms=[arm])
    config["models"]["chat"] = {"url": "http://127.0.0.1:9", "upstream_name": "Qwen/Qwen3-8B"}
    with pytest.raises(ConfigError, match=says):
        resolve(Config.model_validate(config))
