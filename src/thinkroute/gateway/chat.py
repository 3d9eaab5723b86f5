"""`POST /v1/chat/completions`: admit, decide, run the arm's program, answer, record.

Promises: an answer that failed half way ends with an error event, never silently; before the first token a failure has
its own HTTP status; a caller who leaves stops every engine call; every request that was read leaves one record.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from thinkroute.errors import Overloaded, ThinkrouteError
from thinkroute.gateway.asgi import CallerLeft, Request
from thinkroute.gateway.converse import prepare
from thinkroute.gateway.exchange import Exchange
from thinkroute.gateway.runtime import Runtime
from thinkroute.programs.driver import Delta, Run
from thinkroute.types import FORCED, Usage
from thinkroute.wire.openai_chat.inbound import ChatRequest
from thinkroute.wire.openai_chat.rendering import Answer, Renderer, render_error, render_failure

logger = logging.getLogger(__name__)


async def chat(runtime: Runtime, http: Request) -> None:
    """Handle one request, whatever happens in it."""
    exchange = Exchange(http.key_id)
    runtime.begin()
    try:
        await _answer(runtime, http, exchange)
        exchange.completed()
    except CallerLeft:
        exchange.cancelled()
    except ThinkrouteError as error:
        exchange.failed(error, started=http.started)
        await _reply_error(http, exchange, error)
    except Exception:
        logger.exception("request %s failed unexpectedly", exchange.decision_id)
        error = ThinkrouteError("an internal error happened; the log has it under this decision id")
        exchange.failed(error, started=http.started)
        await _reply_error(http, exchange, error)
    except asyncio.CancelledError:
        exchange.cancelled()
        raise
    finally:
        runtime.conclude(exchange)


async def _answer(runtime: Runtime, http: Request, exchange: Exchange) -> None:
    server = runtime.resolved.config.server
    body = await http.body(server.max_body_bytes)
    runtime.admit(exchange)
    run = prepare(runtime, exchange, body)
    request, decision = exchange.known_request, exchange.known_route.decision
    renderer = Renderer(f"chatcmpl-{exchange.decision_id}", decision.arm.models[0], int(exchange.created_at))
    work = _stream if request.stream else _whole
    await http.while_connected(work(http, exchange, request, run, renderer))


async def _whole(
    http: Request, exchange: Exchange, request: ChatRequest, run: Run, renderer: Renderer
) -> None:
    texts: dict[str, list[str]] = {"reasoning": [], "answer": []}
    async with aclosing(run.events()) as events:
        async for delta in events:
            exchange.saw_token()
            texts[delta.channel].append(delta.text)
    exchange.answer_text = "".join(texts["answer"])
    legs = [segment for segment in run.segments if segment.owner != FORCED]
    logprobs = [token for leg in legs for token in leg.logprobs or ()]
    answer = Answer(
        reasoning="".join(texts["reasoning"]),
        content=exchange.answer_text,
        finish=run.finish or "stop",
        usage=caller_usage(run),
        upstream=legs[-1].upstream if legs else {},
        logprobs=logprobs or None,
    )
    await http.reply(200, renderer.answer(answer, exchange.block()), exchange.final_headers())


async def _stream(
    http: Request, exchange: Exchange, request: ChatRequest, run: Run, renderer: Renderer
) -> None:
    async with aclosing(run.events()) as events:
        first = await anext(events, None)
        exchange.saw_token()
        headers = {**exchange.headers(), "cache-control": "no-cache", "x-accel-buffering": "no"}
        await http.start(200, headers, "text/event-stream; charset=utf-8")
        await http.write(renderer.opening())
        if first is not None:
            await _write_deltas(http, exchange, renderer, first, events)
        usage = caller_usage(run) if request.include_usage else None
        await http.write(renderer.closing(run.finish or "stop", usage, exchange.block()), more=False)


async def _write_deltas(
    http: Request, exchange: Exchange, renderer: Renderer, first: Delta, rest: AsyncGenerator[Delta, None]
) -> None:
    answer: list[str] = []
    try:
        delta: Delta | None = first
        while delta is not None:
            if delta.channel == "answer":
                answer.append(delta.text)
            if (event := renderer.delta(delta)) is not None:
                await http.write(event)
            delta = await anext(rest, None)
    finally:
        exchange.answer_text = "".join(answer)


def caller_usage(run: Run) -> Usage:
    """Tokens as the caller thinks of them: the prompt once, everything generated. The bill is in our own block."""
    entries = run.ledger.entries
    if not entries:
        return Usage()
    total = run.ledger.usage
    first = entries[0].usage
    return Usage(
        first.prompt_tokens,
        total.completion_tokens,
        total.reasoning_tokens,
        first.cached_tokens,
        total.provenance,
    )


async def _reply_error(http: Request, exchange: Exchange, error: ThinkrouteError) -> None:
    """An error response; in a stream that is already under way, an error event instead of a silent end."""
    if http.started:
        await http.write(render_failure(error), more=False)
        return
    headers = exchange.headers()
    retry_after = getattr(error, "retry_after", None) or ("1" if isinstance(error, Overloaded) else None)
    if retry_after:
        headers["retry-after"] = str(retry_after)
    await http.reply(exchange.http_status, render_error(error), headers)
