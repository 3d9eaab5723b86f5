"""From a parsed request to a decision: which arms come into question, what each may cost at most, and the choice.

Everything here is synchronous and does no I/O. The limits that protect money use the worst case (the caller's cap
and the price table), never a router's prediction.
"""

from __future__ import annotations

import difflib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from thinkroute.catalog import Model
from thinkroute.config.resolve import (
    Resolved,
    arm_for,
    automatic_arms,
    can_be_cut,
    under_cap,
    unsupported_effort,
)
from thinkroute.errors import (
    BudgetExhausted,
    InvalidRequest,
    OutOfScope,
    UnknownModel,
    UnsupportedRequest,
)
from thinkroute.gateway.relay_bounds import relay_bounds
from thinkroute.policy import Constraints, Exploration, SpendBudget, choose
from thinkroute.policy.choose import OVER_REQUEST_BUDGET, OVER_SPEND_BUDGET, PRICE_UNKNOWN
from thinkroute.programs import ANSWER_FLOOR_TOKENS
from thinkroute.programs.budgeted import thinking_allowance
from thinkroute.routers.base import Router
from thinkroute.routers.cascade import CascadeRules
from thinkroute.types import (
    Arm,
    ComputePrices,
    Decision,
    Effort,
    Prediction,
    Price,
    Query,
    relay_names,
    stage_names,
)
from thinkroute.wire.openai_chat.inbound import ChatRequest

MISSING_CAPABILITY = "missing_capability"
OVER_CONTEXT_WINDOW = "over_context_window"
OUT_OF_SCOPE = "fleet_out_of_scope"
MIN_AFFORDABLE_TOKENS = 16
"""An arm that can afford fewer generated tokens than this is not worth calling."""
_STOP_TEXT_TOKENS_MOST = 64
"""Room for the stop text of a cut thought, which the second leg is billed as prompt."""
UNBOUNDED_PROMPT = "unbounded_prompt_cost"
_UNBOUNDED_PARTS = frozenset({"audio", "video", "files"})
"""Parts whose tokens nothing in the request bounds; under a dollar budget they are refused."""
_PRICE_CHANGING_OPTIONS = ("service_tier", "web_search_options", "models", "best_of", "plugins")
"""Options by which the upstream bills more than tokens at the configured price, or answers with another model."""
CAPPED_BY_BUDGET = "capped_by_budget"
THINKING_CAPPED = "thinking_capped"
THINKING_DROPPED = "thinking_dropped"
SOFT_SWITCH = "soft_switch"
"""A switch in the messages narrowed the arms down."""
SOFT_SWITCH_CONTRADICTS = "soft_switch_contradicts"
"""A switch in the messages asks the model not to think, while a field of the request asks for thinking."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The arms a request may be answered by, before limits."""

    arms: tuple[Arm, ...]
    value_usd: float
    notes: tuple[str, ...] = ()
    """Reason codes about how the asked effort was read."""
    pinned: bool = False
    """Whether the caller named one model."""


@dataclass(frozen=True, slots=True)
class Route:
    """A decision and the limits it was made under."""

    decision: Decision
    runs_as: Arm
    """What is really run: the decided arm, with its thinking cut by a budget when a cap demands it."""
    max_tokens: int | None
    """Cap for the program: the caller's, or a smaller one that money allows."""
    reserved_usd: float
    """Worst-case dollars of this request, reserved in the spend budget; 0 without a dollar limit."""
    notes: tuple[str, ...]


