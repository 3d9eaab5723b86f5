"""`CallingEngine`: a model that was not trained to call, made to call by a rule.

It writes a relay's command wherever what it has just written matches a pattern, so that a relay over real models can be
run, tested and compared before any student emits commands of its own. The model itself never sees these commands: one that
was not trained on them is thrown off by its own.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from thinkroute.engines.embedded.vocabulary import Vocabulary
from thinkroute.programs.protocol import Call, Chunk, Engine, Segment
from thinkroute.programs.relay import CALL


class CallingEngine:
    """An engine whose model calls for a few tokens after certain texts.

    Args:
        engine: What really generates; it must keep the text it was to stop after.
        tokenizer: The model's `tokenizer.json`, for the exact ids of the command.
        after: A text that ends where a call may be due, e.g. ` is`.
        where: Matched against the message up to there; a call is written only where it matches at the end.
        tokens: How many to call for, a digit.
    """

    def __init__(
        self, engine: Engine, tokenizer: Path, *, after: str, where: str = "", tokens: int = 1
    ) -> None:
        self._engine = engine
        self._after = after
        self._where = re.compile(rf"(?:{where})\Z", re.DOTALL)
        self._command = f"{CALL.open_tag} {tokens}{CALL.close_tag}"
        self._command_ids = tuple(Vocabulary(tokenizer).encode(self._command))

    async def start(self) -> None:
        """Start the engine behind."""
        await self._engine.start()

    async def aclose(self) -> None:
        """Close the engine behind."""
        await self._engine.aclose()

    async def generate(self, call: Call) -> AsyncGenerator[Chunk | Segment, None]:
        """Continue the message, up to the next call that is due when somebody listens for one."""
        if call.until_text != CALL.close_tag:
            async with aclosing(self._engine.generate(replace(call, without=CALL))) as items:
                async for item in items:
                    yield item
            return
        parts: list[Segment] = []
        while not parts or parts[-1].finish == "text_end":
            async with aclosing(self._engine.generate(self._next(call, parts))) as items:
                async for item in items:
                    if isinstance(item, Segment):
                        parts.append(item)
                    else:
                        yield item
            if parts[-1].finish == "text_end" and self._due(call, parts):
                yield Chunk("answer" if parts[-1].thinking_closed else "reasoning", self._command)
                break
            if call.max_tokens is not None and self._left(call, parts) < 1:
                break
        yield self._whole(call, parts)

    def _next(self, call: Call, parts: list[Segment]) -> Call:
        left = None if call.max_tokens is None else self._left(call, parts)
        prefix = (*call.prefix, *parts)
        return replace(call, prefix=prefix, until_text=self._after, without=CALL, max_tokens=left)

    @staticmethod
    def _left(call: Call, parts: list[Segment]) -> int:
        return (call.max_tokens or 0) - sum(part.usage.completion_tokens for part in parts)

    def _due(self, call: Call, parts: list[Segment]) -> bool:
        # The command is three tokens, and an answer that has no room for them is not worth interrupting.
        room = call.max_tokens is None or self._left(call, parts) >= len(self._command_ids)
        text = CALL.removed(call.prefix_text + "".join(part.text for part in parts))
        return room and self._where.search(text) is not None

    def _whole(self, call: Call, parts: list[Segment]) -> Segment:
        """The parts as one segment, the command with its tokens included."""
        last = parts[-1]
        called = last.finish == "text_end" and self._due(call, parts)
        ids = [token_id for part in parts for token_id in part.token_ids or ()]
        ids += self._command_ids if called else ()
        usage = replace(
            last.usage,
            prompt_tokens=parts[0].usage.prompt_tokens,
            completion_tokens=len(ids),
            reasoning_tokens=sum(part.usage.reasoning_tokens for part in parts)
            + (0 if last.thinking_closed or not called else len(self._command_ids)),
            cached_tokens=parts[0].usage.cached_tokens,
        )
        return replace(
            last,
            text="".join(part.text for part in parts) + (self._command if called else ""),
            finish="text_end" if called else "length" if last.finish == "text_end" else last.finish,
            token_ids=tuple(ids),
            usage=usage,
            ttft_s=parts[0].ttft_s,
            latency_s=sum(part.latency_s for part in parts),
        )
