"""Qwen3's thinking-mode fusion (Qwen3 Technical Report, arXiv 2505.09388, section 4.3): one model, two obedient modes.

Supervised fine-tuning of a thinking model on a mixture. *Thinking* samples are drawn from the model itself and kept only
where they are right, which preserves how it reasons. *Non-thinking* samples come from the data, behind an empty block,
so both modes share one format. Flags (`/think`, `/no_think`) in the user's turn or a system message choose; the last one
wins. A share of thinking samples carries no flag, which makes thinking the default.

The thinking budget is not trained: it is the `budgeted` program. `cut` is an extension that trains it, for models whose
answer behind a thought cut short is worse than their answer without one: the program cuts some of the model's thoughts,
and what follows its stop text is learned, the thought is not.

Deviations: mixture, learning rate and steps are not published, ours are in the configurations. The fleet reads only the
last user message and the last flag, so several flags stand in one message instead of several turns. Data that has no
written direct answers falls back to the model's own answers behind an empty block, kept where they are right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from thinkroute.programs.budgeted import budgeted
from thinkroute.programs.direct import direct
from thinkroute.programs.effects import Program
from thinkroute.programs.protocol import Call, ThinkingFormat
from thinkroute.training.rollout import Attempt, Opening, roll_out
from thinkroute.training.samplers import Sampler
from thinkroute.training.tasks import Item, Task
from thinkroute.training.thinking import THINK_CLOSE, Openings
from thinkroute.training.trajectory import Span, Trajectory
from thinkroute.types import FORCED, Effort
from thinkroute.wire.soft_switch import NO_THINK, THINK

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
    system_share: float = 0.1
    """Flags that stand in a system message, alone."""

    def address(self, item: Item, thinks: bool, rng: Random) -> list[dict[str, Any]]:
        """The question with flags."""
        if rng.random() < self.system_share:
            return replace(item, system=THINK if thinks else NO_THINK).messages
        return replace(item, question=flagged(item.question, thinks, self, rng)).messages


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


Address = Callable[[Item, bool, Random], list[dict[str, Any]]]
"""The conversation behind which an example is learned, given whether it thinks."""


def as_asked(item: Item, thinks: bool, rng: Random) -> list[dict[str, Any]]:
    """The question as it stands."""
    return item.messages


@dataclass(frozen=True, slots=True)
class Fusion:
    """The data builder. Responses are sampled from the bare question and learned behind another conversation."""

    task: Task
    openings: Openings
    end_text: str
    """What ends a turn in the model's format."""
    address: Address = Flags().address
    temperature: float = 0.6
    attempts: int = 2
    """Responses drawn per question for rejection sampling."""
    most_tokens: int | None = None
    """Cap of a sampled response; one that is cut by it is not right, and is left out."""
    empty_block: bool = True
    """Off only for the ablation: non-thinking samples then hold the bare answer."""

    def thinking(self, items: Sequence[Item], sampler: Sampler, seed: int) -> Iterator[Trajectory]:
        """Right thoughts of the model itself, at most one per question, re-addressed."""
        yield from self._own(items, sampler, seed, thinks=True)

    def direct(self, items: Sequence[Item], sampler: Sampler, seed: int) -> Iterator[Trajectory]:
        """Answers without thinking: written ones, or the model's own where the data has none."""
        rng = Random(f"{seed}/direct")  # noqa: S311 - reproducible data
        for item in items:
            if item.direct:
                block = self.openings.empty_block if self.empty_block else ""
                ids = tuple(sampler.encode(f"{block}{item.direct}{self.end_text}"))
                span = Span(ids, sampler.model)
                yield Trajectory(self._prompt(item, False, sampler, rng), (span,), f"{block}{item.direct}")
        yield from self._own([item for item in items if not item.direct], sampler, seed, thinks=False)

    def cut(
        self,
        items: Sequence[Item],
        sampler: Sampler,
        seed: int,
        thinking: ThinkingFormat,
        budgets: tuple[int, int],
    ) -> Iterator[Trajectory]:
        """Answers behind thoughts that a budget cut: written ones, or the model's own where they are right.

        Args:
            items: The questions.
            sampler: The model.
            seed: Of budgets, samples and flags.
            thinking: What the program writes where it cuts.
            budgets: Least and most tokens of a thought.
        """
        rng = Random(f"{seed}/cut")  # noqa: S311 - reproducible data

        def program() -> Program:
            effort = Effort("on", rng.randint(*budgets))
            return budgeted(sampler.model, effort, self.most_tokens, thinking, 0)

        for item, (response,) in self._sampled(items, sampler, rng, program, None, 1):
            if [span.owner for span in response.spans] != [sampler.model, FORCED, sampler.model]:
                continue  # the thought ended before the budget did, or the cap left no room for an answer
            *before, answer = response.spans
            text = response.text
            if item.direct:
                answer = Span(tuple(sampler.encode(f"{item.direct}{self.end_text}")), sampler.model)
                text = f"{text.partition(THINK_CLOSE)[0]}{THINK_CLOSE}\n\n{item.direct}"
            elif self.task.grade(item, text) < 1.0:
                continue
            prompt_ids = self._prompt(item, True, sampler, rng)
            spans = (*(replace(span, train=False) for span in before), answer)
            yield replace(response, prompt_ids=prompt_ids, spans=spans, text=text)

    def _prompt(self, item: Item, thinks: bool, sampler: Sampler, rng: Random) -> tuple[int, ...]:
        return tuple(sampler.prompt_ids(Call(sampler.model, self.address(item, thinks, rng))))

    def _own(
        self, items: Sequence[Item], sampler: Sampler, seed: int, *, thinks: bool
    ) -> Iterator[Trajectory]:
        text = self.openings.think if thinks else self.openings.no_think
        opening = Opening(text, (None,) * len(sampler.encode(text)))
        rng = Random(f"{seed}/sampled/{thinks}")  # noqa: S311 - reproducible data

        def program() -> Program:
            return direct(sampler.model, Effort("default"), self.most_tokens)

        for item, drawn in self._sampled(items, sampler, rng, program, opening, self.attempts):
            right = [each for each in drawn if self.task.grade(item, each.text) == 1.0]
            if right:
                # Re-addressed, the whole response is the learner's.
                spans = tuple(replace(span, owner=sampler.model, logprobs=None) for span in right[0].spans)
                yield replace(right[0], prompt_ids=self._prompt(item, thinks, sampler, rng), spans=spans)

    def _sampled(
        self,
        items: Sequence[Item],
        sampler: Sampler,
        rng: Random,
        program: Callable[[], Program],
        opening: Opening | None,
        attempts: int,
    ) -> Iterator[tuple[Item, list[Trajectory]]]:
        """Every question with its responses."""
        for start in range(0, len(items), _ITEMS_PER_ROUND):
            chosen = items[start : start + _ITEMS_PER_ROUND]
            made = [
                Attempt(
                    replace(item, system="").messages,
                    program(),
                    opening,
                    {"temperature": self.temperature, "seed": rng.getrandbits(40)},
                )
                for item in chosen
                for _ in range(attempts)
            ]
            responses = roll_out(made, sampler)
            for place, item in enumerate(chosen):
                yield item, responses[place * attempts : (place + 1) * attempts]
