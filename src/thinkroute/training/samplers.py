"""What rollouts generate with: the contract, and the embedded engine behind it. Never imports torch.

The embedded engine takes the learner's current weights in memory, so rollouts are always on-policy. Decoding a batch
is deterministic: equal weights, calls and seeds give bit-equal tokens and log-probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from thinkroute.engines.embedded.batch import BatchEngine
from thinkroute.programs.protocol import Call, Segment

Weights = Mapping[str, NDArray[np.float32]]


class Sampler(Protocol):
    """Answers batches of calls with exact token ids."""

    model: str
    """Name of the learner; calls to it use the weights loaded last."""

    def encode(self, text: str) -> list[int]:
        """Token ids of text that a program wrote."""
        ...

    def prompt_ids(self, call: Call) -> list[int]:
        """The ids a call's first token is predicted from, the assistant message so far included."""
        ...

    def generate(self, calls: Sequence[Call]) -> Sequence[Segment]:
        """One segment per call, in order, each with token ids; with log-probabilities where the engine knows them."""
        ...

    def load(self, weights: Weights) -> None:
        """Use these weights of the learner from now on."""
        ...


class SamplerByModel:
    """Several samplers as one: each call goes to the sampler of its model.

    Args:
        learner: Generates as the learner, encodes, and takes its weights.
        others: Samplers of frozen models, by the names that programs call them by. Their tokenizer is the learner's.
    """

    def __init__(self, learner: Sampler, others: Mapping[str, Sampler]) -> None:
        self.model = learner.model
        self._learner = learner
        self._others = others

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return self._learner.encode(text)

    def prompt_ids(self, call: Call) -> list[int]:
        """The ids a call continues, whoever answers it."""
        return self._learner.prompt_ids(call)

    def generate(self, calls: Sequence[Call]) -> list[Segment]:
        """One segment per call; the samplers work one after the other."""
        places: dict[str, list[int]] = {}
        for place, call in enumerate(calls):
            places.setdefault(call.model, []).append(place)
        segments: dict[int, Segment] = {}
        for model, chosen in places.items():
            sampler = self._others.get(model, self._learner)
            made = sampler.generate([calls[place] for place in chosen])
            segments.update(zip(chosen, made, strict=True))
        return [segments[place] for place in range(len(calls))]

    def load(self, weights: Weights) -> None:
        """Hand the learner's weights to its own sampler."""
        self._learner.load(weights)


class EmbeddedSampler:
    """Members of the fleet, on the engine that also serves them.

    Args:
        model: Name of the learner.
        directory: Where it lies.
        others: Frozen members that programs may call besides.
        seats: Rows that run at once.
    """

    def __init__(
        self, model: str, directory: Path, *, others: Mapping[str, Path] | None = None, seats: int = 128
    ) -> None:
        self.model = model
        self._engine = BatchEngine({model: directory, **(others or {})}, seats=seats)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return self._engine.encode(self.model, text)

    def prompt_ids(self, call: Call) -> list[int]:
        """The ids a call continues."""
        return self._engine.prompt_ids(call)

    def generate(self, calls: Sequence[Call]) -> list[Segment]:
        """One segment per call."""
        return self._engine.generate_batch(calls)

    def load(self, weights: Weights) -> None:
        """Take over the learner's weights."""
        self._engine.load(self.model, weights)
