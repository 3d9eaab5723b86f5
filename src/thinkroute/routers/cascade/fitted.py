"""A fitted cascade: a query router for what is known before the first answer, verifier heads for what is known after
each, and the finite process planning is done over.

Owns fitting and the mapping from what is known to a situation. The plan itself is `planner`, serving is `rule`, files
are `saving`. Everything learned is calibrated on rows it was not learned from: the query router and every head are fitted
per fold, and probabilities, cells and moves come from those held-out predictions.

What is known (`facts`) before any answer: the query router's belief in every stage. After stage k: the same, and the
features of its answer. Earlier answers are not looked at again: their features rarely add to those of a better arm.
Shape letters: R rows, S stages, F facts, D numbers of a situation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from thinkroute.errors import ConfigError, DataError
from thinkroute.routers.base import Predictions, TableRouter
from thinkroute.routers.cascade.answers import COST_PARTS, Answers
from thinkroute.routers.cascade.forest import Forest, IntArray, fit_forest
from thinkroute.routers.cascade.planner import NOBODY, Plan, Situation, solve
from thinkroute.routers.cascade.verifier import FOLDS, Head, fit_head
from thinkroute.routers.registry import fit_router, router_kind
from thinkroute.routers.table import FloatArray, Measure
from thinkroute.signals import fit_encoder
from thinkroute.signals.base import Scalar
from thinkroute.types import Query

MOST_STAGES: Final = 8
LEAST_QUERIES: Final = 60
_EDGE: Final = 1e-3


@dataclass(frozen=True)
class CascadeSettings:
    """How a cascade is fitted."""

    router: str = "ridge"
    """The query router, by its name in `ROUTERS`."""
    parameters: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])
    encoder: str = "hashed_ngrams"
    encoder_parameters: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])
    trees: int = 16
    """Trees per forest."""
    leaf_rows: int = 12
    """Training rows a leaf is made of at least."""
    ridge: float = 3.0
    """Penalty of the heads."""
    samples: Mapping[str, int] = field(default_factory=dict[str, int])
    """By stage: samples that the table's `agreement` was made of; their cost must be in the table's."""
    temperature: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Read:
    """What the query router says of queries."""

    fact_RF: FloatArray
    cost_RSM: FloatArray


@dataclass(frozen=True)
class FittedCascade:
    """Everything a cascade needs to decide."""

    stages: tuple[str, ...]
    """Arm ids, in the order they may run."""
    router: TableRouter
    """What reads the query."""
    heads: Mapping[tuple[int, int], Head]
    """By owner and stage: the probability that the stage's answer is or would be right."""
    forests: tuple[Forest, ...]
    """By owner."""
    scenarios: tuple[Situation, ...]
    """By owner: what was believed of the training queries before they were learned from."""
    tokens_S: FloatArray
    """Mean generated tokens of each stage."""
    samples_S: tuple[int, ...]
    """Further samples drawn of each stage's answer, to see whether they agree."""
    temperature: float
    """At which they are drawn."""
    data_hash: str
    rows: int
    parameters: Mapping[str, Scalar]

    @property
    def version(self) -> str:
        """`cascade:` and the first digits of the training data's hash."""
        return f"cascade:{self.data_hash[:8]}"

    def read(self, queries: Sequence[Query]) -> Read:
        """What is known of queries before any answer."""
        predictions = self.router.predict_batch(queries, self.stages)
        return Read(query_facts(predictions, self.stages), expected_costs(predictions, self.stages))

    def situation(self, owner: int, read: Read, feature_RF: FloatArray | None = None) -> Situation:
        """Beliefs and cells.

        Args:
            owner: `NOBODY`, or stage + 1.
            read: What was known before.
            feature_RF: Features of the owner's answers; None before any.
        """
        query_RF = read.fact_RF
        facts_RF = query_RF if feature_RF is None else np.concatenate([query_RF, feature_RF], axis=1)
        belief_RS = np.full((len(facts_RF), len(self.stages)), np.nan)
        for stage in range(max(owner - 1, 0), len(self.stages)):
            belief_RS[:, stage] = self.heads[owner, stage].probability(facts_RF)
        leaf_RT = self.forests[owner].leaves_of(belief_RS[:, max(owner - 1, 0) :])
        return Situation(owner, belief_RS, read.cost_RSM, leaf_RT)

    def plan(self, value_usd: float, price_M: FloatArray, allowed: Sequence[int] | None = None) -> Plan:
        """The best plan at these prices."""
        stages = range(len(self.stages)) if allowed is None else allowed
        return solve(self.scenarios, self.forests, value_usd, price_M, stages)


def query_facts(predictions: Predictions, stages: Sequence[str]) -> FloatArray:
    """Beliefs of a query router as facts: the logit of every stage's quality, and the log of its tokens."""
    columns = [predictions.arms.index(stage) for stage in stages]
    quality_RS = np.clip(predictions.quality.mean_QA[:, columns], _EDGE, 1.0 - _EDGE)
    facts = [np.log(quality_RS / (1.0 - quality_RS))]
    counts: tuple[Measure, ...] = ("reasoning_tokens", "answer_tokens")
    facts += [
        np.log1p(predictions.moments[m].mean_QA[:, columns]) for m in counts if m in predictions.moments
    ]
    return np.concatenate(facts, axis=1)


