"""Qwen3's thinking-mode fusion (Qwen3 Technical Report, arXiv 2505.09388, section 4.3): one model, two obedient modes.

Supervised fine-tuning of a thinking model on a mixture. *Thinking* samples are drawn from the model itself and kept only
where they are right, which preserves how it reasons. *Non-thinking* samples come from the data, behind an empty block,
so both modes share one format. Flags (`/think`, `/no_think`) in the user's turn choose; the last one wins. A share
of thinking samples carries no flag, which makes thinking the default.

The thinking budget is not trained: it is the `budgeted` program.

Deviations: mixture, learning rate and steps are not published, ours are in the configurations. The fleet reads only the
last user message and the last flag, so several flags stand in one message instead of several turns. Data that has no
written direct answers falls back to the model's own answers behind an empty block, kept where they are right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from thinkroute.programs.direct import direct
from thinkroute.programs.protocol import Call
from thinkroute.training.rollout import Attempt, Opening, roll_out
from thinkroute.training.samplers import Sampler
from thinkroute.training.tasks import Item, Task
from thinkroute.training.thinking import Openings
from thinkroute.training.trajectory import Span, Trajectory
from thinkroute.types import Effort

THINK, NO_THINK = "/think", "/no_think"
_ITEMS_PER_ROUND = 256


@dataclass(frozen=True, slots=True)
class Flags:
    """How often flags occur."""

    none_share: float = 0.3
    """Thinking samples without any flag."""
    several_share: float = 0.2
    """Samples with two or three flags, of which the last one counts."""
    front_share: float = 0.2
    """Flags that stand before the question."""


def flagged(question: str, thinks: bool, flags: Flags, rng: Random) -> str:
    """The question with flags whose last one asks for the given mode."""
    if thinks and rng.random() < flags.none_share:
        return question
    last = THINK if thinks else NO_THINK
    earlier = (
        rng.choices((THINK, NO_THINK), k=rng.randint(1, 2)) if rng.random() < flags.several_share else []
    )
    words = [*earlier, last]
    if rng.random() < flags.front_share:
        return f"{' '.join(words)} {question}"
    if earlier and rng.random() < 0.5:
        return f"{earlier[0]} {question} {' '.join(words[1:])}"
    return f"{question} {' '.join(words)}"


def messages_of(question: str) -> list[dict[str, Any]]:
    """One user turn."""
    return [{"role": "user", "content": question}]


@dataclass(frozen=True, slots=True)
class Fusion:
    """The data builder."""

    task: Task
    openings: Openings
    end_text: str
    """What ends a turn in the model's format."""
    flags: Flags = Flags()
    temperature: float = 0.6
    attempts: int = 2
    """Responses drawn per question for rejection sampling."""
    most_tokens: int | None = None
    """Cap of a sampled response; one that is cut is not right, and is left out."""
    empty_block: bool = True
    """Off only for the ablation: non-thinking samples then hold the bare answer."""

    def thinking(
        self, items: Sequence[Item], sampler: Sampler, seed: int, *, flags: bool = True
    ) -> Iterator[Trajectory]:
        """Right thoughts of the model itself, at most one per question, re-addressed to a flagged prompt."""
        yield from self._sampled(items, sampler, seed, thinks=True, flags=flags)

    def direct(
        self, items: Sequence[Item], sampler: Sampler, seed: int, *, flags: bool = True
    ) -> Iterator[Trajectory]:
        """Answers without thinking: written ones, or the model's own where the data has none."""
        written = [item for item in items if item.direct]
        rng = Random(f"{seed}/direct")  # noqa: S311 - reproducible data
        for item in written:
            block = self.openings.empty_block if self.empty_block else ""
            ids = tuple(sampler.encode(f"{block}{item.direct}{self.end_text}"))
            text = f"{block}{item.direct}"
            question = flagged(item.question, False, self.flags, rng) if flags else item.question
            yield Trajectory(self._prompt(question, sampler), (Span(ids, sampler.model),), text)
        rest = [item for item in items if not item.direct]
        yield from self._sampled(rest, sampler, seed, thinks=False, flags=flags)

    def _prompt(self, question: str, sampler: Sampler) -> tuple[int, ...]:
        return tuple(sampler.prompt_ids(Call(sampler.model, messages_of(question))))

    def _sampled(
        self, items: Sequence[Item], sampler: Sampler, seed: int, *, thinks: bool, flags: bool
    ) -> Iterator[Trajectory]:
        text = self.openings.think if thinks else self.openings.no_think
        opening = Opening(text, (None,) * len(sampler.encode(text)))
        rng = Random(f"{seed}/sampled/{thinks}")  # noqa: S311 - reproducible data
        for start in range(0, len(items), _ITEMS_PER_ROUND):
            chosen = items[start : start + _ITEMS_PER_ROUND]
            attempts = [
                Attempt(
                    item.messages,
                    direct(sampler.model, Effort("default"), self.most_tokens),
                    opening,
                    {"temperature": self.temperature, "seed": rng.getrandbits(40)},
                )
                for item in chosen
                for _ in range(self.attempts)
            ]
            responses = roll_out(attempts, sampler)
            for place, item in enumerate(chosen):
                drawn = responses[place * self.attempts : (place + 1) * self.attempts]
                right = [each for each in drawn if self.task.grade(item, each.text) == 1.0]
                if right:
                    question = flagged(item.question, thinks, self.flags, rng) if flags else item.question
                    yield _readdressed(right[0], self._prompt(question, sampler), sampler.model)


def _readdressed(trajectory: Trajectory, prompt_ids: tuple[int, ...], learner: str) -> Trajectory:
    """The same response, wholly the learner's, to another prompt."""
    spans = tuple(replace(span, owner=learner, logprobs=None) for span in trajectory.spans)
    return replace(trajectory, prompt_ids=prompt_ids, spans=spans)
