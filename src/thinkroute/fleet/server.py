"""The embedded members behind a server of their own: raw `/v1/completions` of OpenAI's dialect, nothing else.

For members in another process or on another machine, above all as the teacher of a relay. Owns the socket and the
reading of raw prompts; generating is the embedded engine's. The gateway's promises (keys, budgets, records) are not made
here: it listens on the loopback interface unless told otherwise, and belongs behind a gateway.

A prompt is text in the members' own format (`wire.fleet_prompt`), ending inside the assistant message; the reply is that
message's raw continuation, tags included.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import orjson
from aiohttp import web

from thinkroute.engines.embedded import EmbeddedEngine
from thinkroute.errors import InvalidRequest, ThinkrouteError, UnknownModel, UnsupportedRequest, http_status
from thinkroute.fleet import shipped
from thinkroute.programs.protocol import Call, Chunk, Segment, TokenLogprob
from thinkroute.types import FORCED, Usage
from thinkroute.wire.fleet_prompt import TURN_END, TURN_START
from thinkroute.wire.json_body import parse_object
from thinkroute.wire.openai_chat.fields import read_boolean, read_integer, read_object
from thinkroute.wire.openai_chat.rendering import render_error, render_failure, render_usage
from thinkroute.wire.sse import DONE, render_json

NAME_PREFIX: Final = "thinkroute-fleet-"
"""Members are served as `thinkroute-fleet-<member>`, by which a gateway recognises their family."""
_OWNED = frozenset({"model", "prompt", "stream", "stream_options", "max_tokens", "logprobs"})
_MOST_BODY_BYTES = 1_000_000
_MOST_LOGPROBS = 20
_ASSISTANT = f"{TURN_END}\n{TURN_START}assistant\n"
_PROMPT = re.compile(
    f"{re.escape(TURN_START)}user\n(.*?){re.escape(_ASSISTANT)}(.*)\\Z",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class _Completion:
    """One request, read."""

    call: Call
    name: str
    usage_wanted: bool


def application(engine: EmbeddedEngine, members: Sequence[str]) -> web.Application:
    """The server's application; it starts and closes the engine."""

    async def complete(request: web.Request) -> web.StreamResponse:
        try:
            completion = _read(await request.read(), members)
            if completion.call.stream:
                return await _stream(request, engine, completion)
            return web.Response(body=await _whole(engine, completion), content_type="application/json")
        except ThinkrouteError as error:
            status, _ = http_status(error)
            return web.Response(status=status, body=render_error(error), content_type="application/json")

    async def list_models(_: web.Request) -> web.StreamResponse:
        entries = [{"id": NAME_PREFIX + name, "object": "model"} for name in members]
        return web.json_response({"object": "list", "data": entries})

    async def health(_: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "ok"})

    async def running(_: web.Application) -> AsyncGenerator[None]:
        await engine.start()
        yield
        await engine.aclose()

    app = web.Application(client_max_size=_MOST_BODY_BYTES)
    app.router.add_post("/v1/completions", complete)
    app.router.add_get("/v1/models", list_models)
    app.router.add_get("/health", health)
    app.cleanup_ctx.append(running)
    return app


def serve(members: Sequence[str], host: str, port: int) -> None:
    """Serve shipped members until interrupted."""
    engine = EmbeddedEngine({name: shipped.directory(name) for name in members})
    # Without it a client that leaves would not stop its generation.
    web.run_app(
        application(engine, members),
        host=host,
        port=port,
        handler_cancellation=True,
        print=None,
        access_log=None,
    )


def _read(body: bytes, members: Sequence[str]) -> _Completion:
    fields = parse_object(body)
    name = str(fields.get("model"))
    member = name.removeprefix(NAME_PREFIX)
    if member not in members:
        known = ", ".join(NAME_PREFIX + each for each in members)
        raise UnknownModel(f"no model {name!r:.100} is served here; there are {known}", param="model")
    prompt = fields.get("prompt")
    matched = _PROMPT.match(prompt) if isinstance(prompt, str) else None
    if matched is None:
        raise InvalidRequest(
            "`prompt` must be a text in the members' format, up to somewhere in the assistant message",
            param="prompt",
        )
    for field in ("echo", "suffix", "best_of"):
        if fields.get(field) not in (None, False, 0, 1, ""):
            raise UnsupportedRequest(f"`{field}` is not supported by this server", param=field)
    question, said = matched.groups()
    options = read_object(fields, "stream_options")
    likeliest = read_integer(fields, "logprobs", minimum=0)
    if likeliest is not None and likeliest > _MOST_LOGPROBS:
        raise InvalidRequest(f"logprobs must be at most {_MOST_LOGPROBS}, got {likeliest}", param="logprobs")
    wanted = {} if likeliest is None else {"logprobs": True, "top_logprobs": likeliest}
    call = Call(
        model=member,
        messages=[{"role": "user", "content": question}],
        prefix=(Segment(said, FORCED),) if said else (),
        max_tokens=read_integer(fields, "max_tokens", minimum=1),
        stream=read_boolean(fields, "stream"),
        options={key: value for key, value in fields.items() if key not in {*_OWNED, "echo"}} | wanted,
    )
    return _Completion(call, name, read_boolean(options, "include_usage", "stream_options."))


async def _whole(engine: EmbeddedEngine, completion: _Completion) -> bytes:
    async with aclosing(engine.generate(completion.call, raw=True)) as items:
        async for item in items:
            if isinstance(item, Segment):
                return _body(completion, item.text, item.finish, item.usage, item.logprobs)
    raise ThinkrouteError("the engine ended without a segment")


async def _stream(
    request: web.Request, engine: EmbeddedEngine, completion: _Completion
) -> web.StreamResponse:
    async with aclosing(engine.generate(completion.call, raw=True)) as items:
        first = await anext(
            items
        )  # what is wrong with a request shows before the first token, and has a status
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            await response.write(b"".join(_events(completion, first)))
            async for item in items:
                await response.write(b"".join(_events(completion, item)))
            await response.write(DONE)
        except ThinkrouteError as error:
            await response.write(render_failure(error))
    return response


def _events(completion: _Completion, item: Chunk | Segment) -> list[bytes]:
    if isinstance(item, Chunk):
        return [render_json(_body(completion, item.text, logprobs=item.logprobs))]
    events = [render_json(_body(completion, "", item.finish))]
    if completion.usage_wanted:
        fields: Mapping[str, Any] = {**_head(completion), "choices": [], "usage": render_usage(item.usage)}
        events.append(render_json(orjson.dumps(fields)))
    return events


def _head(completion: _Completion) -> dict[str, Any]:
    return {
        "id": "cmpl-fleet",
        "object": "text_completion",
        "created": int(time.time()),
        "model": completion.name,
    }


def _body(
    completion: _Completion,
    text: str,
    finish: str | None = None,
    usage: Usage | None = None,
    logprobs: Sequence[TokenLogprob] | None = None,
) -> bytes:
    listed = None if logprobs is None else _in_completions_shape(logprobs)
    choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": listed}
    counted = {} if usage is None else {"usage": render_usage(usage)}
    return orjson.dumps({**_head(completion), "choices": [choice], **counted})


def _in_completions_shape(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Parallel lists, as the dialect has them."""
    return {
        "tokens": [token.token for token in logprobs],
        "token_logprobs": [token.logprob for token in logprobs],
        "top_logprobs": [dict(token.top) for token in logprobs],
    }
