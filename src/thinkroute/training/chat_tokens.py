"""A checkpoint's tokenizer at work: which ids a call continues, and which segment new ids make.

Shared by whatever generates with a Hugging Face checkpoint. Owns rendering prompts by the chat template and deciding where a
generation ended; does not generate. Ids that a model wrote are handed on as they are, never encoded again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, cast

from thinkroute.programs.asides import Asides
from thinkroute.programs.protocol import Call, Segment, SegmentFinish
from thinkroute.types import FORCED, Usage

MOST_TOKENS = 1024
"""Longest segment of a call that names no cap."""


class ChatTokens:
    """The tokenizer and chat template of a checkpoint.

    Args:
        path: Folder or name of the checkpoint.
    """

    def __init__(self, path: str) -> None:
        import transformers

        self.tokenizer: Any = cast("Any", transformers).AutoTokenizer.from_pretrained(path)
        self.pad_id = int(self.tokenizer.pad_token_id or 0)
        self._close_ids = self.encode("</think>")
        self._open_ids = self.encode("<think>")

    def encode(self, text: str) -> list[int]:
        """Token ids; special tokens written in the text are recognised."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included."""
        return self.tokenizer.decode(list(ids))

    def prompt_ids(self, call: Call) -> list[int]:
        """The chat template's prompt and the exact ids of the message so far."""
        settings: dict[str, Any] = {"add_generation_prompt": True, "tokenize": False}
        opens_itself = call.prefix_text.lstrip().startswith("<think>")
        if call.effort.level in ("on", "off") and not opens_itself:
            settings["enable_thinking"] = call.effort.level == "on"
        text = self.tokenizer.apply_chat_template(list(call.messages), **settings)
        prefix: list[int] = []
        for segment in call.prefix:
            if segment.token_ids is not None and segment.owner != FORCED:
                prefix += segment.token_ids
            else:
                prefix += self.encode(segment.text)
        return self.encode(text) + (prefix if call.without is None else self._stripped(prefix, call.without))

    def end_ids(self, call: Call) -> list[int]:
        """Tokens that end a call's generation."""
        return [self.tokenizer.eos_token_id, *(self._close_ids if call.until_thinking_end else ())]

    def segment(self, call: Call, prompt: Sequence[int], ids: Sequence[int]) -> Segment:
        """What a call's new ids make, cut where it should have ended; log-probabilities are the sampler's to add."""
        ends = self.end_ids(call)
        length = min(len(ids), call.max_tokens or MOST_TOKENS)
        stop = next((place for place, token_id in enumerate(ids[:length]) if token_id in ends), None)
        kept = list(ids[: length if stop is None else stop + 1])
        finish: SegmentFinish = "length" if stop is None else "stop"
        if call.until_text and (end := self._place_of(call.until_text, kept)) is not None:
            kept, stop, finish = kept[: end + 1], end, "text_end"
        if stop is not None and call.until_thinking_end and kept[-1] in self._close_ids:
            finish = "thinking_end"
        return Segment(
            self.decode(kept[:-1] if finish == "stop" else kept),
            call.model,
            finish,
            tuple(kept),
            usage=Usage(len(prompt), len(kept), self._reasoning(kept), provenance="counted"),
            thinking_closed=self._closed([*prompt, *kept]),
        )

    def _stripped(self, ids: Sequence[int], asides: Asides) -> list[int]:
        """The ids without commands; encoded again where a command does not begin and end with a token."""
        kept = asides.kept([self.decode([token_id]) for token_id in ids])
        if kept is None:
            return self.encode(asides.removed(self.decode(ids)))
        return [ids[place] for place in kept]

    def _place_of(self, text: str, ids: Sequence[int]) -> int | None:
        """The token with which a text is complete; None where it does not occur."""
        place = bisect_left(range(len(ids)), True, key=lambda last: text in self.decode(ids[: last + 1]))
        return place if place < len(ids) else None

    def _closed(self, ids: Sequence[int]) -> bool:
        places = [
            place for place, token_id in enumerate(ids) if token_id in (*self._open_ids, *self._close_ids)
        ]
        return not places or ids[places[-1]] in self._close_ids

    def _reasoning(self, ids: Sequence[int]) -> int:
        place = next((place for place, token_id in enumerate(ids) if token_id in self._close_ids), 0)
        return max(0, place - 1)
