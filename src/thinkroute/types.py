"""The nouns every part of thinkroute speaks. Frozen, and they import nothing of ours.

Life of the nouns: a `Query` meets several `Arm`s; a router makes one `Prediction` per arm; the policy turns
predictions into a `Decision`; running the arm's program leaves a `Ledger`; grading leaves an `Outcome`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

EffortLevel = Literal["off", "minimal", "low", "medium", "high", "xhigh", "max", "on", "default"]
Channel = Literal["reasoning", "answer"]
Provenance = Literal["reported", "counted", "estimated", "unknown"]

_LADDER: tuple[EffortLevel, ...] = ("off", "minimal", "low", "medium", "high", "xhigh", "max")
_BUDGET = re.compile(r"budget=([0-9]{1,9})")
_THRESHOLD = re.compile(r"adaptive=(0|1|0?\.[0-9]{1,6}|1\.0{1,6})")
_CASCADE = re.compile(r"cascade\((.*)\)", re.DOTALL)
_ARROW = re.compile(r"->|→")
_RELAY = re.compile(r"relay\(\s*([^()]+?)\s*(?:->|→|~>|⇢)\s*([^()]+?)\s*\)(?:@(.*))?", re.DOTALL)

FORCED = "<forced>"
"""Owner of tokens written by us, not by a model: the stop text of a thinking budget."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long a model may think: a level of the ladder, a hard budget in tokens, or a threshold on its own decision.

    `on` thinks without a limit; `default` sends no reasoning control at all and leaves the choice upstream.
    """

    level: EffortLevel = "default"
    """Reasoning level; `on` when `budget_tokens` is set."""
    budget_tokens: int | None = None
    """Hard limit of thinking tokens, None for no limit. Never set together with `off`."""
    threshold: float | None = None
    """Answer at once where the model's own probability of doing so is at least this; None leaves that aside. Stands
    alone, with level `default`."""

    @classmethod
    def parse(cls, text: str) -> Effort:
        """Read `off`, `high`, `default`, `budget=1024`, `adaptive=0.5`, … (`none` means `off`).

        Raises:
            ValueError: the text is none of these.
        """
        if match := _BUDGET.fullmatch(text):
            budget = int(match.group(1))
            return cls("on", budget) if budget > 0 else cls("off")
        if match := _THRESHOLD.fullmatch(text):
            return cls(threshold=float(match.group(1)))
        if text == "none":
            return cls("off")
        for level in (*_LADDER, "on", "default"):
            if text == level:
                return cls(level)
        raise ValueError(
            f"unknown effort {text!r}: use one of {', '.join(_LADDER)}, on, default, budget=<tokens>, or "
            "adaptive=<threshold from 0 to 1>"
        )

    @property
    def thinks(self) -> bool:
        """Whether the model is asked to think (`default` counts as thinking: we cannot rule it out)."""
        return self.level != "off"

    @property
    def rank(self) -> float:
        """Position on the ladder for "shrink the effort first": 0 is off, larger thinks longer."""
        if self.budget_tokens is not None:
            return 1 + self.budget_tokens / 1e9
        if self.threshold is not None:
            return _LADDER.index("medium") * self.threshold
        if self.level in ("on", "default"):
            return float(_LADDER.index("medium"))
        return float(_LADDER.index(self.level))

    def __str__(self) -> str:
        if self.threshold is not None:
            return f"adaptive={self.threshold:g}"
        return f"budget={self.budget_tokens}" if self.budget_tokens is not None else self.level


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of answering: a program over one or more models at one effort, e.g. `small@budget=1024`."""

    program: str
    """Name of the program in `thinkroute.programs`, e.g. `direct`."""
    models: tuple[str, ...]
    """Model names from the configuration, in the order the program uses them. Never empty."""
    effort: Effort = Effort()
    """How long the models may think."""
    stages: tuple[Arm, ...] = ()
    """What a cascade may run, in order; empty for every other program."""
    id: str = field(init=False, repr=False, compare=False)
    """Stable name, unique among arms: `model@effort`, `program(a → b)@effort` for several models,
    `relay(student -> teacher)@effort`, or `cascade(model@effort -> model@effort)`, whose stages have an effort each."""

    @classmethod
    def cascade(cls, stages: Sequence[Arm]) -> Arm:
        """The arm that may run these, one after another, until an answer is good enough.

        Its own effort is `default`: how long is thought depends on how far it goes.
        """
        models = dict.fromkeys(name for stage in stages for name in stage.models)
        return cls("cascade", tuple(models), Effort(), tuple(stages))

    def __post_init__(self) -> None:
        if self.stages:
            listed = " -> ".join(stage.id for stage in self.stages)
            object.__setattr__(self, "id", f"{self.program}({listed})")
            return
        single = self.program in ("direct", "budgeted", "adaptive")
        arrow = " -> " if self.program == "relay" else " → "
        name = self.models[0] if single else f"{self.program}({arrow.join(self.models)})"
        object.__setattr__(self, "id", f"{name}@{self.effort}")


