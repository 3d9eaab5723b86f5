"""The embedded engine: the fleet's members behind the `Engine` contract, on the CPU, without torch.

Promises:
1. Decoding is greedy unless a positive `temperature` is given: absent means 0.
2. A call continues the exact token ids of the segments it is given; only text written by programs is encoded.
3. Chunks carry no thinking tags and no line breaks next to them; `Segment.text` keeps both.
4. A parameter that cannot be honoured is refused by name, never dropped.
5. `max_tokens` beyond the context window is not an error: it is an upper bound, and the window is one too.
6. Keys and values of the longest known beginning of a prompt are reused, by exact token ids. That changes no token; the
   usage says how many prompt tokens it saved (`cached_tokens`).
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinkroute.engines.embedded.decoder import Decoder
from thinkroute.engines.embedded.jobs import Job
from thinkroute.engines.embedded.lane import Lane
from thinkroute.engines.embedded.options import read_sampling, read_stop, read_thinking
from thinkroute.engines.embedded.prefixes import PrefixStore
from thinkroute.engines.embedded.prompt import last_turn, render
from thinkroute.engines.embedded.sampling import RowSampler
from thinkroute.engines.embedded.scheduler import Scheduler
from thinkroute.engines.embedded.transcript import Limits, Transcript
from thinkroute.engines.embedded.vocabulary import Vocabulary
from thinkroute.errors import ConfigError, InvalidRequest, ThinkrouteError, UnknownModel
from thinkroute.programs.asides import Asides
from thinkroute.programs.protocol import Call, Chunk, Segment
from thinkroute.types import Usage

ScopeCheck = Callable[[Sequence[Mapping[str, Any]]], None]


@dataclass(frozen=True, slots=True)
class _Member:
    vocabulary: Vocabulary
    positions: int


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A call as token ids and row state."""

    prompt_ids: list[int]
    sampler: RowSampler
    limits: Limits
    end_ids: tuple[int, int]
    transcript: Transcript
    watches_text: bool
    """Whether only the transcript can tell where it ends: then the worker delivers every token."""


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


