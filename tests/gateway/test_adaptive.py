"""Adaptive arms through a real gateway: asked for, explained, routed among, in process and over raw completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from tests.gateway.conftest import Gateway, GatewayFactory, sse, text_of
from thinkroute.cli.card import card_table
from thinkroute.config import Config, resolve
from thinkroute.engines.embedded import EmbeddedEngine
from thinkroute.engines.http import HttpEngine
from thinkroute.errors import ConfigError
from thinkroute.fleet import shipped
from thinkroute.fleet.server import application
from thinkroute.fleet.tasks import FamilyName, generate
from thinkroute.gateway.recording import card

THRESHOLDS = (0.02, 0.1, 0.3, 0.9)


def settings(remote_url: str = "http://127.0.0.1:9", **more: Any) -> dict[str, Any]:
    model = {
        "upstream_name": "thinkroute-fleet-base",
        "continuation": "completions",
        "price": {"input_usd_per_mtok": 6, "output_usd_per_mtok": 24},
        "context_window": 256,
    }
    arms = [f"{name}@adaptive={threshold}" for name in ("base", "remote") for threshold in THRESHOLDS]
    return {
        "models": {
            "base": {**model, "url": "http://127.0.0.1:9"},
            "remote": {**model, "url": remote_url},
        },
        "arms": arms,
        **more,
    }


@asynccontextmanager
async def deciding(gateway: GatewayFactory, **more: Any) -> AsyncGenerator[Gateway]:
    """A gateway in front of a base that learned to decide in process, and of the same behind the fleet's own HTTP server."""
    folder = shipped.directory("base-adaptthink")
    engine = EmbeddedEngine({"base": folder})
    server = TestServer(application(EmbeddedEngine({"base": folder}), ["base"]))
    await server.start_server()
    try:
        config = settings(str(server.make_url("/v1")), **more)
        remote = HttpEngine(resolve(Config.model_validate(config)).models)
        async with gateway(config, {"base": engine, "remote": remote}) as served:
            yield served
    finally:
        await server.close()


def questions(count: int) -> list[str]:
    rng = Random(5)
    families: tuple[FamilyName, ...] = ("arithmetic", "story", "relations")
    return [generate(rng, families[i % 3], 1 + 2 * (i % 3), "eval").question for i in range(count)]


async def asked(gateway: Gateway, question: str, model: str, **more: Any) -> Mapping[str, Any]:
    response = await gateway.chat(model=model, messages=[{"role": "user", "content": question}], **more)
    body: Mapping[str, Any] = await response.json()
    assert response.status == 200, body
    return body


async def test_the_dial_decides_the_same_in_process_and_over_raw_completions(gateway: GatewayFactory) -> None:
    modes: set[bool] = set()
    async with deciding(gateway) as g:
        for count, question in enumerate(questions(6), start=1):
            here = await asked(g, question, "base@adaptive=0.1")
            own = (await g.recorded(2 * count - 1)).adaptive
            there = await asked(g, question, "remote@adaptive=0.1")
            other = (await g.recorded(2 * count)).adaptive
            message = here["choices"][0]["message"]
            assert there["choices"][0]["message"] == message
            assert own is not None
            assert other is not None
            assert own.p_direct == pytest.approx(other.p_direct, rel=1e-4)
            assert own.answered_at_once == other.answered_at_once == here["thinkroute"]["answered_at_once"]
            assert own.answered_at_once == ((own.p_direct or 0) >= 0.1)
            assert bool(message.get("reasoning_content")) != own.answered_at_once
            assert "think>" not in message["content"]
            modes.add(bool(own.answered_at_once))
    assert modes == {True, False}


async def test_it_streams_what_it_says_as_a_whole(gateway: GatewayFactory) -> None:
    async with deciding(gateway) as g:
        for question in questions(3):
            whole = (await asked(g, question, "base@adaptive=0.1"))["choices"][0]["message"]
            response = await g.chat(
                model="base@adaptive=0.1", stream=True, messages=[{"role": "user", "content": question}]
            )
            events = await sse(response)
            assert text_of(events) == whole["content"]
            assert text_of(events, "reasoning_content") == (whole.get("reasoning_content") or "")
            assert events[-1] == "[DONE]"


async def test_the_card_says_the_probability_the_threshold_and_the_choice(gateway: GatewayFactory) -> None:
    async with deciding(gateway) as g:
        body = await asked(g, questions(1)[0], "base@adaptive=0.02")
        record = await g.recorded()
    shown = card(record)
    assert shown["adaptive"] == {
        "threshold": 0.02,
        "p_direct": record.adaptive and record.adaptive.p_direct,
        "answered_at_once": body["thinkroute"]["answered_at_once"],
    }
    assert (record.program, record.arm_id, record.effort) == (
        "adaptive",
        "base@adaptive=0.02",
        "adaptive=0.02",
    )
    assert record.decision is not None
    assert record.decision.arm.effort.threshold == 0.02
    caption = str(card_table(shown).caption)
    assert "threshold 0.02" in caption
    assert "P(answers at once) 0." in caption
    # The question to the model is a leg of its own, and paid for.
    assert len(record.legs) == 2
    assert record.legs[0].completion_tokens == 1
    assert record.cost_usd == pytest.approx(sum(leg.cost_usd or 0 for leg in record.legs))


async def test_a_router_chooses_among_thresholds(gateway: GatewayFactory) -> None:
    """They are arms like any other: here by declared quality, otherwise by what a fitted router has learned."""
    arms = [
        {"model": "base", "effort": f"adaptive={threshold}", "quality": quality}
        for threshold, quality in ((0.02, 0.5), (0.3, 0.95), (0.9, 0.9))
    ]
    async with deciding(gateway, arms=arms) as g:
        body = await asked(g, questions(1)[0], "auto")
        record = await g.recorded()
    assert body["thinkroute"]["arm"] == "base@adaptive=0.3"
    assert {score.arm_id for score in record.scores} == {f"base@adaptive={t}" for t in (0.02, 0.3, 0.9)}


async def test_any_threshold_can_be_asked_for_by_name(gateway: GatewayFactory) -> None:
    async with deciding(gateway) as g:
        body = await asked(g, questions(1)[0], "base@adaptive=1")
        assert body["thinkroute"]["answered_at_once"] is False
        assert (await asked(g, questions(1)[0], "base@adaptive=0"))["thinkroute"]["answered_at_once"] is True


async def test_a_dollar_budget_covers_the_question_to_the_model(gateway: GatewayFactory) -> None:
    budgets = {"budgets": {"usd_per_request": 0.004}}
    async with deciding(gateway, policy=budgets) as g:
        await asked(g, questions(1)[0], "base@adaptive=0.9")
        record = await g.recorded()
    assert record.enforced_max_tokens is not None
    assert record.cost_usd is not None
    assert record.cost_usd <= 0.004


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"continuation": "prefill"}, "continuation: completions"),
        ({"upstream_name": "gpt-oss-20b"}, "does not allow"),
    ],
)
def test_a_model_whose_decision_cannot_be_read_is_refused(changes: Mapping[str, Any], said: str) -> None:
    config = settings()
    config["models"]["base"].update(changes)
    with pytest.raises(ConfigError, match=said):
        resolve(Config.model_validate(config))


def test_a_relay_takes_no_threshold() -> None:
    with pytest.raises(ConfigError, match="no threshold"):
        resolve(Config.model_validate(settings(arms=["relay(base -> remote)@adaptive=0.5"])))