@dataclass(frozen=True, slots=True)
class Query:
    """What routing knows of a request. Content the router does not need stays in the wire request."""

    text: str
    """The last user message as plain text (parts joined by newlines)."""
    context: str = ""
    """System and earlier turns as plain text."""
    max_tokens: int | None = None
    """The caller's cap on generated tokens, thinking included; None when absent."""
    prompt_tokens: int = 0
    """Estimated prompt length in tokens, tool schemas included."""
    prompt_tokens_most: int = 0
    """Upper bound of the prompt's tokens, for money: no tokenizer makes more tokens than there are bytes."""
    needs: frozenset[str] = frozenset()
    """Capabilities the answer needs: `tools`, `images`, `json`, `logprobs`."""
    task: str | None = None
    """Task label where a data set has one. Routers must work without it."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A prediction with honest uncertainty."""

    mean: float
    std: float = 0.0
    """Standard deviation of the *mean* (how sure we are), in the unit of `mean`. 0 for a known value."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a router expects of one arm on one query. None means unknown, never zero."""

    quality: Estimate
    """Probability of a good answer, mean in [0, 1]."""
    prompt_tokens: Estimate | None = None
    """Prompt tokens billed, over all legs."""
    reasoning_tokens: Estimate | None = None
    """Thinking tokens billed."""
    answer_tokens: Estimate | None = None
    """Answer tokens billed."""
    ttft_s: Estimate | None = None
    """Seconds to the first token the caller can see."""
    latency_s: Estimate | None = None
    """Seconds to the last token."""
    cost_usd: Estimate | None = None
    """Dollars as the outcome table measured them; the policy prefers tokens at today's price where it knows both."""
    basis: Literal["fitted", "prior"] = "fitted"
    """`prior` when the router has no outcomes of this arm and only states its declared prior."""


@dataclass(frozen=True, slots=True)
class Price:
    """What a model's tokens cost. A model without a price has no `Price` at all: unknown is not zero."""

    input_usd_per_mtok: float
    """Dollars per million prompt tokens, >= 0."""
    output_usd_per_mtok: float
    """Dollars per million generated tokens (thinking included), >= 0."""
    cached_input_usd_per_mtok: float | None = None
    """Dollars per million cached prompt tokens; None: the input price."""

    def cost_usd(self, prompt_tokens: float, completion_tokens: float, cached_tokens: float = 0) -> float:
        """Dollars of one call; `cached_tokens` is a part of `prompt_tokens`."""
        cached_price = self.cached_input_usd_per_mtok
        cached_price = self.input_usd_per_mtok if cached_price is None else cached_price
        return (
            (prompt_tokens - cached_tokens) * self.input_usd_per_mtok
            + cached_tokens * cached_price
            + completion_tokens * self.output_usd_per_mtok
        ) / 1e6


@dataclass(frozen=True, slots=True)
class ComputePrices:
    """The one dial: what an answer is worth and what compute costs now."""

    value_usd: float
    """Dollars a right answer is worth, > 0."""
    mu_spend: float = 0.0
    """Shadow price on dollars: 0 means a dollar costs a dollar, 1 means budget pressure doubles it."""
    mu_latency_usd_per_s: float = 0.0
    """Shadow price of one second of total latency, in dollars."""


