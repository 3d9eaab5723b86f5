"""The part of a request's life that needs no HTTP: read, decide, build the program. `converse` also runs it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing

from thinkroute.errors import ConfigError, OutOfScope, ThinkrouteError
from thinkroute.gateway.exchange import Exchange
from thinkroute.gateway.relaying import relay_program
from thinkroute.gateway.routing import answer_floor_tokens
from thinkroute.gateway.runtime import Runtime
from thinkroute.programs import build
from thinkroute.programs.adaptive import DialLog
from thinkroute.programs.cascade import CascadeLog, cascade
from thinkroute.programs.driver import Delta, Prompt, Run
from thinkroute.programs.effects import Program
from thinkroute.types import Arm
from thinkroute.wire.json_body import check_depth
from thinkroute.wire.openai_chat.inbound import ChatRequest, parse_request


def prepare(runtime: Runtime, exchange: Exchange, body: bytes) -> Run:
    """Read a chat request, choose its arm, and build the run; the exchange learns each fact as it is known.

    Raises:
        RequestError: the request is wrong or cannot be honoured.
        Refused: a budget says no.
    """
    check_depth(body, runtime.resolved.config.server.max_json_depth)
    request = exchange.request = parse_request(body)
    decide_from = time.perf_counter()
    route = exchange.route = runtime.dispatcher.route(request, _scope_problem(runtime, request))
    runtime.metrics.decided(time.perf_counter() - decide_from)
    arm = route.decision.arm
    exchange.ignored_fields = runtime.ignored_fields(arm, request.options)
    program = (
        relay_program(runtime, exchange) if arm.program == "relay" else _program(runtime, exchange, request)
    )
    prompt = Prompt(request.messages, request.options, request.stream)
    exchange.run = Run(program, prompt, runtime.engines, runtime.dispatcher.model_prices)
    return exchange.run


async def converse(
    runtime: Runtime, body: bytes, show: Callable[[Delta], None], exchange: Exchange | None = None
) -> Exchange:
    """Answer one chat request in process; the same path as over HTTP, the record included.

    Args:
        runtime: Started.
        body: A chat request as JSON.
        show: Called with each piece of text as it comes.
        exchange: Filled in and returned; give one to look at it after a failure.

    Raises:
        ThinkrouteError: as over HTTP, after the exchange has been recorded.
    """
    exchange = exchange or Exchange(None)
    runtime.begin()
    try:
        run = prepare(runtime, exchange, body)
        async with aclosing(run.events()) as events:
            async for delta in events:
                exchange.saw_token()
                exchange.answer_text += delta.text if delta.channel == "answer" else ""
                show(delta)
        exchange.completed()
    except ThinkrouteError as error:
        exchange.failed(error, started=False)
        raise
    except asyncio.CancelledError:
        exchange.cancelled()
        raise
    finally:
        runtime.conclude(exchange)
    return exchange


def _program(runtime: Runtime, exchange: Exchange, request: ChatRequest) -> Program:
    """The program of the chosen arm, under its cap."""
    route = exchange.known_route
    if route.runs_as.effort.threshold is not None:
        exchange.dial = DialLog(route.runs_as.effort.threshold)

    def single(arm: Arm, max_tokens: int | None) -> Program:
        floor = answer_floor_tokens(runtime.model(arm))
        point = runtime.decision_point(arm)
        return build(arm, runtime.thinking_format(arm), max_tokens, floor, point, exchange.dial)

    if not route.runs_as.stages:
        return single(route.runs_as, route.max_tokens)
    if runtime.cascades is None:
        raise ConfigError(f"no cascade is loaded for arm {route.runs_as.id!r}; set cascade.path")
    rule = runtime.cascades.bind(route.runs_as, request.query, route.decision.prices)
    log = exchange.cascade = CascadeLog()
    return cascade(route.runs_as, rule, single, route.max_tokens, log, live=request.stream)


def _scope_problem(runtime: Runtime, request: ChatRequest) -> OutOfScope | None:
    """Why the embedded fleet cannot read the question, when it is in play and cannot."""
    if runtime.check_scope is None:
        return None
    try:
        runtime.check_scope(request.messages)
    except OutOfScope as problem:
        return problem
    return None
