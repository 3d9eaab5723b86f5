"""An upstream's reply, streamed or not, as chunks and a segment.

Owns: which text is thinking and which is answer, wherever the server puts it; the usage and its provenance; the
finish reason. Does not own transport (bytes, time-outs) or what becomes of the fields it does not read: those travel
in `Chunk.upstream` and `Segment.upstream`, grouped as `programs.protocol.Upstream` says. Fields that are null say
nothing and are left out.

Thinking may come as `reasoning_content`, as `reasoning`, as parts of type `thinking`, or as tags in the text. After
a prefix that closed the block everything is the answer, because servers' parsers do not see the prefix and mislabel.

Invariant: any payload gives chunks or an `EngineError`, never another exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import orjson

from thinkroute.catalog import Model
from thinkroute.errors import EngineInterrupted, EngineProtocolError
from thinkroute.programs.protocol import Call, Chunk, Segment, SegmentFinish
from thinkroute.types import Channel, Usage, estimate_tokens
from thinkroute.wire.openai_chat.upstream_errors import reported_error
from thinkroute.wire.openai_chat.upstream_logprobs import in_chat_shape, token_logprobs
from thinkroute.wire.openai_chat.upstream_usage import reported_usage
from thinkroute.wire.raw_prompt import text_of
from thinkroute.wire.reply_text import ReplyText
from thinkroute.wire.sse import Event
from thinkroute.wire.thinking import Piece

_OWNED_BODY = frozenset({"id", "object", "created", "model", "choices", "usage"})
_OWNED_CHOICE = frozenset({"index", "delta", "message", "text", "finish_reason"})
_OWNED_MESSAGE = frozenset({"role", "content", "reasoning", "reasoning_content"})
_STOPPED_AT = ("stop_reason", "matched_stop", "stopping_word")
"""Where servers name the stop string they met: vLLM, SGLang and llama.cpp."""
_FINISHES: Mapping[str, SegmentFinish] = {
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
_FAILED_FINISHES = frozenset({"error", "abort", "aborted", "cancelled"})


class ReplyReader:
    """Reads one reply. Feed it events or one body, then `close`, then ask for the `segment`."""

    def __init__(self, call: Call, model: Model) -> None:
        self._call = call
        self._model = model
        self._text = ReplyText(call, model.family)
        self._usage: Mapping[str, Any] | None = None
        self._finish: SegmentFinish | None = None
        self._done = False
        self._met_text = False
        self._body: dict[str, Any] = {}
        self._body_news: dict[str, Any] = {}
        self._choice: dict[str, Any] = {}
        self._message: dict[str, Any] = {}
        self._logprobs: list[Any] = []

    @property
    def complete(self) -> bool:
        """Whether the reply said that it has ended: a finish reason, or the stream's terminator."""
        return self._done or self._finish is not None

    @property
    def terminated(self) -> bool:
        """Whether the stream's terminator came, after which nothing is worth waiting for."""
        return self._done

    def read_event(self, event: Event) -> list[Chunk]:
        """The chunks of one event of a stream.

        Raises:
            EngineProtocolError: the event is not a chunk of this dialect.
            EngineRejected: the event is an error with a status of its own.
            EngineInterrupted: the event is any other error.
        """
        if event.data.strip() == "[DONE]":
            self._done = True
            return []
        payload = self._payload(event.data)
        self._raise_reported(payload, streaming=True)
        self._message = {}  # deltas cannot be joined without knowing their fields, so a segment keeps none of them
        self._choice = {}
        return self._chunks(self._pieces_of(payload, "delta"))

    def read_body(self, body: bytes) -> list[Chunk]:
        """The chunks (at most one a channel) of a reply that was not streamed.

        Raises:
            EngineProtocolError: the body is not a completion of this dialect.
            EngineRejected: the body is an error despite its status.
        """
        payload = self._payload(body)
        self._raise_reported(payload, streaming=False)
        if not payload.get("choices"):
            raise self._garbage("a completion without choices")
        self._text.whole = True
        pieces = [*self._pieces_of(payload, "message"), *self._text.close()]
        self._finish = self._finish or ("tool_calls" if self._message.get("tool_calls") else "stop")
        return self._chunks(_joined(pieces))

    def close(self) -> list[Chunk]:
        """Text that was held back in case it became a tag. The reply is over."""
        return [Chunk(channel, text) for channel, text in self._text.close()]

    def segment(self, latency_s: float = 0.0, ttft_s: float | None = None) -> Segment:
        """The whole reply."""
        upstream = {"body": self._body, "choice": self._choice, "message": self._message}
        text, finish = self._text.raw(), self._finish or "stop"
        if self._met_text and finish == "stop":
            wanted = self._call.until_text or ""
            text, finish = text.removesuffix(wanted) + wanted, "text_end"
        return Segment(
            text=text,
            owner=self._call.model,
            finish=finish,
            logprobs=token_logprobs(self._logprobs),
            usage=self._counted_usage(),
            thinking_closed=self._text.closed,
            ttft_s=ttft_s,
            latency_s=latency_s,
            upstream={group: fields for group, fields in upstream.items() if fields},
        )

    def _raise_reported(self, payload: Mapping[str, Any], *, streaming: bool) -> None:
        if "choices" in payload and not payload.get("error") and payload.get("object") != "error":
            return
        if (error := reported_error(self._model, payload, streaming=streaming)) is not None:
            raise error

    def _pieces_of(self, payload: Mapping[str, Any], message_field: str) -> list[Piece]:
        for key, value in payload.items():
            if key not in _OWNED_BODY and value is not None and self._body.get(key) != value:
                self._body[key] = self._body_news[key] = value
        if isinstance(usage := payload.get("usage"), dict):
            self._usage = cast("dict[str, Any]", usage)
        choices: Any = payload.get("choices")
        if not isinstance(choices, list):
            if choices is None and self._usage is not None:
                return []  # some servers send the usage in a chunk that has no choices at all
            raise self._garbage("`choices` is missing or not an array")
        return self._choice_pieces(choices[0], message_field) if choices else []

    def _choice_pieces(self, choice: Any, message_field: str) -> list[Piece]:
        if not isinstance(choice, dict):
            raise self._garbage("a choice is not an object")
        fields = cast("dict[str, Any]", choice)
        for key, value in fields.items():
            if key not in _OWNED_CHOICE and value is not None:
                self._choice[key] = value
        self._note_stop()
        if "logprobs" in self._choice:
            asked = self._call.options.get("top_logprobs")
            top = asked if isinstance(asked, int) else 0
            self._choice["logprobs"] = in_chat_shape(self._choice["logprobs"], top)
            self._note_logprobs(self._choice["logprobs"])
        if (finish := fields.get("finish_reason")) is not None:
            self._finish = self._finish_of(finish)
            self._text.cut = self._finish == "length"
        message: Any = fields.get(message_field)
        if message is None and "text" in fields:
            message = {"content": fields["text"]}
        return [] if message is None else self._message_pieces(message)

    def _message_pieces(self, message: Any) -> list[Piece]:
        if not isinstance(message, dict):
            raise self._garbage("a message is not an object")
        fields = cast("dict[str, Any]", message)
        for key, value in fields.items():
            if key not in _OWNED_MESSAGE and value is not None and value != []:
                self._message[key] = value
        if self._message.get("tool_calls") or self._message.get("function_call"):
            self._text.called_tool = True
        pieces: list[Piece] = []
        thought = fields.get("reasoning_content") or fields.get("reasoning")
        if isinstance(thought, str):
            pieces = self._text.reasoning(thought)
        elif thought:
            self._message["reasoning"] = thought
        content = fields.get("content")
        if isinstance(content, str):
            pieces += self._text.content(content)
        elif content is not None:
            pieces += self._part_pieces(content)
        return pieces

    def _part_pieces(self, content: object) -> list[Piece]:
        """Content as an array: text and thinking parts are read, others are kept as they are."""
        if not isinstance(content, list):
            raise self._garbage("`content` is neither text nor an array")
        pieces: list[Piece] = []
        for value in cast("list[object]", content):
            part = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
            if part.get("type") == "thinking" and (thought := text_of(part.get("thinking"))) is not None:
                pieces += self._text.reasoning(thought)
            elif part.get("type") in ("text", "output_text") and isinstance(part.get("text"), str):
                pieces += self._text.content(part["text"])
            elif part:
                self._message.setdefault("content_parts", []).append(part)
            else:
                raise self._garbage("a part of `content` is not an object")
        return pieces

    def _chunks(self, pieces: list[Piece]) -> list[Chunk]:
        news = bool(self._choice or self._message)
        if not pieces:
            if not news:
                return []  # news of the body alone (a fingerprint) waits for the next chunk: it is no token
            pieces = [("answer", "")]
        chunks = [Chunk(channel, text, None, {}) for channel, text in pieces]
        if news or self._body_news:
            groups = {"choice": self._choice, "message": self._message, "body": self._body_news}
            upstream = {group: fields for group, fields in groups.items() if fields}
            channel, text = pieces[-1]
            chunks[-1] = Chunk(channel, text, None, upstream)
            self._body_news = {}
        return chunks

    def _note_stop(self) -> None:
        """Whether the server says that it met the text to stop at; that is between it and us, not for the caller."""
        wanted = self._call.until_text
        for name in _STOPPED_AT:
            if wanted is not None and self._choice.get(name) == wanted:
                self._met_text = True
                del self._choice[name]

    def _finish_of(self, finish: object) -> SegmentFinish:
        if not isinstance(finish, str):
            raise self._garbage("`finish_reason` is not a string")
        if finish in _FAILED_FINISHES:
            raise EngineInterrupted(f"model {self._model.name!r}: the upstream gave up ({finish!r})")
        return _FINISHES.get(
            finish, "stop"
        )  # servers have their own words for a natural end: eos, end_turn, …

    def _note_logprobs(self, logprobs: object) -> None:
        if isinstance(logprobs, dict):
            tokens = cast("dict[str, object]", logprobs).get("content")
            if isinstance(tokens, list):
                self._logprobs.extend(cast("list[object]", tokens))

    def _counted_usage(self) -> Usage:
        reasoning, answer = (estimate_tokens(chars) for chars in self._text.chars)
        counts = reported_usage(self._usage or {}, reasoning, reasoning + answer)
        if counts is not None:
            # Servers' parsers count as they label: as thinking, when they do not see that the prefix closed the block.
            return replace(counts, reasoning_tokens=0) if self._call.thinking_closed else counts
        said = sum(len(text_of(message.get("content")) or "") for message in self._call.messages)
        return Usage(
            prompt_tokens=estimate_tokens(said + len(self._call.prefix_text)),
            completion_tokens=reasoning + answer,
            reasoning_tokens=reasoning,
            provenance="estimated",
        )

    def _payload(self, data: str | bytes) -> Mapping[str, Any]:
        try:
            payload: object = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise self._garbage("not JSON") from None
        if not isinstance(payload, dict):
            raise self._garbage("not a JSON object")
        return cast("dict[str, Any]", payload)

    def _garbage(self, what: str) -> EngineProtocolError:
        return EngineProtocolError(
            f"model {self._model.name!r}: the upstream sent something that is not OpenAI's protocol: {what}"
        )


def _joined(pieces: list[Piece]) -> list[Piece]:
    """At most one piece a channel, thinking first."""
    channels: tuple[Channel, Channel] = ("reasoning", "answer")
    texts = {channel: "".join(text for of, text in pieces if of == channel) for channel in channels}
    return [(channel, texts[channel]) for channel in channels if texts[channel]]