def expected_costs(predictions: Predictions, stages: Sequence[str]) -> FloatArray:
    """Expected cost of every stage, shape (R, S, M); a part nothing is known of is 0."""
    columns = [predictions.arms.index(stage) for stage in stages]
    moments = predictions.moments
    empty = np.zeros((len(predictions.quality.mean_QA), len(stages)))
    parts = [moments[m].mean_QA[:, columns] if m in moments else empty for m in COST_PARTS]
    return np.nan_to_num(np.stack(parts, axis=2))


def fit_cascade(
    answers: Answers, stages: Sequence[str], settings: CascadeSettings | None = None
) -> FittedCascade:
    """Fit a cascade over these arms, in the order given, on a table with answer features.

    Raises:
        ConfigError: fewer than two stages, too many, or one twice.
        DataError: a stage is not in the table, or too few queries were answered by all stages.
    """
    settings = settings or CascadeSettings()
    if not 2 <= len(stages) <= MOST_STAGES or len(set(stages)) != len(stages):
        raise ConfigError(
            f"a cascade has 2 to {MOST_STAGES} different stages, not {', '.join(stages) or 'none'}"
        )
    answers = answers.of(stages).sampling(settings.samples)
    table = answers.table
    whole = np.flatnonzero(
        ~np.isnan(table.quality_QA).any(axis=1) & ~np.isnan(table.measured["cost_usd"]).any(axis=1)
    )
    if len(whole) < LEAST_QUERIES:
        raise DataError(
            f"{len(whole)} queries were answered by all stages; fitting a cascade needs {LEAST_QUERIES}"
        )
    answers = answers.rows(whole.tolist())
    fold_R = np.random.default_rng(settings.seed).permutation(len(whole)) % FOLDS
    router, read = _query_router(answers, fold_R, settings)
    heads: dict[tuple[int, int], Head] = {}
    forests: list[Forest] = []
    scenarios: list[Situation] = []
    for owner in range(len(stages) + 1):
        first = max(owner - 1, 0)
        facts_RF = read.fact_RF
        if owner != NOBODY:
            facts_RF = np.concatenate([facts_RF, answers.feature_QAF[:, owner - 1]], axis=1)
        belief_RS = np.full((len(whole), len(stages)), np.nan)
        for stage in range(first, len(stages)):
            label_R = answers.table.quality_QA[:, stage]
            heads[owner, stage], belief_RS[:, stage] = fit_head(facts_RF, label_R, fold_R, settings.ridge)
        forests.append(fit_forest(belief_RS[:, first:], settings.trees, settings.leaf_rows, settings.seed))
        leaf_RT = forests[-1].leaves_of(belief_RS[:, first:])
        scenarios.append(Situation(owner, belief_RS, read.cost_RSM, leaf_RT))
    return FittedCascade(
        stages=tuple(stages),
        router=router,
        heads=heads,
        forests=tuple(forests),
        scenarios=tuple(scenarios),
        tokens_S=_generated_tokens(answers),
        samples_S=tuple(settings.samples.get(stage, 0) for stage in stages),
        temperature=settings.temperature,
        data_hash=answers.table.digest(),
        rows=len(whole),
        parameters={
            "router": settings.router,
            "trees": settings.trees,
            "leaf_rows": settings.leaf_rows,
            "ridge": settings.ridge,
            "seed": settings.seed,
        },
    )


def _query_router(answers: Answers, fold_R: IntArray, settings: CascadeSettings) -> tuple[TableRouter, Read]:
    """The query router fitted on all rows, and what it says of rows it was not fitted on."""
    table = answers.table
    reads = router_kind(settings.router).reads_text
    encoder = fit_encoder(settings.encoder, table.texts, settings.encoder_parameters) if reads else None
    facts: list[FloatArray] = []
    costs: list[FloatArray] = []
    order = np.argsort(fold_R, kind="stable")
    for fold in range(FOLDS):
        rest, held = table.take(fold_R != fold), table.take(order[fold_R[order] == fold])
        part = fit_router(settings.router, rest, parameters=settings.parameters, encoder=encoder)
        predictions = part.predict_batch(held.queries(), table.arms)
        facts.append(query_facts(predictions, table.arms))
        costs.append(expected_costs(predictions, table.arms))
    back = np.argsort(order)
    read = Read(np.concatenate(facts)[back], np.concatenate(costs)[back])
    return fit_router(settings.router, table, parameters=settings.parameters, encoder=encoder), read


def _generated_tokens(answers: Answers) -> FloatArray:
    measured = answers.table.measured
    parts = [measured[name] for name in ("reasoning_tokens", "answer_tokens") if name in measured]
    return np.nanmean(np.sum(parts, axis=0), axis=0) if parts else np.zeros(len(answers.table.arms))