@dataclass(frozen=True, slots=True)
class ArmScore:
    """One line of the explain card: what the policy believed of one arm."""

    arm_id: str
    allowed: bool
    """False when a constraint ruled the arm out before scoring."""
    reasons: tuple[str, ...]
    """Stable codes: why the arm was ruled out, or notes on its score."""
    utility_usd: float | None
    """value · quality − (1 + mu_spend) · cost − mu_latency · latency; None when not scored."""
    quality: Estimate | None
    """Predicted quality; None when the router made no prediction."""
    cost_usd: float | None
    """Predicted dollars; None when a price or token count is unknown."""
    latency_s: float | None
    reasoning_tokens: float | None
    answer_tokens: float | None
    propensity: float
    """Probability that the policy chose this arm; 0 for arms not allowed. Sums to one over a decision."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The chosen arm and everything needed to explain, replay and learn from the choice."""

    arm: Arm
    scores: tuple[ArmScore, ...]
    """One per candidate arm, allowed or not, sorted by arm id."""
    propensity: float
    """Probability with which the logged policy chose `arm`, in (0, 1]."""
    reason_codes: tuple[str, ...]
    """Why this arm: e.g. `best_utility`, `explored`, `only_arm`, `pinned`."""
    prices: ComputePrices
    policy_version: str
    router: str
    """Name and version of the router whose predictions were used."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call or of many."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Generated tokens, thinking included."""
    reasoning_tokens: int = 0
    """The part of `completion_tokens` spent on thinking."""
    cached_tokens: int = 0
    """The part of `prompt_tokens` served from a cache."""
    provenance: Provenance = "unknown"
    """Where the counts come from: `reported` by the engine, `counted` by our tokenizer, or `estimated`."""

    def __add__(self, other: Usage) -> Usage:
        """Sum of counts; the provenance is the weaker of the two."""
        order: tuple[Provenance, ...] = ("reported", "counted", "estimated", "unknown")
        weaker = order[max(order.index(self.provenance), order.index(other.provenance))]
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.cached_tokens + other.cached_tokens,
            weaker,
        )


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One leg: one call to one owner."""

    owner: str
    """Model name. Text a program wrote is no leg: its owner stands in the trajectory's segments."""
    usage: Usage
    cost_usd: float | None
    """Dollars; None when the price or the counts are unknown."""
    latency_s: float = 0.0
    ttft_s: float | None = None
    finish_reason: str | None = None
    error: str | None = None
    """Error code when the leg failed."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a request really used: its engine calls, in order, failed and cancelled ones included."""

    entries: tuple[LedgerEntry, ...] = ()

    def add(self, entry: LedgerEntry) -> Ledger:
        """A ledger with one more entry."""
        return replace(self, entries=(*self.entries, entry))

    @property
    def usage(self) -> Usage:
        """Sum over all legs (a second leg's prompt is billed again, so this is what is paid for)."""
        legs = [entry.usage for entry in self.entries]
        return sum(legs[1:], legs[0]) if legs else Usage()

    @property
    def cost_usd(self) -> float | None:
        """Dollars over all legs; None when any leg's cost is unknown."""
        total = 0.0
        for entry in self.entries:
            if entry.cost_usd is None:
                return None
            total += entry.cost_usd
        return total


@dataclass(frozen=True, slots=True)
class Outcome:
    """One measured cell of the outcome table: this arm answered this query like so."""

    query_id: str
    arm_id: str
    quality: float
    """Graded quality in [0, 1]."""
    usage: Usage | None = None
    cost_usd: float | None = None
    ttft_s: float | None = None
    latency_s: float | None = None
    finish_reason: str | None = None
    answer: str | None = None
    """Text of the answer, when kept."""


def estimate_tokens(size: int) -> int:
    """Tokens of text no tokenizer has seen, at the usual four characters or bytes a token; 0 only for nothing."""
    return (size + 3) // 4


def stage_names(arm_id: str) -> tuple[str, ...]:
    """The stages of `cascade(a@x -> b@y)` as written (`→` and any white space are fine); empty for any other text."""
    match = _CASCADE.fullmatch(arm_id.strip())
    return tuple(name.strip() for name in _ARROW.split(match.group(1))) if match else ()


def relay_names(arm_id: str) -> tuple[str, str, str] | None:
    """Student, teacher and effort of `relay(a -> b)@effort` as written (`⇢`, `~>` and any white space are fine; the
    effort may be empty); None for any other text.
    """
    match = _RELAY.fullmatch(arm_id.strip())
    return (match.group(1), match.group(2), match.group(3) or "") if match else None


def arm_by_id(arms: Sequence[Arm], arm_id: str) -> Arm | None:
    """The arm with this id, or None."""
    return next((arm for arm in arms if arm.id == arm_id), None)
