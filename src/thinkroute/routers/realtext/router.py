"""`RealTextPrior`: what to believe of arms nobody has measured, on text as users write it. A prior, and labelled one.

A text's difficulty and domain come from the shipped signals, an arm's ability from its size, price and name, what
thinking adds from the declared law of `signals.thinking`. Guarded in two ways: a text unlike all the signals know, or
not surely harder or easier than typical, is treated as typical, so every such text goes to one and the same arm; and
every prediction carries the uncertainty of an unmeasured arm and `basis="prior"`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Final

import msgspec
import numpy as np

from thinkroute.errors import DataError
from thinkroute.routers.base import Moments, Predictions
from thinkroute.routers.realtext.facts import ArmFacts
from thinkroute.routers.realtext.law import FORMAT, Ability, PriorLaw
from thinkroute.routers.table import Measure
from thinkroute.signals.semantic import SemanticSignals, shipped_signals
from thinkroute.signals.thinking import TYPICAL_DIFFICULTY, Need, expect
from thinkroute.types import Effort, Estimate, Prediction, Query

LAW_FILE: Final = "prior.json"
_TOKEN_SPREAD: Final = 0.7
"""Standard deviation of token counts as a share of their mean: the law's log-normal has this spread."""
_TYPICAL_LOGIT: Final = math.log(TYPICAL_DIFFICULTY / (1 - TYPICAL_DIFFICULTY))
_EXTREME: Final = 0.02
_MEASURES: Final[tuple[Measure, ...]] = ("quality", "prompt_tokens", "reasoning_tokens", "answer_tokens")


class RealTextPrior:
    """See the module. Never changes."""

    arms: tuple[str, ...] = ()
    """It has outcomes of none."""

    def __init__(
        self,
        facts: Mapping[str, ArmFacts],
        law: PriorLaw | None = None,
        signals: SemanticSignals | None = None,
    ) -> None:
        """`facts` by arm id; an arm that is not there is read from its id. Law and signals default to the shipped."""
        self.law = shipped_law() if law is None else law
        self._signals = shipped_signals() if signals is None else signals
        self._facts = dict(facts)
        self._ability: dict[str, tuple[Effort, Ability]] = {}
        self.version = f"prior:{hashlib.sha256(msgspec.json.encode(self.law)).hexdigest()[:8]}"

    def predict(self, query: Query, arms: Sequence[str]) -> Mapping[str, Prediction]:
        """Predict one query; see `Router`."""
        need = self._need(query.text)
        shift = _logit(need.difficulty) - _TYPICAL_LOGIT
        prompt = Estimate(float(query.prompt_tokens), query.prompt_tokens / 2)
        return {arm: self._one(arm, need, shift, prompt) for arm in arms}

    def predict_batch(self, queries: Sequence[Query], arms: Sequence[str]) -> Predictions:
        """Predict many queries; see `Router`."""
        shape = (len(queries), len(arms), len(_MEASURES))
        mean_QAM, std_QAM = np.empty(shape), np.empty(shape)
        for row, query in enumerate(queries):
            predicted = self.predict(query, arms)
            for column, arm in enumerate(arms):
                found = predicted[arm]
                cells = (found.quality, found.prompt_tokens, found.reasoning_tokens, found.answer_tokens)
                mean_QAM[row, column] = [math.nan if cell is None else cell.mean for cell in cells]
                std_QAM[row, column] = [math.nan if cell is None else cell.std for cell in cells]
        moments = {
            measure: Moments(mean_QAM[..., place], std_QAM[..., place])
            for place, measure in enumerate(_MEASURES)
        }
        return Predictions(tuple(arms), np.zeros(len(arms), dtype=np.bool_), moments)

    def _need(self, text: str) -> Need:
        """What the text needs, typical where that is not sure."""
        need = self._signals.read(text).need
        shift = self.law.guarded(_logit(need.difficulty) - _TYPICAL_LOGIT)
        return Need(_sigmoid(_TYPICAL_LOGIT + shift), need.reasoning, need.open_ended)

    def _one(self, arm: str, need: Need, shift: float, prompt: Estimate) -> Prediction:
        effort, ability = self._ability.get(arm) or self._learn(arm)
        law = self.law
        # `expect` takes difficulty at slope one; what the fitted slope leaves of it goes into the base.
        base = _sigmoid(ability.logit(law, shift) + (1.0 - law.slope) * shift)
        found = expect(need, effort, base)
        quality = found.quality
        std = quality * (1.0 - quality) * math.hypot(ability.std, law.slope * law.difficulty_std)
        return Prediction(
            quality=Estimate(quality, std),
            prompt_tokens=prompt,
            reasoning_tokens=Estimate(found.reasoning_tokens, _TOKEN_SPREAD * found.reasoning_tokens),
            answer_tokens=Estimate(found.answer_tokens, _TOKEN_SPREAD * found.answer_tokens),
            basis="prior",
        )

    def _learn(self, arm: str) -> tuple[Effort, Ability]:
        facts = self._facts.get(arm)
        if facts is None:
            name, _, effort = arm.rpartition("@")
            facts = ArmFacts(_parsed(effort), name or arm)
        known = (facts.effort, self.law.ability(facts))
        # Asked for again with every request. Only configured arms stay: names that callers make up would pile up.
        if arm in self._facts:
            self._ability[arm] = known
        return known


def read_law(raw: bytes) -> PriorLaw:
    """A law from its file.

    Raises:
        DataError: it is damaged, or of another format.
    """
    try:
        law = msgspec.json.decode(raw, type=PriorLaw)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise DataError(f"{LAW_FILE}: not a prior for real text: {error}") from error
    if law.format != FORMAT:
        raise DataError(f"{LAW_FILE}: format {law.format}, this version reads {FORMAT}: train it again")
    return law


@cache
def shipped_law() -> PriorLaw:
    """The law that comes with the package, read once per process."""
    return read_law((files("thinkroute.routers.realtext") / "shipped" / LAW_FILE).read_bytes())


def _parsed(effort: str) -> Effort:
    try:
        return Effort.parse(effort)
    except ValueError:
        return Effort()


def _logit(probability: float) -> float:
    probability = min(max(probability, _EXTREME), 1 - _EXTREME)
    return math.log(probability / (1 - probability))


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))
