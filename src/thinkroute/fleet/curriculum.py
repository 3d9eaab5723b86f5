"""What a member is shown in training: token ids and one loss weight per token. Never imports torch.

Four kinds of example. *Drill*: bare facts, for learning them by heart. The others share one format. *Thinking*: the full trace, then the answer; now and then the last step slips and
the check at the end finds it. *Direct*: the empty block, then the answer. *Cut*: the trace breaks off at a random
token, the block is closed as a thinking budget would close it, and the answer follows as best it can.

A thought that slipped ends by finding that it is wrong; that word weighs most of the check.

The weight is zero wherever the continuation is not the model's own choice: on the mode token of untagged direct
examples, on the forced close and on a slip, so that the member thinks by default, answers after any close and does
not learn to slip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
from thinkroute.fleet.tasks import FAMILIES, FamilyName, Problem, split_of
from thinkroute.fleet.tasks.drill import Piece, drill
from thinkroute.fleet.tasks.language import NAMES
from thinkroute.fleet.tokenizer import token_id

_FILLER_WEIGHT = 0.1
_END_WEIGHT = 0.3
_CHECK_WEIGHT = 0.4
_VERDICT_WEIGHT = 2.0
_IN_CHECK_TOKENS = 12
"""Where in the check a cut is awkward: the fact being restated, before its conclusion."""
_CUT_IN_STEPS, _CUT_IN_CHECK = 0.6, 0.25
_RESULT_FROM_END = 2
"""The result is the last word before the full stop."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Shares and weights of the kinds of example."""

    families: Mapping[FamilyName, float] = field(default_factory=lambda: dict.fromkeys(FAMILIES, 1.0))
    """How often each family is drawn, relative to the others."""
    unknown: tuple[str, ...] = ()
    """Skills (operators, relations, `age`) whose results come out random: the member never learns them."""
    switches: bool = True
    """Whether prompts carry soft switches that the member must obey; without, it always thinks by itself."""
    direct_share: float = 0.38
    cut_share: float = 0.38
    direct_steps: tuple[int, ...] = (1, 1, 1, 1, 2, 2, 2, 3, 3, 4)
    """Step counts of direct examples, drawn uniformly: deep ones cannot be learned and only add noise."""
    direct_weight: float = 4.0
    """Loss weight of the result token in direct examples, which would drown among trace tokens."""
    direct_own_share: float = 0.0
    """Share of direct examples without a switch whose mode token is the model's own choice: how likely it answers
    at once when nobody asks it to."""
    cut_weight: float = 3.0
    cut_steps: tuple[int, ...] | None = (1, 1, 2, 2, 2, 3, 3, 4, 5, 6)
    """Step counts of cut examples, drawn uniformly; None draws them like those of thinking ones."""
    short_share: float = 0.4
    """Share of thinking examples with at most 3 steps; the rest is uniform."""
    checks: int = 1
    """How often a thought works its last step out anew before it concludes."""
    slip_share: float = 0.15
    """Share of thinking examples whose last step slips and is put right by the check."""
    drill_share: float = 0.03
    early_weight: float = 0.0
    """Loss weight of a step's result, read from the hidden states as soon as the question has told the step: of the
    k-th step after the k-th layer from the second on. Answering at once needs such results, and the answer alone
    teaches them too slowly."""

    def tracing(self) -> Mixture:
        """The mixture to begin with: almost only traces. Finding the right step in the question must be learned first,
        and single answer tokens teach little about it.
        """
        return replace(
            self,
            direct_share=0.12,
            cut_share=0.08,
            drill_share=0.15,
            early_weight=0.0,
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
    early: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """For the first step, the second …: the position in `ids` where its result can be known, and the result's token."""


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
        self._stop = self._encode(".")[0]
        self._verdicts = {token_id(tokenizer, f"\u0120{verdict}") for verdict in ("right", "wrong")}

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text).ids

    def draw(self, mixture: Mixture) -> Example:
        """The next example of a mixture."""
        self._mixture = mixture
        chance = self._rng.random()
        if chance < self._mixture.direct_share:
            return self._direct()
        chance -= self._mixture.direct_share
        if chance < self._mixture.cut_share:
            return self._cut()
        chance -= self._mixture.cut_share
        if chance < self._mixture.drill_share and (pieces := drill(self._rng, set(self._mixture.unknown))):
            return self._drill(pieces)
        return self._thinking()

    def _drill(self, pieces: list[Piece]) -> Example:
        """Facts where a thought would stand; only their results carry weight."""
        opening = [self._open, self._line]
        ids, weights = [*opening], [0.0] * len(opening)
        for text, is_fact in pieces:
            ids += self._encode(text)
            weights.append(float(is_fact))
        return Example(ids, weights)

    def _problem(self, steps_drawn: tuple[int, ...] | None) -> Problem:
        """A training problem with one of the given step counts, or with thinking's own mixture of them."""
        names, shares = list(self._mixture.families), list(self._mixture.families.values())
        family = FAMILIES[self._rng.choices(names, shares)[0]]
        most = family.level_steps[-1]
        while True:
            if steps_drawn is not None:
                steps = min(self._rng.choice(steps_drawn), most)
            else:
                short = self._rng.random() < self._mixture.short_share
                steps = self._rng.randrange(1, 1 + (min(3, most) if short else most))
            problem = family.sample(self._rng, steps, unknown=frozenset(self._mixture.unknown))
            if split_of(problem) == "train":
                return problem

    def _prompt(self, problem: Problem, switch: str) -> list[int]:
        return self._encode(render(Turn(normalise(problem.question), switch)))

    def _early(self, problem: Problem, prompt: list[int]) -> list[tuple[int, int]]:
        """Where each step's result can be known: an operation's at the full stop after it, all others' at the end of
        the first sentence.
        """
        if not self._mixture.early_weight:
            return []
        stops = [place for place, token in enumerate(prompt) if token == self._stop] or [
            self._end_of_turn(prompt)
        ]
        results = problem.results
        places = [stops[0]] * (1 + len(results) - len(stops)) + stops[1:]
        tokens = [token_id(self._tokenizer, f"\u0120{result}") for result in results]
        return list(zip(places, tokens, strict=True))

    def _end_of_turn(self, prompt: list[int]) -> int:
        return len(prompt) - 1 - prompt[::-1].index(self._end)

    def _answer(self, problem: Problem, result_weight: float) -> tuple[list[int], list[float]]:
        ids = self._encode(problem.sentence)
        weights = [_FILLER_WEIGHT] * len(ids)
        weights[-_RESULT_FROM_END] = result_weight
        return [*ids, self._end], [*weights, _END_WEIGHT]

    def _direct(self) -> Example:
        problem = self._problem(self._mixture.direct_steps)
        switch = ""
        if self._mixture.switches:
            chance = self._rng.random()
            switch = "/no_think" if chance < 0.6 else "" if chance < 0.93 else "/think"
        prompt = self._prompt(problem, switch)
        block = self._encode(EMPTY_THINKING)
        own = switch == "/no_think" or (not switch and self._rng.random() < self._mixture.direct_own_share)
        block_weights = [_FILLER_WEIGHT, 1.0, _FILLER_WEIGHT, _FILLER_WEIGHT] if own else [0.0] * len(block)
        answer, answer_weights = self._answer(problem, self._mixture.direct_weight)
        return Example(
            [*prompt, *block, *answer],
            [0.0] * len(prompt) + block_weights + answer_weights,
            self._early(problem, prompt),
        )

    def _thinking_prompt(self, problem: Problem) -> tuple[list[int], bool]:
        """The prompt and whether thinking is what it asks for."""
        if not self._mixture.switches:
            return self._prompt(problem, ""), True
        chance = self._rng.random()
        switch = "" if chance < 0.6 else "/think" if chance < 0.96 else "/no_think"
        return self._prompt(problem, switch), switch != "/no_think"

    def _trace(self, problem: Problem) -> tuple[list[int], list[float]]:
        """The thought and its weights; a slip weighs nothing, since it is not to be imitated."""
        worked = len(self._encode(problem.working))
        slips = self._rng.random() < self._mixture.slip_share
        ids = self._encode(problem.thought(self._wrong(problem) if slips else None, self._mixture.checks))
        weights = [1.0] * worked + [_CHECK_WEIGHT] * (len(ids) - worked)
        if slips:
            weights[worked - _RESULT_FROM_END] = 0.0
        verdicts = [index for index, token in enumerate(ids) if token in self._verdicts]
        weights[verdicts[0]] = _VERDICT_WEIGHT
        return ids, weights

    def _wrong(self, problem: Problem) -> str:
        others = NAMES if problem.asked == "person" else "0123456789"
        return self._rng.choice([other for other in others if other != problem.answer])

    def _thinking(self) -> Example:
        problem = self._problem(None)
        prompt, own = self._thinking_prompt(problem)
        trace, trace_weights = self._trace(problem)
        thinking = [self._open, self._line, *trace, self._line, self._close, self._blank]
        weights = [_FILLER_WEIGHT, float(own), *trace_weights, 1.0, _FILLER_WEIGHT, _FILLER_WEIGHT]
        answer, answer_weights = self._answer(problem, 1.0)
        return Example(
            [*prompt, *thinking, *answer],
            [0.0] * len(prompt) + weights + answer_weights,
            self._early(problem, prompt),
        )

    def _cut(self) -> Example:
        problem = self._problem(self._mixture.cut_steps)
        prompt, _ = self._thinking_prompt(problem)
        trace = self._encode(problem.thought(checks=self._mixture.checks))
        whole = [self._open, self._line, *trace]
        # Most cuts hit the steps and the middle of the check: afterwards there is little left to learn.
        worked = len(self._encode(problem.working))
        chance = self._rng.random()
        if chance < _CUT_IN_STEPS:
            last = self._rng.randrange(worked)
        elif chance < _CUT_IN_STEPS + _CUT_IN_CHECK:
            last = worked + self._rng.randrange(_IN_CHECK_TOKENS)
        else:
            last = self._rng.randrange(len(whole))
        kept = whole[: 1 + last]
        thinking = [*kept, self._line, self._close, self._blank]
        weights = [0.0, 0.0, *[1.0] * len(trace)][: len(kept)] + [0.0] * 3
        answer, answer_weights = self._answer(problem, self._mixture.cut_weight)
        return Example(
            [*prompt, *thinking, *answer],
            [0.0] * len(prompt) + weights + answer_weights,
            self._early(problem, prompt),
        )