class EmbeddedEngine:
    """Serves the members found in the given directories.

    Args:
        members: Model name → directory with weights, tokenizer and graph.
        check_scope: Called with a request's messages; raises when the members cannot make sense of them.
        seats: Rows that run at once, per member.
        queue_limit: Requests that may wait for a seat, of all members together, before more that would wait are refused.
        threads: Workers that share the rows, one thread each; None takes two where the machine has two cores.
            More workers than seats are not made.
        prefix_bytes: Memory, per member, for the keys and values of ended requests, from which later ones that begin
            with the same tokens go on; 0 computes every prompt in full.
    """

    def __init__(
        self,
        members: Mapping[str, Path],
        *,
        check_scope: ScopeCheck | None = None,
        seats: int = 64,
        queue_limit: int = 256,
        threads: int | None = None,
        prefix_bytes: int = 16 * 2**20,
    ) -> None:
        self._threads = min(2, _usable_cores()) if threads is None else threads
        if min(seats, self._threads) < 1:
            raise ValueError(f"seats and threads must be at least 1, got {seats} and {self._threads}")
        self._directories = dict(members)
        self._check_scope = check_scope
        self._seats = seats
        self._queue_limit = queue_limit
        self._prefix_bytes = prefix_bytes
        self._members: dict[str, _Member] = {}
        self._scheduler: Scheduler | None = None
        self._starting = threading.Lock()

    async def start(self) -> None:
        """Load the members (a fraction of a second) and start the workers. Calling it again changes nothing.

        Raises:
            ConfigError: a folder holds no member.
        """
        await asyncio.to_thread(self._load)

    def _load(self) -> Scheduler:
        with self._starting:
            if self._scheduler is None:
                workers = min(self._threads, self._seats)
                lanes: list[dict[str, Lane]] = [{} for _ in range(workers)]
                for name, directory in self._directories.items():
                    if not (directory / "config.json").is_file():
                        raise ConfigError(
                            f"member {name!r}: {directory} holds no member of the fleet (config.json is missing)"
                        )
                    prefixes = PrefixStore(self._prefix_bytes) if self._prefix_bytes else None
                    decoder: Decoder | None = None
                    for worker, own in enumerate(lanes):
                        seats = (self._seats + worker) // workers
                        decoder = Decoder(directory, seats=seats, twin=decoder)
                        own[name] = Lane(decoder, prefixes)
                    assert decoder is not None  # noqa: S101 - there is at least one worker
                    self._add_member(name, directory, decoder.positions)
                self._scheduler = Scheduler(lanes, queue_limit=self._queue_limit)
            return self._scheduler

    def _add_member(self, name: str, directory: Path, positions: int) -> None:
        self._members[name] = _Member(Vocabulary(directory / "tokenizer.json"), positions)

    async def aclose(self) -> None:
        """Stop the workers; generations under way end with `EngineInterrupted`."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._starting:  # a start under way ends first, so that its workers are stopped too
            scheduler, self._scheduler = self._scheduler, None
        if scheduler is not None:
            scheduler.close()

    @property
    def running(self) -> int:
        """Generations that hold a seat now."""
        return self._scheduler.running if self._scheduler else 0

    def prefilled_tokens(self, member: str) -> int:
        """Prompt tokens of one member that were computed since the start: those that were reused do not count."""
        return self._scheduler.prefilled_tokens(member) if self._scheduler else 0

    async def generate(self, call: Call, *, raw: bool = False) -> AsyncGenerator[Chunk | Segment, None]:
        """Continue `call.messages` + `call.prefix`: chunks as they come (without `stream`, all at the end), then the segment.

        Args:
            call: What to continue.
            raw: Leave tags and line breaks in the chunks, which are then all of the answer.

        Raises:
            UnknownModel: no member of that name.
            OutOfScope: the scope check refused the messages.
            InvalidRequest: a value is out of range, or the prompt fills the context window.
            UnsupportedRequest: a parameter that the engine cannot honour.
            Overloaded: too many requests wait.
            EngineInterrupted: the engine was closed meanwhile.
        """
        scheduler = self._scheduler or await asyncio.to_thread(self._load)
        prepared = self._prepare(call, raw=raw)
        transcript = prepared.transcript
        job = Job(
            call.model,
            prepared.prompt_ids,
            prepared.sampler,
            prepared.limits.max_tokens,
            prepared.end_ids,
            # Stop strings are found here, not by the worker: it must not run on until it would stop by itself.
            eager=call.stream or prepared.watches_text,
        )
        scheduler.submit(job)
        chunks: list[Chunk] = []
        try:
            while transcript.finish is None:
                delivery = await job.arrived.get()
                if isinstance(delivery, ThinkrouteError):
                    raise delivery
                chunks += transcript.take(delivery.token_ids, delivery.choices)
                if transcript.finish is not None and not delivery.ended:
                    scheduler.cancel(job)
                if call.stream or transcript.finish is not None:
                    for chunk in chunks:
                        yield chunk
                    chunks.clear()
            yield segment_of(call.model, job, transcript)
        finally:
            if transcript.finish is None:
                scheduler.cancel(job)

    def _prepare(self, call: Call, *, raw: bool = False) -> _Prepared:
        member = self._members.get(call.model)
        if member is None:
            known = ", ".join(self._members)
            raise UnknownModel(
                f"the embedded fleet has no member {call.model!r}; it has {known}", param="model"
            )
        if self._check_scope:
            self._check_scope(call.messages)
        sampling = read_sampling(call.options)
        prompt_ids, prefix_ids = self._prompt_ids(call, member.vocabulary)
        room = member.positions - len(prompt_ids)
        if room < 1:
            raise _context_overflow(len(prompt_ids), member.positions)
        if call.max_tokens is not None and call.max_tokens < 1:
            raise InvalidRequest(f"max_tokens must be at least 1, got {call.max_tokens}", param="max_tokens")
        limits = Limits(
            min(room, call.max_tokens or room),
            read_stop(call.options),
            call.until_thinking_end,
            call.until_text,
        )
        thinking, answer_begun = _state_after(prefix_ids, member.vocabulary)
        transcript = Transcript(
            member.vocabulary,
            limits,
            thinking=thinking,
            answer_begun=answer_begun,
            wants_logprobs=sampling.logprobs,
            raw=raw,
        )
        ends, watches_text = _ends(call, limits, member.vocabulary)
        sampler = RowSampler(sampling, _generated(call.prefix))
        return _Prepared(prompt_ids, sampler, limits, ends, transcript, watches_text)

    def _prompt_ids(self, call: Call, vocabulary: Vocabulary) -> tuple[list[int], list[int]]:
        """Ids of the whole prompt, and the part of them that is the assistant message so far."""
        prefix_ids: list[int] = []
        for segment in call.prefix:
            if segment.token_ids is not None and segment.owner in self._members:
                ended = segment.token_ids[-1:] == (vocabulary.end_id,)
                prefix_ids += segment.token_ids[: len(segment.token_ids) - ended]
            else:
                prefix_ids += vocabulary.encode(segment.text)
        if call.without is not None:
            prefix_ids = _without(prefix_ids, call.without, vocabulary)
        opens_itself = prefix_ids[:1] == [vocabulary.open_id]
        prompt = render(last_turn(call.messages), thinking=read_thinking(call) or opens_itself)
        return vocabulary.encode(prompt) + prefix_ids, prefix_ids


def _ends(call: Call, limits: Limits, vocabulary: Vocabulary) -> tuple[tuple[int, int], bool]:
    """The tokens at which the worker ends a row, and whether more than these may end it."""
    if call.until_thinking_end:
        other, watches_text = vocabulary.close_id, call.until_text is not None
    else:
        token_id = vocabulary.single_id(call.until_text) if call.until_text else -1
        other, watches_text = (-1, True) if token_id is None else (token_id, False)
    return (vocabulary.end_id, other), watches_text or bool(limits.stop)


def _generated(prefix: Sequence[Segment]) -> int:
    """Tokens of the message that were chosen by earlier calls: with a seed, each drew a random number."""
    return sum(len(segment.token_ids or ()) for segment in prefix)


def _without(token_ids: list[int], asides: Asides, vocabulary: Vocabulary) -> list[int]:
    """The ids without commands; encoded again only where a command does not begin and end with a token."""
    pieces = [vocabulary.text_of(token_id) for token_id in token_ids]
    kept = asides.kept(pieces)
    if kept is None:
        return vocabulary.encode(asides.removed("".join(pieces)))
    return [token_ids[index] for index in kept]


def _state_after(prefix_ids: list[int], vocabulary: Vocabulary) -> tuple[bool, bool]:
    """Whether the message so far ends inside a thinking block, and whether visible text has begun since the last tag."""
    for index in range(len(prefix_ids) - 1, -1, -1):
        if prefix_ids[index] in (vocabulary.open_id, vocabulary.close_id):
            begun = bool(vocabulary.decode(prefix_ids[index + 1 :]).strip("\n"))
            return prefix_ids[index] == vocabulary.open_id, begun
    return False, bool(prefix_ids)


def _context_overflow(prompt_tokens: int, positions: int) -> InvalidRequest:
    error = InvalidRequest(
        f"this model's context window is {positions} tokens, but the messages take {prompt_tokens} "
        "and leave no room for an answer",
        param="messages",
    )
    error.code = "context_length_exceeded"
    return error


def segment_of(model: str, job: Job, transcript: Transcript) -> Segment:
    """What a finished generation amounts to."""
    assert transcript.finish is not None  # noqa: S101 - only then there is one
    usage = Usage(
        prompt_tokens=len(job.prompt_ids),
        completion_tokens=len(transcript.token_ids),
        reasoning_tokens=transcript.reasoning_tokens,
        cached_tokens=job.reused_tokens,
        provenance="counted",
    )
    return Segment(
        text=transcript.text,
        owner=model,
        finish=transcript.finish,
        token_ids=tuple(transcript.token_ids),
        logprobs=tuple(transcript.logprobs) if job.sampler.sampling.logprobs else None,
        usage=usage,
        thinking_closed=not transcript.thinking,
        ttft_s=None if job.first_token_s is None else job.first_token_s - job.submitted_s,
        latency_s=time.perf_counter() - job.submitted_s,
    )
