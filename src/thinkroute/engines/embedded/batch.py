"""The embedded engine for whole batches: the same members, prompts, sampling and segments, without threads or loops.

Owns nothing but the order of work, which makes it deterministic: which rows share a step depends on the calls alone, so
equal calls give bit-equal log-probabilities. Weights can be replaced between batches, which is what training needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thinkroute.engines.embedded.decoder import Decoder
from thinkroute.engines.embedded.engine import EmbeddedEngine, segment_of
from thinkroute.engines.embedded.jobs import Job
from thinkroute.engines.embedded.lane import Lane
from thinkroute.engines.embedded.prefixes import PrefixStore
from thinkroute.engines.embedded.transcript import Transcript
from thinkroute.errors import ThinkrouteError, UnknownModel
from thinkroute.programs.protocol import Call, Segment

_PREFIX_BYTES = 16 * 2**20


class BatchEngine(EmbeddedEngine):
    """Answers batches of calls. Not thread-safe.

    Args:
        members: Model name → directory with weights, tokenizer and graph.
        seats: Rows that run at once, per member.
    """

    def __init__(self, members: Mapping[str, Path], *, seats: int = 64) -> None:
        super().__init__(members, seats=seats)
        self._nobody = asyncio.new_event_loop()  # a job names the loop that waits for it; here nobody waits
        self._nobody.close()
        self._decoders = {name: Decoder(directory, seats=seats) for name, directory in members.items()}
        self._lanes: dict[str, Lane] = {}
        for name, directory in members.items():
            self._add_member(name, directory, self._decoders[name].positions)
            self._lanes[name] = self._fresh_lane(name)

    def load(self, member: str, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Let a member compute with these weights from the next batch on.

        Raises:
            UnknownModel: no such member.
        """
        if member not in self._decoders:
            raise UnknownModel(f"the embedded fleet has no member {member!r}", param="model")
        self._decoders[member].load(weights)
        self._lanes[member] = self._fresh_lane(member)

    def _fresh_lane(self, member: str) -> Lane:
        return Lane(self._decoders[member], PrefixStore(_PREFIX_BYTES))

    def encode(self, member: str, text: str) -> list[int]:
        """Token ids of text that a program wrote."""
        return self._members[member].vocabulary.encode(text)

    def prompt_ids(self, call: Call) -> list[int]:
        """The exact ids that a call's first token is predicted from, the assistant message so far included."""
        return self._prompt_ids(call, self._members[call.model].vocabulary)[0]

    def generate_batch(self, calls: Sequence[Call]) -> list[Segment]:
        """One segment per call, in order.

        Raises:
            RequestError: a call cannot be honoured; none of the batch is answered.
        """
        jobs: dict[Job, tuple[int, Transcript]] = {}
        for index, prepared in enumerate([self._prepare(call) for call in calls]):
            job = Job(
                calls[index].model,
                prepared.prompt_ids,
                prepared.sampler,
                prepared.limits.max_tokens,
                prepared.end_ids,
                eager=bool(prepared.limits.stop),
                loop=self._nobody,
            )
            jobs[job] = (index, prepared.transcript)
            self._lanes[job.model].waiting.append(job)
        segments: dict[int, Segment] = {}
        for lane in self._lanes.values():
            while lane.busy:
                self._step(lane, jobs, segments)
        return [segments[index] for index in range(len(calls))]

    @staticmethod
    def _step(lane: Lane, jobs: Mapping[Job, tuple[int, Transcript]], segments: dict[int, Segment]) -> None:
        for job, delivery in lane.step():
            if isinstance(delivery, ThinkrouteError):
                raise delivery
            index, transcript = jobs[job]
            if transcript.finish is not None:
                continue
            transcript.take(delivery.token_ids, delivery.choices)
            if transcript.finish is not None:
                job.cancelled = not delivery.ended
                segments[index] = segment_of(job.model, job, transcript)
