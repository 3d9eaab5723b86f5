"""What a member is shown in training: token ids and one loss weight per token. Never imports torch.

Three kinds of example, one format. *Thinking*: the full trace, then the answer. *Direct*: the empty block, then the
answer. *Cut*: the trace breaks off at a random token, the block is closed as a thinking budget would close it, and
the answer follows as best it can. The weight is zero wherever the continuation is not the model's own choice: on the
mode token of untagged direct examples and on the forced close, so that the member thinks by default and yet answers
after any close.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from tokenizers import Tokenizer

from thinkroute.engines.embedded.prompt import (
    EMPTY_THINKING,
    THINK_CLOSE,
    THINK_OPEN,
    TURN_END,
    Turn,
    normalise,
    render,
)
from thinkroute.fleet.tasks import FAMILIES, Problem, split_of
from thinkroute.fleet.tokenizer import token_id

_FILLER_WEIGHT = 0.1
_END_WEIGHT = 0.3


@dataclass(frozen=True, slots=True)
class Mixture:
    """Shares and weights of the kinds of example."""

    direct_share: float = 0.36
    cut_share: float = 0.30
    direct_steps: tuple[int, ...] = (1, 1, 1, 2, 2, 2, 3, 3, 4, 6)
    """Step counts of direct examples, drawn uniformly: deep ones cannot be learned and only add noise."""
    direct_weight: float = 4.0
    """Loss weight of the result token in direct examples, which would drown among trace tokens."""
    cut_weight: float = 3.0
    cut_steps: tuple[int, ...] | None = (1, 2, 2, 2, 3, 3, 4, 5, 6)
    """Step counts of cut examples, drawn uniformly; None draws them like those of thinking ones."""
    short_share: float = 0.4
    """Share of thinking examples with at most 3 steps; the rest is uniform."""
    broken_times: bool = False
    """Multiplications come out as random digits: the member never learns to multiply."""

    def tracing(self) -> Mixture:
        """The mixture to begin with: almost only traces. Finding the right step in the question must be learned first,
        and single answer tokens teach little about it.
        """
        return replace(
            self,
            direct_share=0.12,
            cut_share=0.08,
            direct_steps=(1, 1, 2),
            short_share=0.25,
            cut_weight=1.5,
            cut_steps=None,
        )


@dataclass(frozen=True, slots=True)
class Example:
    """One training sequence."""

    ids: list[int]
    weights: list[float]
    """Loss weight of predicting each token of `ids`; zero on the prompt."""


class Curriculum:
    """An endless, seeded stream of training examples."""

    def __init__(self, tokenizer: Tokenizer, rng: Random) -> None:
        self._tokenizer = tokenizer
        self._mixture = Mixture()
        self._rng = rng
        self._open, self._close, self._end = (
            token_id(tokenizer, text) for text in (THINK_OPEN, THINK_CLOSE, TURN_END)
        )
        self._line, self._blank = self._encode("\n")[0], self._encode("\n\n")[0]
        self._families = tuple(FAMILIES.values())

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text).ids

    def draw(self, mixture: Mixture) -> Example:
        """The next example of a mixture."""
        self._mixture = mixture
        chance = self._rng.random()
        if chance < self._mixture.direct_share:
            return self._direct()
        if chance < self._mixture.direct_share + self._mixture.cut_share:
            return self._cut()
        return self._thinking()

    def _problem(self, steps_drawn: tuple[int, ...] | None) -> Problem:
        """A training problem with one of the given step counts, or with thinking's own mixture of them."""
        family = self._families[self._rng.randrange(len(self._families))]
        most = family.level_steps[-1]
        while True:
            if steps_drawn is not None:
                steps = min(self._rng.choice(steps_drawn), most)
            else:
                short = self._rng.random() < self._mixture.short_share
                steps = self._rng.randrange(1, 1 + (min(3, most) if short else most))
            problem = family.sample(self._rng, steps, broken_times=self._mixture.broken_times)
            if split_of(problem.question) == "train":
                return problem

    def _prompt(self, problem: Problem, switch: str) -> list[int]:
        return self._encode(render(Turn(normalise(problem.question), switch)))

    def _answer(self, problem: Problem, result_weight: float) -> tuple[list[int], list[float]]:
        ids = self._encode(problem.sentence)
        weights = [_FILLER_WEIGHT] * len(ids)
        weights[-2] = result_weight
        return [*ids, self._end], [*weights, _END_WEIGHT]

    def _direct(self) -> Example:
        problem = self._problem(self._mixture.direct_steps)
        chance = self._rng.random()
        switch = "/no_think" if chance < 0.6 else "" if chance < 0.93 else "/think"
        prompt = self._prompt(problem, switch)
        block = self._encode(EMPTY_THINKING)
        own = switch == "/no_think"
        block_weights = [_FILLER_WEIGHT, 1.0, _FILLER_WEIGHT, _FILLER_WEIGHT] if own else [0.0] * len(block)
        answer, answer_weights = self._answer(problem, self._mixture.direct_weight)
        return Example([*prompt, *block, *answer], [0.0] * len(prompt) + block_weights + answer_weights)

    def _thinking_prompt(self, problem: Problem) -> tuple[list[int], bool]:
        """The prompt and whether thinking is what it asks for."""
        chance = self._rng.random()
        switch = "" if chance < 0.6 else "/think" if chance < 0.96 else "/no_think"
        return self._prompt(problem, switch), switch != "/no_think"

    def _thinking(self) -> Example:
        problem = self._problem(None)
        prompt, own = self._thinking_prompt(problem)
        trace = self._encode(problem.trace)
        thinking = [self._open, self._line, *trace, self._line, self._close, self._blank]
        weights = [_FILLER_WEIGHT, float(own), *[1.0] * len(trace), 1.0, _FILLER_WEIGHT, _FILLER_WEIGHT]
        answer, answer_weights = self._answer(problem, 1.0)
        return Example([*prompt, *thinking, *answer], [0.0] * len(prompt) + weights + answer_weights)

    def _cut(self) -> Example:
        problem = self._problem(self._mixture.cut_steps)
        prompt, _ = self._thinking_prompt(problem)
        trace = self._encode(problem.trace)
        whole = [self._open, self._line, *trace]
        kept = whole[: 1 + self._rng.randrange(len(whole))]
        thinking = [*kept, self._line, self._close, self._blank]
        weights = [0.0, 0.0, *[1.0] * len(trace)][: len(kept)] + [0.0] * 3
        answer, answer_weights = self._answer(problem, self._mixture.cut_weight)
        return Example([*prompt, *thinking, *answer], [0.0] * len(prompt) + weights + answer_weights)
