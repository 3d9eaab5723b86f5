"""A cascade where nothing was learned of the task: each task is left out of fitting once and judged alone.

What a question's words mean must be learned per task; what a doubtful answer looks like carries over. Both sides use the
settings and the value per right answer they would be served with, so what is compared is utility, not a frontier.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from thinkroute.evaluation import metrics
from thinkroute.evaluation.cascade import Replay
from thinkroute.evaluation.frontier import choose_many, predicted_costs
from thinkroute.evaluation.metrics import Interval
from thinkroute.routers.cascade.answers import Answers
from thinkroute.routers.cascade.fitted import CascadeSettings, fit_cascade
from thinkroute.routers.registry import fit_router
from thinkroute.routers.table import FloatArray
from thinkroute.signals import fit_encoder

VALUE_USD = 0.01
"""Worth of a right answer: the policy's default."""
_RESAMPLES = 1000


class UnseenLine(msgspec.Struct, frozen=True, kw_only=True):
    """One query router against the cascade, over all tasks left out."""

    router: str
    queries: int
    value_usd: float
    cascade_quality: float
    cascade_cost: float
    """As a share of the reference's dollars."""
    router_quality: float
    router_cost: float
    utility_gain: Interval
    """The cascade's utility less the router's, in values of a right answer."""


def judge_unseen(
    fit: Answers,
    answers: Answers,
    stages: Sequence[str],
    reference: str,
    settings: CascadeSettings,
    routers: Sequence[str],
    value_usd: float = VALUE_USD,
) -> list[UnseenLine]:
    """Leave each task group (the part of the label before its level) out of fitting, and judge on it alone."""
    learned, judged = fit.of(stages), answers.of(stages)
    fit_task_Q, task_Q = _tasks(learned), _tasks(judged)
    names = ("cascade", *routers)
    quality = {name: np.full(len(judged.table), np.nan) for name in names}
    cost = {name: np.full(len(judged.table), np.nan) for name in names}
    for task in sorted(set(task_Q)):
        out = np.flatnonzero(task_Q == task)
        known = learned.rows(np.flatnonzero(fit_task_Q != task).tolist())
        part = judged.rows(out.tolist())
        replay = Replay(fit_cascade(known, stages, settings), part)
        run = replay.at(value_usd)
        quality["cascade"][out] = run.quality_Q
        cost["cascade"][out] = run.total(part.table.measured["cost_usd"])
        encoder = fit_encoder("hashed_ngrams", known.table.texts)
        for name in routers:
            router = fit_router(name, known.table, encoder=encoder)
            predictions = router.predict_batch(part.table.queries(), stages)
            allowed = np.ones(part.table.quality_QA.shape, dtype=np.bool_)
            choice_Q = choose_many(
                predictions.quality.mean_QA, predicted_costs(predictions, "usd"), value_usd, allowed
            )
            rows = np.arange(len(out))
            quality[name][out] = part.table.quality_QA[rows, choice_Q]
            cost[name][out] = part.table.measured["cost_usd"][rows, choice_Q]
    whole = float(judged.table.measured["cost_usd"][:, list(stages).index(reference)].mean())
    _, group_Q = np.unique(np.array(judged.table.texts), return_inverse=True)
    weight_BQ = metrics.resample(group_Q.astype(np.intp), _RESAMPLES, settings.seed)

    def utility(name: str) -> FloatArray:
        return quality[name] - cost[name] / value_usd

    return [
        UnseenLine(
            router=name,
            queries=len(judged.table),
            value_usd=value_usd,
            cascade_quality=float(quality["cascade"].mean()),
            cascade_cost=float(cost["cascade"].mean()) / whole,
            router_quality=float(quality[name].mean()),
            router_cost=float(cost[name].mean()) / whole,
            utility_gain=metrics.paired_interval(utility("cascade"), utility(name), weight_BQ),
        )
        for name in routers
    ]


def _tasks(answers: Answers) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    return np.array([(task or "").rpartition("-")[0] for task in answers.table.tasks])
