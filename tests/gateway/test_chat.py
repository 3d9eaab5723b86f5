"""A request's life through a real gateway and a real HTTP upstream."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.gateway.conftest import GatewayFactory, sse, text_of
from thinkroute.gateway.asgi import _header_value  # pyright: ignore[reportPrivateUsage]
from thinkroute.testing import FakeUpstream, HangBeforeHeaders, Quirks, Reply

REPLY = Reply("The answer is four.", reasoning="one two three four five six")


def settings(upstream: FakeUpstream, name: str = "qwen3", **more: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {"url": upstream.base_url, "continuation": "prefill", **more}
    entry.setdefault("price", {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2})
    return {"models": {name: entry}}


async def test_an_answer_carries_its_reasoning_usage_and_route(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        response = await g.chat(model="qwen3@on")
        body = await response.json()
        assert response.status == 200
        message = body["choices"][0]["message"]
        assert message["content"] == REPLY.answer
        assert message["reasoning_content"].strip() == REPLY.reasoning
        assert body["choices"][0]["finish_reason"] == "stop"
        assert (
            body["usage"]["completion_tokens"]
            > body["usage"]["completion_tokens_details"]["reasoning_tokens"]
            > 0
        )
        assert (
            body["usage"]["total_tokens"]
            == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]
        )
        assert body["thinkroute"]["arm"] == response.headers["x-thinkroute-arm"] == "qwen3@on"
        expected = (body["usage"]["prompt_tokens"] + 2 * body["usage"]["completion_tokens"]) / 1e6
        assert float(response.headers["x-thinkroute-cost-usd"]) == pytest.approx(expected)


async def test_a_stream_says_the_same_as_the_whole_answer(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        response = await g.chat(model="qwen3@on", stream=True, stream_options={"include_usage": True})
        events = await sse(response)
        assert response.headers["content-type"].startswith("text/event-stream")
        assert events[0]["choices"][0]["delta"]["role"] == "assistant"
        assert text_of(events) == REPLY.answer
        assert text_of(events, "reasoning_content").strip() == REPLY.reasoning
        assert events[-1] == "[DONE]"
        assert events[-2]["usage"]["completion_tokens"] > 0
        assert events[-3]["choices"][0]["finish_reason"] == "stop"
        assert events[-3]["thinkroute"]["cost_usd"] > 0


async def test_thinking_is_switched_in_the_upstreams_own_words(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        for name, flag in (("qwen3@off", False), ("qwen3@on", True)):
            await g.chat(model=name)
            assert upstream.requests[-1].body["chat_template_kwargs"] == {"enable_thinking": flag}
            assert upstream.requests[-1].body["model"] == "qwen3"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_thinking_budget_is_enforced_by_two_calls(gateway: GatewayFactory, stream: bool) -> None:
    quirks = Quirks(mislabels_answer=True)
    async with FakeUpstream(REPLY, quirks=quirks) as upstream, gateway(settings(upstream)) as g:
        response = await g.chat(model="qwen3@budget=3", stream=stream)
        if stream:
            events = await sse(response)
            answer, thought = text_of(events), text_of(events, "reasoning_content")
            block = events[-2]["thinkroute"]
        else:
            body = await response.json()
            answer, thought = (body["choices"][0]["message"][key] for key in ("content", "reasoning_content"))
            block = body["thinkroute"]
        assert answer == REPLY.answer
        assert thought.strip().startswith("one two")
        assert "five" not in thought
        assert "Considering the limited time" in thought
        assert block["legs"] == len(upstream.requests) == 2
        record = await g.recorded()
        assert [leg.owner for leg in record.legs] == ["qwen3", "qwen3"]
        assert record.legs[0].completion_tokens <= 3


async def test_a_cap_smaller_than_the_thinking_still_gets_an_answer(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        body = await (await g.chat(model="qwen3@on", max_tokens=8)).json()
        assert body["choices"][0]["message"]["content"]
        assert body["usage"]["completion_tokens"] <= 8
        assert body["thinkroute"]["legs"] == 2
        assert "thinking_capped" in body["thinkroute"]["reason_codes"], "less than asked is said"
        assert (await g.recorded()).program == "budgeted"


async def test_an_engine_with_its_own_budget_field_gets_one_call(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream:
        config = settings(upstream, thinking_budget_field="thinking_token_budget")
        async with gateway(config) as g:
            response = await g.chat(model="qwen3@budget=3")
            assert (await response.json())["choices"][0]["message"]["content"] == REPLY.answer
            assert len(upstream.requests) == 1
            assert upstream.requests[0].body["thinking_token_budget"] == 3


async def test_unknown_fields_travel_both_ways(gateway: GatewayFactory) -> None:
    tool: dict[str, Any] = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    reply = Reply("", tool_calls=(tool,))
    message = {"role": "user", "content": "Hi", "cache_control": {"type": "ephemeral"}}
    async with FakeUpstream(reply) as upstream, gateway(settings(upstream, name="plain")) as g:
        response = await g.chat(
            model="plain", messages=[message], temperature=0.3, tools=[{"type": "function", "function": {"name": "f"}}],
            metadata={"a": "b"}, x_unknown=[1, {"deep": None}],
        )  # fmt: skip
        sent = upstream.requests[0].body
        assert sent["x_unknown"] == [1, {"deep": None}]
        assert sent["metadata"] == {"a": "b"}
        assert sent["messages"] == [message]
        body = await response.json()
        assert body["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "f"
        assert body["choices"][0]["finish_reason"] == "tool_calls"


async def test_streamed_tool_calls_arrive_as_the_upstream_sent_them(gateway: GatewayFactory) -> None:
    tool: dict[str, Any] = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    async with (
        FakeUpstream(Reply("", tool_calls=(tool,))) as upstream,
        gateway(settings(upstream, name="plain")) as g,
    ):
        tools = [{"type": "function", "function": {"name": "f"}}]
        events = await sse(await g.chat(model="plain", stream=True, tools=tools))
        deltas = [
            event["choices"][0]["delta"] for event in events if event != "[DONE]" and event.get("choices")
        ]
        calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
        assert "".join(call["function"].get("name") or "" for call in calls) == "f"


async def test_our_headers_are_stripped_on_the_way_in_and_secrets_never_travel(
    gateway: GatewayFactory,
) -> None:
    async with FakeUpstream("Hi.") as upstream:
        config = settings(upstream, api_key="upstream-key") | {
            "server": {"port": 0, "api_keys": ["caller-key"]}
        }
        async with gateway(config) as g:
            headers = {
                "Authorization": "Bearer caller-key",
                "X-ThinkRoute-Arm": "evil",
                "X-Thinkroute-Decision": "evil",
            }
            response = await g.chat(headers)
            assert response.headers["x-thinkroute-arm"] != "evil"
            assert response.headers["x-thinkroute-decision"].startswith("dec_")
            seen = {name.lower(): value for name, value in upstream.requests[0].headers.items()}
            assert seen["authorization"] == "Bearer upstream-key"
            assert not [name for name in seen if name.startswith("x-thinkroute")]


async def test_the_card_explains_every_alternative(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        response = await g.chat()
        decision_id = response.headers["x-thinkroute-decision"]
        card = await (await g.get(f"/v1/decisions/{decision_id}")).json()
        assert card["arm_id"] == response.headers["x-thinkroute-arm"]
        assert [arm["arm"] for arm in card["alternatives"]] == sorted(
            arm.id for arm in g.runtime.resolved.arms
        )
        (chosen,) = [arm for arm in card["alternatives"] if arm["chosen"]]
        assert chosen["quality_gain"] == chosen["extra_cost_usd"] == 0
        assert all(arm["predicted_cost_usd"] > 0 for arm in card["alternatives"])
        assert card["router"] == "prior:1"
        assert card["legs"][0]["provenance"] == "reported"
        assert card.get("query_text") is None, "texts are kept only when asked for"


async def test_feedback_joins_the_decision(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        decision_id = (await g.chat()).headers["x-thinkroute-decision"]
        path = f"/v1/decisions/{decision_id}/feedback"
        assert (await g.post(path, b'{"score": 0.25, "comment": "meh"}')).status == 200
        assert (await g.post(path, b'{"correct": true}')).status == 200, "the same source may change its mind"
        card = await (await g.get(f"/v1/decisions/{decision_id}")).json()
        assert [entry["score"] for entry in card["feedback"]] == [1.0]


@pytest.mark.parametrize(
    "body",
    [b"{}", b"[]", b"nonsense", b'{"score": 2}', b'{"score": "1"}', b'{"score": 1, "correct": true}', b'{"score": NaN}',
     b'{"correct": 1}', b'{"score": 1, "typo": 2}', b'{"score": 1, "comment": 5}', b"\xff"],
)  # fmt: skip
async def test_wrong_feedback_is_a_400(gateway: GatewayFactory, body: bytes) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        decision_id = (await g.chat()).headers["x-thinkroute-decision"]
        response = await g.post(f"/v1/decisions/{decision_id}/feedback", body)
        assert response.status == 400
        assert (await response.json())["error"]["message"]


async def test_another_key_sees_no_decision_of_mine(gateway: GatewayFactory) -> None:
    keys = {"server": {"port": 0, "api_keys": ["key-one-1", "key-two-2"]}}
    async with FakeUpstream(REPLY) as upstream:
        config = settings(upstream) | keys
        async with gateway(config) as g:
            mine, other = {"Authorization": "Bearer key-one-1"}, {"Authorization": "Bearer key-two-2"}
            path = f"/v1/decisions/{(await g.chat(mine)).headers['x-thinkroute-decision']}"
            assert (await g.get(path, mine)).status == 200
            assert (await g.get(path, other)).status == 404
            assert (await g.post(f"{path}/feedback", b'{"score": 1}', other)).status == 404


async def test_models_lists_virtual_names_models_and_arms(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        listed = await (await g.get("/v1/models")).json()
        names = [entry["id"] for entry in listed["data"]]
        assert {"auto", "qwen3", "qwen3@off", "qwen3@budget=1024"} <= set(names)
        for name in names:
            assert (await g.get(f"/v1/models/{name}")).status == 200
            assert (await g.chat(model=name)).status == 200


async def test_the_callers_effort_wins_over_the_router(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        wishes: list[tuple[dict[str, Any], str]] = [
            ({"reasoning_effort": "none"}, "off"),
            ({"reasoning": {"enabled": True}}, "on"),
            ({"chat_template_kwargs": {"enable_thinking": False, "other": 1}}, "off"),
            ({"reasoning": {"max_tokens": 1024}}, "budget=1024"),
            ({"thinking_token_budget": 2000}, "budget=2000"),
            ({"thinking": {"type": "disabled"}}, "off"),
            ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "budget=5"),
            ({"think": True}, "on"),
        ]
        for fields, effort in wishes:
            response = await g.chat(**fields)
            assert response.headers["x-thinkroute-effort"] == effort, fields
        assert "other" not in upstream.requests[0].body.get("chat_template_kwargs", {})


async def test_a_virtual_model_stands_for_its_arms(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream:
        virtual = {"virtual_models": {"quick": {"arms": ["qwen3@off"]}}}
        async with gateway(settings(upstream) | virtual) as g:
            response = await g.chat(model="quick")
            assert response.headers["x-thinkroute-arm"] == "qwen3@off"
            assert "only_arm" in response.headers["x-thinkroute-reason"]


async def test_a_capability_no_arm_has_is_a_422_that_says_which(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream, capabilities=[])) as g:
        response = await g.chat(tools=[{"type": "function", "function": {"name": "f"}}])
        assert response.status == 422
        assert "missing_capability:tools" in (await response.json())["error"]["message"]
        assert (await g.recorded()).status == "refused"


async def test_a_spent_budget_refuses_with_429_and_calls_nobody(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream:
        policy = {"policy": {"budgets": {"usd_per_day": 0.0002, "tokens_per_request": 20}}}
        async with gateway(settings(upstream) | policy) as g:
            statuses = [(await g.chat(model="qwen3@off")).status for _ in range(30)]
            assert statuses[0] == 200
            assert statuses[-1] == 429
            spent = sum(record.cost_usd or 0 for record in g.runtime.store.iter_records())
            assert spent <= 0.0002
            assert len(upstream.requests) == statuses.count(200)


async def test_the_dollar_limit_of_a_request_caps_its_tokens(gateway: GatewayFactory) -> None:
    async with FakeUpstream(Reply("word " * 500)) as upstream:
        policy = {"policy": {"budgets": {"usd_per_request": 0.0002}}}
        async with gateway(settings(upstream) | policy) as g:
            body = await (await g.chat(model="qwen3@off", max_tokens=400)).json()
            assert upstream.requests[0].body["max_tokens"] < 100
            assert body["choices"][0]["finish_reason"] == "length"
            assert body["thinkroute"]["cost_usd"] <= 0.0002
            assert "capped_by_budget" in body["thinkroute"]["reason_codes"]


async def test_metrics_count_requests_tokens_and_dollars(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        await g.chat(model="qwen3@on")
        await g.post("/v1/chat/completions", b"nonsense")
        await g.chat(model="qwen3@budget=77")
        await g.recorded(3)
        text = await (await g.get("/metrics")).text()
        assert 'thinkroute_requests_total{arm="qwen3@on",code="",status="ok"} 1.0' in text
        assert 'thinkroute_requests_total{arm="none",code="invalid_request",status="refused"} 1.0' in text
        assert 'thinkroute_requests_total{arm="other",code="",status="ok"} 1.0' in text
        assert 'thinkroute_tokens_total{kind="reasoning",model="qwen3"}' in text
        assert "thinkroute_requests_in_flight 0.0" in text


async def test_exactly_one_record_a_request_with_propensities_that_sum_to_one(
    gateway: GatewayFactory,
) -> None:
    async with (
        FakeUpstream(REPLY) as upstream,
        gateway(settings(upstream) | {"policy": {"explore": 0.5}}) as g,
    ):
        for _ in range(10):
            await g.chat()
        records = list(g.runtime.store.iter_records())
        assert len(records) == 10
        for record in records:
            assert sum(score.propensity for score in record.scores) == pytest.approx(1)
            assert record.propensity is not None
            assert record.propensity > 0
        assert len({record.arm_id for record in records}) > 1


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs_of_a_two_call_budget_cover_both_calls_in_one_shape(
    gateway: GatewayFactory, stream: bool
) -> None:
    """The second call goes to raw completions, whose log-probabilities are parallel lists."""
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream, continuation="completions")) as g:
        response = await g.chat(model="qwen3@budget=3", logprobs=True, stream=stream)
        if stream:
            choices = [event["choices"][0] for event in (await sse(response))[:-1] if event["choices"]]
        else:
            choices = (await response.json())["choices"]
        assert [request.path for request in upstream.requests] == ["/v1/chat/completions", "/v1/completions"]
    entries = [e for choice in choices if choice.get("logprobs") for e in choice["logprobs"]["content"]]
    said = "".join(entry["token"] for entry in entries)
    assert "one two" in said
    assert said.endswith(REPLY.answer)
    assert all(entry["top_logprobs"] == [] for entry in entries), "no alternatives were asked for"
    assert all(bytes(entry["bytes"]).decode() == entry["token"] for entry in entries)


async def test_logprobs_pass_through(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream, name="plain")) as g:
        await g.chat(model="plain", logprobs=True, top_logprobs=2)
        assert upstream.requests[0].body["logprobs"] is True


async def test_health_and_readiness_answer(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        assert orjson.loads(await (await g.get("/healthz")).read()) == {"status": "ok"}
        assert (await g.get("/readyz")).status == 200


async def test_tool_schemas_count_towards_the_worst_case(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream:
        policy = {"policy": {"budgets": {"usd_per_request": 0.01}}}
        async with gateway(settings(upstream) | policy) as g:
            huge = [{"type": "function", "function": {"name": "f", "description": "x" * 20_000}}]
            response = await g.chat(model="qwen3@off", tools=huge)
            assert response.status == 429
            assert "over_usd_per_request" in (await response.json())["error"]["message"]
            assert not upstream.requests


async def test_models_that_refuse_the_older_name_of_the_cap_get_the_newer_one(
    gateway: GatewayFactory,
) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream, name="gpt-5.2")) as g:
        await g.chat(model="gpt-5.2@low", max_tokens=7)
        sent = upstream.requests[0].body
        assert sent["max_completion_tokens"] == 7
        assert "max_tokens" not in sent
        assert sent["reasoning_effort"] == "low"


async def test_the_rest_of_the_fields_we_read_travels_on(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        options = {"include_usage": True, "include_obfuscation": False}
        await sse(
            await g.chat(model="qwen3", stream=True, stream_options=options, reasoning={"exclude": True})
        )
        sent = upstream.requests[0].body
        assert sent["stream_options"]["include_obfuscation"] is False
        assert sent["reasoning"] == {"exclude": True}


async def test_a_call_that_hung_costs_an_unknown_amount_and_is_booked_in_full(
    gateway: GatewayFactory,
) -> None:
    async with FakeUpstream(REPLY, faults=[HangBeforeHeaders()]) as upstream:
        policy = {"policy": {"budgets": {"usd_per_day": 1.0, "tokens_per_request": 100}}}
        async with gateway(settings(upstream, timeouts={"first_byte_s": 0.1}) | policy) as g:
            assert (await g.chat(model="qwen3@off")).status == 504
            assert (await g.recorded()).cost_usd is None
            left = g.runtime.budget.left_usd
            assert left is not None
            assert left <= 1.0 - 200e-6, "the worst case stays booked"


async def test_a_level_the_model_does_not_list_becomes_the_nearest_that_thinks_and_says_so(
    gateway: GatewayFactory,
) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream, name="gpt-oss")) as g:
        response = await g.chat(reasoning_effort="xhigh")
        assert response.headers["x-thinkroute-effort"] == "high"
        assert "effort_nearest" in response.headers["x-thinkroute-reason"]
        assert upstream.requests[0].body["reasoning_effort"] == "high"


@pytest.mark.parametrize("model", ["auto", "qwen3"])
@pytest.mark.parametrize("switch", ["/no_think", "/think"])
async def test_a_soft_switch_in_the_text_decides_the_arm_and_stays_in_the_text(
    gateway: GatewayFactory, model: str, switch: str
) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        asked = [{"role": "user", "content": f"What is two plus two? {switch}"}]
        response = await g.chat(model=model, messages=asked)
        assert (response.headers["x-thinkroute-effort"] == "off") == (switch == "/no_think")
        assert "soft_switch" in response.headers["x-thinkroute-reason"]
        assert upstream.requests[0].body["messages"] == asked


async def test_a_soft_switch_against_the_field_of_the_request_is_pointed_out(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        asked = [{"role": "user", "content": "Two plus two? /no_think"}]
        response = await g.chat(messages=asked, reasoning_effort="high")
        assert response.headers["x-thinkroute-effort"] == "on"
        assert "soft_switch_contradicts" in response.headers["x-thinkroute-reason"]


async def test_a_soft_switch_is_only_text_to_a_model_that_does_not_know_it(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream, name="gpt-oss")) as g:
        response = await g.chat(messages=[{"role": "user", "content": "Two plus two? /no_think"}])
        assert response.status == 200
        assert "soft_switch" not in response.headers["x-thinkroute-reason"]


async def test_a_model_whose_thinking_is_unknown_cannot_be_given_an_effort(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream, name="plain")) as g:
        for model in ("auto", "plain"):
            response = await g.chat(model=model, reasoning_effort="low")
            assert response.status == 422
        assert not upstream.requests


async def test_parts_no_model_can_read_are_refused_by_name(gateway: GatewayFactory) -> None:
    part = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream, capabilities=["tools"])) as g:
        response = await g.chat(messages=[{"role": "user", "content": [part]}])
        assert response.status == 422
        assert "missing_capability:audio" in (await response.json())["error"]["message"]


@pytest.mark.parametrize("name", ["service_tier", "web_search_options", "models", "best_of"])
async def test_options_that_change_the_price_are_refused_under_a_dollar_budget(
    gateway: GatewayFactory, name: str
) -> None:
    option: dict[str, Any] = {name: "priority"}
    async with FakeUpstream(REPLY) as upstream:
        config = settings(upstream)
        async with gateway(config) as g:
            assert (await g.chat(**option)).status == 200
        async with gateway(config | {"policy": {"budgets": {"usd_per_day": 1.0}}}) as g:
            response = await g.chat(**option)
            assert (response.status, (await response.json())["error"]["param"]) == (422, name)


async def test_parts_of_unbounded_cost_are_refused_under_a_dollar_budget(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream:
        content = [{"type": "text", "text": "Read."}, {"type": "pdf", "url": "x"}]
        async with gateway(settings(upstream) | {"policy": {"budgets": {"usd_per_day": 1.0}}}) as g:
            response = await g.chat(messages=[{"role": "user", "content": content}])
            assert response.status == 422
            assert "unbounded_prompt_cost" in (await response.json())["error"]["message"]


async def test_an_answer_without_usage_books_what_was_reserved(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY, quirks=Quirks(reports_usage=False)) as upstream:
        policy = {"policy": {"budgets": {"usd_per_day": 1.0, "tokens_per_request": 1000}}}
        async with gateway(settings(upstream) | policy) as g:
            assert (await g.chat(model="qwen3@off")).status == 200
            record = await g.recorded()
            assert record.legs[0].provenance == "estimated"
            assert record.booked_usd is not None
            assert record.booked_usd >= 2000e-6, "an estimate can be fooled, a reservation cannot"


async def test_control_characters_in_field_names_cannot_break_a_header(gateway: GatewayFactory) -> None:
    unknown: dict[str, Any] = {"a\x01b\x00\n": 1}
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        assert (await g.chat(**unknown)).status == 200
        assert _header_value("a\x01b\x00\r\nc\x7f") == b"a b   c "