class Dispatcher:
    """Chooses arms for requests. Holds the random stream of exploration and nothing else that changes."""

    def __init__(
        self, resolved: Resolved, router: Router, budget: SpendBudget, cascades: CascadeRules | None = None
    ) -> None:
        self._cascades = cascades
        self._resolved = resolved
        self._router = router
        self._budget = budget
        self._draws = random.Random(resolved.config.policy.seed)  # noqa: S311 - exploration, not secrecy
        self._prices: dict[str, Price] = {
            name: model.price for name, model in resolved.models.items() if model.price is not None
        }

    @property
    def model_prices(self) -> Mapping[str, Price]:
        """Prices of the models that have one."""
        return self._prices

    def route(self, request: ChatRequest, out_of_scope: OutOfScope | None = None) -> Route:
        """Choose an arm for a request and reserve its worst-case cost.

        Args:
            request: What the caller asked.
            out_of_scope: Set when the embedded fleet cannot read the question; rules its arms out.

        Raises:
            UnknownModel: the asked name or effort does not exist.
            OutOfScope: only the fleet could have answered, and it cannot.
            UnsupportedRequest: no arm has what the request needs.
            InvalidRequest: the prompt fits no arm's context window.
            BudgetExhausted: no arm fits the dollars left.
        """
        self._check_options(request.options)
        candidates = self.candidates(request)
        caps, ruled_out = self._limits(candidates.arms, request.query, out_of_scope)
        policy = self._resolved.config.policy
        prices = ComputePrices(candidates.value_usd, self._budget.mu_spend, policy.latency_usd_per_s)
        decision = choose(
            candidates.arms,
            self._predictions(candidates.arms, request.query, prices),
            prices,
            self._prices,
            Constraints(ruled_out),
            Exploration(policy.explore, self._draws.random() if policy.explore else 1.0),
            router=self._router.version,
        )
        if decision is None:
            raise self._refusal(candidates.arms, ruled_out, request, out_of_scope)
        cap, worst_usd = caps[decision.arm.id]
        runs_as = self._under_cap(decision.arm, cap)
        notes = (*candidates.notes, *self._cut_notes(decision.arm, runs_as, request.max_tokens, cap))
        reserved = self._budget.reserve(worst_usd) if worst_usd else 0.0
        codes = ("pinned", *decision.reason_codes) if candidates.pinned else decision.reason_codes
        return Route(replace(decision, reason_codes=codes), runs_as, cap, reserved, notes)

    def _predictions(
        self, arms: Sequence[Arm], query: Query, prices: ComputePrices
    ) -> Mapping[str, Prediction]:
        """The router's; for a cascade it has no outcomes of, what the cascade expects of itself."""
        own = [arm for arm in arms if arm.stages and arm.id not in self._router.arms]
        others = [arm.id for arm in arms if arm not in own]
        predictions = dict(self._router.predict(query, others))
        if own and self._cascades is not None:
            predictions |= {arm.id: self._cascades.bind(arm, query, prices).prediction() for arm in own}
        return predictions

    def _under_cap(self, arm: Arm, cap: int | None) -> Arm:
        if arm.stages:
            return Arm.cascade([self._under_cap(stage, cap) for stage in arm.stages])
        return under_cap(arm, self._resolved.models[arm.models[0]], cap)

    def _check_options(self, options: Mapping[str, object]) -> None:
        if not self._resolved.config.policy.budgets.in_dollars:
            return
        for name in _PRICE_CHANGING_OPTIONS:
            if options.get(name) not in (None, "auto", "default"):
                raise UnsupportedRequest(
                    f"`{name}` changes what the upstream bills, and a dollar budget is set; leave it out",
                    param=name,
                )

    def _cut_notes(self, arm: Arm, runs_as: Arm, asked: int | None, cap: int | None) -> list[str]:
        """Reason codes for everything a cap takes away: what is served less than asked is said."""
        notes: list[str] = []
        if cap is not None and (asked is None or cap < asked):
            notes.append(CAPPED_BY_BUDGET)
        floor = answer_floor_tokens(self._resolved.models[arm.models[0]])
        wanted = runs_as.effort.budget_tokens
        if runs_as.program == "budgeted" and (left := thinking_allowance(wanted, cap, floor)) != wanted:
            notes.append(THINKING_CAPPED if left else THINKING_DROPPED)
        return notes

    def candidates(self, request: ChatRequest) -> Candidates:
        """The arms behind the asked model name and effort.

        Raises:
            UnknownModel: no such name.
            UnsupportedRequest: the name exists, the effort cannot be honoured.
        """
        if relay_names(request.model) is not None:
            return self._relay(request)
        if stages := stage_names(request.model):
            return self._cascade(" -> ".join(stages))
        name, suffix = self._split(request.model)
        effort = _agree(suffix, request.effort)
        candidates = self._asked(name, effort, exact=suffix is not None)
        if effort is None:
            return self._switched(candidates, request.soft_effort)
        if _contradicts(effort, request.soft_effort):
            return _noted(candidates, SOFT_SWITCH_CONTRADICTS)
        return candidates

    def _switched(self, candidates: Candidates, soft: Effort | None) -> Candidates:
        """The arms that do what a soft switch asks, when a model among them obeys it; else all."""
        knows = any(self._resolved.models[arm.models[0]].family.soft_switches for arm in candidates.arms)
        if soft is None or not knows:
            return candidates
        arms = tuple(
            arm
            for arm in candidates.arms
            if (_is_asked_to_think(arm) if soft.thinks else not arm.effort.thinks)
        )
        return _noted(replace(candidates, arms=arms), SOFT_SWITCH) if arms else candidates

    def _asked(self, name: str, effort: Effort | None, *, exact: bool) -> Candidates:
        virtual = self._resolved.virtual_models.get(name)
        if virtual is not None:
            if effort is not None and (effort.budget_tokens is not None or effort.threshold is not None):
                arms, notes = self._on_every_model(virtual.arms, effort, name)
            else:
                arms, notes = _with_effort(virtual.arms, effort, name)
            return Candidates(arms, virtual.value_usd, notes)
        model = self._resolved.models[name]
        value_usd = self._resolved.config.policy.value_usd
        if effort is not None:
            arm = arm_for(model, effort) or self._nearest(model, effort, exact=exact)
            notes = () if arm.effort == effort else ("effort_nearest",)
            return Candidates((arm,), value_usd, notes, pinned=True)
        own = tuple(arm for arm in self._resolved.arms if arm.models == (name,))
        return Candidates(own or tuple(automatic_arms(model, ())), value_usd, pinned=True)

    def _relay(self, request: ChatRequest) -> Candidates:
        """A relay asked for by name; it must be one of the configured arms."""
        every = {arm.id: arm for arm in self._resolved.every_arm if arm.program == "relay"}
        student, teacher, effort = relay_names(request.model) or ("", "", "")
        wanted = effort or str(request.effort or Effort())
        arm = every.get(f"relay({student} -> {teacher})@{wanted}")
        if arm is None:
            raise UnknownModel(
                f"{request.model!r:.200} is not among the arms; list it under `arms:`. "
                f"There are: {', '.join(every) or 'none'}",
                param="model",
            )
        _agree(arm.effort if effort else None, request.effort)
        return Candidates((arm,), self._resolved.config.policy.value_usd, pinned=True)

    def _cascade(self, listed: str) -> Candidates:
        """A cascade asked for by name; it must be one of the configured arms."""
        every = {
            arm.id: arm for name in self._resolved.virtual_models.values() for arm in name.arms if arm.stages
        }
        arm = every.get(f"cascade({listed})")
        if arm is None:
            raise UnknownModel(
                f"the cascade ({listed:.200}) is not among the arms; list it under `arms:`. "
                f"There are: {', '.join(every) or 'none'}",
                param="model",
            )
        return Candidates((arm,), self._resolved.config.policy.value_usd, pinned=True)

    def _on_every_model(
        self, arms: tuple[Arm, ...], effort: Effort, name: str
    ) -> tuple[tuple[Arm, ...], tuple[str, ...]]:
        """The asked thinking budget or threshold on every model behind the arms that can enforce one."""
        models = dict.fromkeys(arm.models[0] for arm in arms)
        found = [arm_for(self._resolved.models[model], effort) for model in models]
        able = tuple(arm for arm in found if arm is not None)
        if not able:
            raise UnsupportedRequest(f"no model of {name!r} can be given effort {effort}", param="reasoning")
        return able, ("effort_asked",)

    def _split(self, asked: str) -> tuple[str, Effort | None]:
        known = (*self._resolved.virtual_models, *self._resolved.models)
        if asked in known:
            return asked, None
        name, at, suffix = asked.rpartition("@")
        if not at or name not in known:
            close = difflib.get_close_matches(name or asked, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known models: {', '.join(known)}"
            raise UnknownModel(f"the model {asked!r:.200} does not exist; {hint}", param="model")
        try:
            return name, Effort.parse(suffix)
        except ValueError as error:
            raise UnknownModel(f"the model {asked!r:.200} does not exist: {error}", param="model") from None

    def _nearest(self, model: Model, effort: Effort, *, exact: bool) -> Arm:
        """A thinking arm of the model for a level it does not list; never off for on, nor on for off."""
        thinking = [arm for arm in automatic_arms(model, ()) if _is_asked_to_think(arm)]
        special = effort.budget_tokens is not None or effort.threshold is not None
        if exact or not effort.thinks or special or not thinking:
            raise UnsupportedRequest(unsupported_effort(model, effort), param="reasoning_effort")
        return min(thinking, key=lambda arm: (abs(arm.effort.rank - effort.rank), arm.id))

    def _limits(
        self, arms: Sequence[Arm], query: Query, out_of_scope: OutOfScope | None
    ) -> tuple[dict[str, tuple[int | None, float]], dict[str, tuple[str, ...]]]:
        """Per arm: (token cap, worst-case dollars), and the arms ruled out with their reasons."""
        left_usd = self._budget.left_usd
        caps: dict[str, tuple[int | None, float]] = {}
        ruled_out: dict[str, tuple[str, ...]] = {}
        for arm in arms:
            models = [self._resolved.models[name] for name in arm.models]
            reasons = _misfits(models, query)
            if arm.program == "relay":
                reasons += [f"{MISSING_CAPABILITY}:{need}" for need in sorted(query.needs)]
            if out_of_scope is not None and any(model.engine == "embedded" for model in models):
                reasons.append(OUT_OF_SCOPE)
            cap = self._affordable(arm, query, left_usd)
            if isinstance(cap, str):
                reasons.append(cap)
            else:
                caps[arm.id] = cap
            if reasons:
                ruled_out[arm.id] = tuple(reasons)
        return caps, ruled_out

    def _affordable(self, arm: Arm, query: Query, left_usd: float | None) -> tuple[int | None, float] | str:
        """Token cap and worst-case dollars of an arm under the dollar limits, or why it cannot be afforded."""
        budgets = self._resolved.config.policy.budgets
        if not budgets.in_dollars:
            return query.max_tokens, 0.0
        stages = arm.stages or (arm,)
        if any(name not in self._prices for name in arm.models):
            return PRICE_UNKNOWN
        if query.needs & _UNBOUNDED_PARTS:
            return UNBOUNDED_PROMPT
        limit_usd = min(budgets.usd_per_request or math.inf, left_usd if left_usd is not None else math.inf)
        code = OVER_SPEND_BUDGET if limit_usd == left_usd else OVER_REQUEST_BUDGET
        # All stages of a cascade may run, and the cap covers them together: the dearest tokens bound it.
        bounds = [self._bounds(stage, query) for stage in stages]
        prompts_usd, per_token = sum(prompt for prompt, _ in bounds), max(token for _, token in bounds)
        room_usd = limit_usd - prompts_usd
        wanted = min(query.max_tokens or budgets.tokens_per_request, budgets.tokens_per_request)
        cap = wanted if per_token == 0 else min(wanted, math.floor(room_usd / per_token))
        if room_usd < 0 or cap < min(MIN_AFFORDABLE_TOKENS, wanted):
            return code
        return cap, prompts_usd + cap * per_token

    def _bounds(self, arm: Arm, query: Query) -> tuple[float, float]:
        """Dollars of the prompt, and of each generated token, at most."""
        if arm.program == "relay":
            return relay_bounds(arm, self._resolved, query.prompt_tokens_most)
        price = self._prices[arm.models[0]]
        # A second leg is billed the prompt and the thinking again as its prompt.
        legs = 2 if arm.effort.thinks and can_be_cut(self._resolved.models[arm.models[0]]) else 1
        prompt_tokens = query.prompt_tokens_most * legs + (legs - 1) * _STOP_TEXT_TOKENS_MOST
        if arm.program == "adaptive":  # its question is a leg of its own, and one generated token
            prompt_tokens += query.prompt_tokens_most + _STOP_TEXT_TOKENS_MOST
            return price.cost_usd(prompt_tokens, 1) * self._drafts, _per_token_usd(price, legs)
        return price.cost_usd(prompt_tokens, 0) * self._drafts, _per_token_usd(price, legs)

    @property
    def _drafts(self) -> int:
        """How often a stage of a cascade may be run, its samples included."""
        return 1 + (self._cascades.most_samples if self._cascades is not None else 0)

    def _refusal(
        self,
        arms: Sequence[Arm],
        ruled_out: Mapping[str, tuple[str, ...]],
        request: ChatRequest,
        out_of_scope: OutOfScope | None,
    ) -> Exception:
        reasons = {code for codes in ruled_out.values() for code in codes}
        if out_of_scope is not None and reasons == {OUT_OF_SCOPE}:
            return out_of_scope
        listed = "; ".join(
            f"{arm.id}: {', '.join(ruled_out.get(arm.id, ('no_prediction',)))}" for arm in arms
        )
        if reasons & {OVER_REQUEST_BUDGET, OVER_SPEND_BUDGET}:
            return BudgetExhausted(f"no arm fits the dollar budget: {listed}; raise policy.budgets or wait")
        if reasons == {PRICE_UNKNOWN}:
            return UnsupportedRequest(
                f"a dollar budget is set and no arm has a known price: {listed}; give the models a `price`"
            )
        if reasons == {OVER_CONTEXT_WINDOW}:
            return InvalidRequest(
                f"the prompt (about {request.query.prompt_tokens} tokens) fits no arm: {listed}",
                param="messages",
            )
        return UnsupportedRequest(f"no arm can answer this request: {listed}")


def answer_floor_tokens(model: Model) -> int:
    """Tokens kept for the answer when a cap is shared with thinking; small windows keep an eighth."""
    window = model.context_window
    return ANSWER_FLOOR_TOKENS if window is None else min(ANSWER_FLOOR_TOKENS, window // 8)


def _per_token_usd(price: Price, legs: int) -> float:
    """A generated token, which every later leg is billed as prompt."""
    return (price.output_usd_per_mtok + (legs - 1) * price.input_usd_per_mtok) / 1e6


def _misfits(models: Sequence[Model], query: Query) -> list[str]:
    reasons = [
        f"{MISSING_CAPABILITY}:{need}"
        for need in sorted(query.needs)
        if any(need not in model.capabilities for model in models)
    ]
    windows = [model.context_window for model in models if model.context_window is not None]
    if windows and query.prompt_tokens > min(windows):
        reasons.append(OVER_CONTEXT_WINDOW)
    return reasons


def _agree(suffix: Effort | None, hint: Effort | None) -> Effort | None:
    if suffix is not None and hint is not None and suffix != hint:
        raise InvalidRequest(
            f"the model name asks for effort {suffix} and the body for {hint}; send one of them",
            param="model",
        )
    return suffix or hint


def _contradicts(effort: Effort, soft: Effort | None) -> bool:
    """Asked to think by a field and not to by a switch. The other way round the hard switch wins in every model."""
    return soft is not None and effort.thinks and not soft.thinks


def _noted(candidates: Candidates, note: str) -> Candidates:
    return replace(candidates, notes=(*candidates.notes, note))


def _is_asked_to_think(arm: Arm) -> bool:
    """Whether the arm sends a wish to think; `default` sends nothing, so it cannot stand for a level."""
    return arm.effort.thinks and arm.effort.level != "default"


def _with_effort(
    arms: tuple[Arm, ...], effort: Effort | None, name: str
) -> tuple[tuple[Arm, ...], tuple[str, ...]]:
    """Arms that honour the caller's effort: exactly where possible, otherwise the nearest that also thinks.

    A cascade honours none: each of its stages has its own.
    """
    if effort is None:
        return arms, ()
    exact = tuple(arm for arm in arms if arm.effort == effort and not arm.stages)
    if exact:
        return exact, ("effort_asked",)
    thinking = [arm for arm in arms if _is_asked_to_think(arm)]
    if not effort.thinks or not thinking:
        raise UnsupportedRequest(
            f"no arm of {name!r} honours effort {effort}; its arms: {', '.join(arm.id for arm in arms)}",
            param="reasoning_effort",
        )
    nearest = min(abs(arm.effort.rank - effort.rank) for arm in thinking)
    return (
        tuple(arm for arm in thinking if abs(arm.effort.rank - effort.rank) == nearest),
        ("effort_asked", "effort_nearest"),
    )
