"""Following one row's tokens: raw text, channels, stop strings, counts. Pure; no threads, no numpy.

Invariants: the chunks of a channel, concatenated, are that channel of the raw text without tags and without the
line breaks next to them; text that might still turn out to be a stop string is held back. Stop strings act on the
answer only: a stop found in the reasoning would leave the caller without an answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from thinkroute.engines.embedded.sampling import Choice
from thinkroute.engines.embedded.vocabulary import Vocabulary
from thinkroute.programs.protocol import Chunk, SegmentFinish, TokenLogprob
from thinkroute.types import Channel


@dataclass(frozen=True, slots=True)
class Limits:
    """When a row ends, besides the end token."""

    max_tokens: int
    stop: tuple[str, ...] = ()
    until_thinking_end: bool = False
    until_text: str | None = None
    """A text that ends the row and stays in it."""


def held_back(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that could be the beginning of a stop string."""
    longest = max((len(stop) for stop in stops), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return length
    return 0


class Transcript:
    """The output of one row."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        limits: Limits,
        *,
        thinking: bool,
        answer_begun: bool = False,
        wants_logprobs: bool = False,
        raw: bool = False,
    ) -> None:
        """`raw` shows the text as it is, tags and all, in one channel: as raw completions do."""
        self.thinking = thinking
        """Inside a thinking block now."""
        self.finish: SegmentFinish | None = None
        """Why the row ended; None while it has not."""
        self.text: str = ""
        """Raw text so far, tags included, cut before a stop string. The end token has no text."""
        self.token_ids: list[int] = []
        """Every generated id, the end token included."""
        self.logprobs: list[TokenLogprob] = []
        self.reasoning_tokens = 0
        """Generated tokens strictly inside thinking blocks."""
        self._vocabulary = vocabulary
        self._limits = limits
        self._wants_logprobs = wants_logprobs
        self._raw = raw
        self._one_by_one = wants_logprobs or bool(limits.stop) or limits.until_text is not None
        self._decoder = vocabulary.incremental_decoder()
        self._begun = answer_begun
        self._held: str = ""
        self._held_logprobs: deque[tuple[int, TokenLogprob]] = deque()

    def take(self, token_ids: Sequence[int], choices: Sequence[Choice] = ()) -> list[Chunk]:
        """Take the next tokens; returns what became visible. Look at `finish` afterwards.

        However tokens are divided over calls, the text, the counts and the end are the same. Tokens after the one
        that ends the row are left out.

        Args:
            token_ids: At least one.
            choices: One per token where log-probabilities are wanted.
        """
        chunks: list[Chunk] = []
        token_ids = token_ids[: self._limits.max_tokens - len(self.token_ids)]
        for run in self._runs(token_ids):
            taken = len(self.token_ids)
            self.token_ids += run
            chunks += self._take_run(run, choices)
            choices = choices[len(self.token_ids) - taken :]
            if self.finish is not None:
                break
        if self.finish is None and len(self.token_ids) >= self._limits.max_tokens:
            self.finish = "length"
        if self.finish is not None:
            chunks += self._release(everything=True)
        return chunks

    def _runs(self, token_ids: Sequence[int]) -> Iterator[Sequence[int]]:
        """Tokens that can be taken together: text between special tokens, unless every token must be looked at."""
        if self._one_by_one or len(token_ids) == 1:
            yield from ([token_id] for token_id in token_ids)
            return
        begin = 0
        for place, token_id in enumerate(token_ids):
            if token_id in self._vocabulary.special_ids:
                if begin < place:
                    yield token_ids[begin:place]
                yield token_ids[place : place + 1]
                begin = place + 1
        if begin < len(token_ids):
            yield token_ids[begin:]

    def _take_run(self, run: Sequence[int], choices: Sequence[Choice]) -> list[Chunk]:
        logprob = self._record(choices[0]) if self._wants_logprobs else None
        if run[0] == self._vocabulary.end_id:
            self.finish = "stop"
            return []
        if run[0] in self._vocabulary.special_ids:
            return self._take_tag(run[0], logprob)
        return self._take_text(run, logprob)

    def _record(self, choice: Choice) -> TokenLogprob:
        text_of = self._vocabulary.text_of
        top = tuple((text_of(token_id), logprob) for token_id, logprob in choice.top)
        logprob = TokenLogprob(text_of(choice.token_id), choice.logprob, top)
        self.logprobs.append(logprob)
        return logprob

    def _take_tag(self, token_id: int, logprob: TokenLogprob | None) -> list[Chunk]:
        chunks = [] if self._raw else self._release(everything=True)
        tag = self._vocabulary.text_of(token_id)
        self.text += tag
        self.thinking = token_id == self._vocabulary.open_id
        self._begun = False
        if not self.thinking and self._limits.until_thinking_end:
            self.finish = "thinking_end"
        if self._raw:
            chunks += self._show(tag, logprob)
        return chunks

    def _take_text(self, run: Sequence[int], logprob: TokenLogprob | None) -> list[Chunk]:
        piece: str = self._decoder.decode(self._vocabulary.bytes_of_all(run))
        self.text += piece
        self.reasoning_tokens += len(run) * self.thinking
        self._end_at_text(piece)
        if not self._begun and not self._raw:
            piece = piece.lstrip("\n")
            if not piece:
                return []
            self._begun = True
        return self._show(piece, logprob)

    def _show(self, piece: str, logprob: TokenLogprob | None) -> list[Chunk]:
        self._held += piece
        if logprob is not None:
            self._held_logprobs.append((len(piece), logprob))
        if self._limits.stop and (self._raw or not self.thinking):
            self._cut_at_stop()
        return self._release(everything=False)

    def _end_at_text(self, piece: str) -> None:
        """Tokens are taken one by one here, so whatever the newest adds stays."""
        wanted = self._limits.until_text
        if wanted is not None and wanted in self.text[-len(wanted) - len(piece) + 1 :]:
            self.finish = "text_end"

    def _cut_at_stop(self) -> None:
        found = [place for stop in self._limits.stop if (place := self._held.find(stop)) >= 0]
        if found:
            surplus = len(self._held) - min(found)
            self._held = self._held[: min(found)]
            self.text = self.text[: len(self.text) - surplus]
            self.finish = "stop"

    def _release(self, *, everything: bool) -> list[Chunk]:
        """What may be shown now. Line breaks at the end of the reasoning stay hidden: they belong to the close."""
        if self.thinking and not self._raw:
            ready = self._held.rstrip("\n")
        elif self._limits.stop and not everything:
            ready = self._held[: len(self._held) - held_back(self._held, self._limits.stop)]
        else:
            ready = self._held
        channel: Channel = "reasoning" if self.thinking and not self._raw else "answer"
        rest = self._held[len(ready) :]
        logprobs = self._logprobs_of(len(ready), everything=everything)
        self._held = "" if everything else rest
        return [Chunk(channel, ready, logprobs)] if ready else []

    def _logprobs_of(self, length: int, *, everything: bool) -> tuple[TokenLogprob, ...] | None:
        """Log-probabilities of the tokens that end within the next `length` characters."""
        released: list[TokenLogprob] = []
        while self._held_logprobs and (size := self._held_logprobs[0][0]) <= length:
            length -= size
            released.append(self._held_logprobs.popleft()[1])
        if self._held_logprobs and length:
            size, logprob = self._held_logprobs[0]
            self._held_logprobs[0] = (size - length, logprob)
        if everything:
            self._held_logprobs.clear()
        return tuple(released) if self._wants_logprobs else None
