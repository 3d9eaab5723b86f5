"""Evaluate routers on an outcome table: fit on one part, slide the value dial on the other, beside the baselines.

Owns the protocol. The table is split into folds (`splits`), every router is fitted on each training part and
replayed on the tested part at every value of the dial (`frontier`). The tested rows of all folds are pooled, so every
metric is one number over all of them (`judge`); intervals resample queries, not rows, because a query may be tested in
several folds. Baselines are chosen on the training part, except those labelled hindsight: best single arm (train), best
single arm (hindsight), task lookup (train; where tasks exist), prompt length (train), the hull of single arms
(RouterBench's "zero router", hindsight), a random mix at the router's own arm shares, and the oracle.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from thinkroute.errors import DataError, ThinkrouteError
from thinkroute.evaluation import leakage
from thinkroute.evaluation.bench import Bench, bench_of, pooled, replay_into
from thinkroute.evaluation.frontier import costs_of, dial
from thinkroute.evaluation.judge import Judge, Replays
from thinkroute.evaluation.prompt_length import fit_prompt_length
from thinkroute.evaluation.remember import RememberingEncoder
from thinkroute.evaluation.scores import Leaderboard, NotJudged
from thinkroute.evaluation.splits import Fold, SplitKind, folds
from thinkroute.routers.registry import DEFAULT_ENCODER, fit_router, router_kind
from thinkroute.routers.table import OutcomeTable
from thinkroute.signals import fit_encoder
from thinkroute.signals.base import Encoder, Scalar

SLOW_ROUTERS: Final[frozenset[str]] = frozenset({"encoder_regressor"})
"""Routers whose fit takes minutes: left out of comparisons of all routers unless asked for."""
_logger: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class Protocol:
    """What is compared, and how."""

    routers: tuple[str, ...]
    split: SplitKind = "iid"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    test_share: float = 0.3
    resamples: int = 1000
    parameters: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])
    """Settings for every router compared; give some only when comparing one router."""
    encoder: str = DEFAULT_ENCODER
    encoder_parameters: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])
    near_duplicates: Literal["report", "drop"] = "report"
    """What happens to learned questions that resemble tested ones: counted, or left out of training."""
    shots: int = 0
    """Split `arm`: outcomes of the new arm that the fit may see."""
    arms: tuple[str, ...] = ()
    """Arms that take part; none named means all."""
    unseen: tuple[str, ...] = ()
    """Split `task`: the tasks that are tested and not learned from; none named means a random part."""
    keep_going: bool = False
    """Whether a router that fails becomes a row with its reason. False: its error is raised."""
    fit_limit_s: float | None = None
    """A router whose first fit took longer takes no further part, where more folds follow; None: no limit."""


def evaluate(
    table: OutcomeTable, protocol: Protocol, *, name: str, progress: Callable[[str], None] | None = None
) -> Leaderboard:
    """Fit and judge routers on one table.

    Args:
        table: Outcomes. Queries without a measured cell, and arms without one, are left out.
        protocol: Routers, split and seeds.
        name: Name of the table in the report.
        progress: Called with a line before each fit.

    Raises:
        DataError: the table cannot be split as asked, has fewer than two arms, or is a decision log.
        ThinkrouteError: a router cannot be fitted, unless the protocol keeps going.
    """
    started, cpu_started = time.perf_counter(), time.process_time()
    table = _usable(table, protocol.arms)
    costs = costs_of(table)
    cost_QA = np.zeros_like(table.quality_QA) if costs is None else costs.cost_QA
    pairs = leakage.alike(table.texts)
    parts = _folds(table, protocol)
    if protocol.near_duplicates == "drop":
        parts = [leakage.without_leaks(fold, pairs, len(table)) for fold in parts]
    found = leakage.audit(table, parts, pairs, dropped=protocol.near_duplicates == "drop")
    cost_known_QA = None if costs is None else costs.cost_QA
    values_V = dial(cost_QA)
    benches = [bench_of(table, fold, cost_known_QA, values_V, protocol.shots) for fold in parts]
    run = _Run(protocol, lambda line: progress(f"{name}: {line}") if progress else None)
    for place, bench in enumerate(benches):
        run.fold(bench, more=place + 1 < len(benches))
    judge = Judge(
        pooled(table, cost_QA, benches, leakage.leaked_rows(parts, pairs, len(table))),
        protocol.resamples,
        has_costs=costs is not None,
        in_dollars=costs is not None and costs.unit == "usd",
    )
    length = run.length
    return Leaderboard(
        table=name,
        data_hash=table.digest(),
        notes=dict(table.notes),
        queries=len(table),
        tested_rows=sum(len(fold.test) for fold in parts),
        missing_share=judge.missing_share,
        split=protocol.split,
        seeds=protocol.seeds,
        folds=[fold.name for fold in parts],
        encoder=protocol.encoder,
        cost_unit=None if costs is None else costs.unit,
        cost_low=judge.low,
        cost_high=judge.high,
        leakage=found,
        arms=judge.arm_rows(),
        baselines=judge.baselines(),
        baseline_routers=[judge.score("prompt_length", length, None)],
        routers=[judge.score(router, replays, length) for router, replays in run.replays.items()],
        not_judged=run.not_judged,
        took_s=time.perf_counter() - started,
        cpu_s=time.process_time() - cpu_started,
    )


def fits_planned(table: OutcomeTable, protocol: Protocol) -> int:
    """How many fits an evaluation will make; `progress` is called that often, less for routers that drop out."""
    return len(_folds(_usable(table, protocol.arms), protocol)) * len(protocol.routers)


def _folds(table: OutcomeTable, protocol: Protocol) -> list[Fold]:
    if protocol.shots and protocol.split != "arm":
        raise DataError(
            f"shots={protocol.shots} are outcomes of a new arm: use split 'arm', not {protocol.split!r}"
        )
    return folds(table, protocol.split, protocol.seeds, protocol.test_share, protocol.unseen)


class _Run:
    """Fits and replays of all routers, fold by fold."""

    def __init__(self, protocol: Protocol, progress: Callable[[str], None]) -> None:
        self._protocol, self._progress = protocol, progress
        self.replays = {router: Replays() for router in protocol.routers}
        self.length = Replays()
        """Of the prompt-length baseline."""
        self.not_judged: list[NotJudged] = []

    def fold(self, bench: Bench, *, more: bool) -> None:
        """Fit every router that still takes part, and replay it."""
        replay_into(self.length, fit_prompt_length(bench.learned), bench, 0.0)
        encoder = self._encoder(bench)
        for router in list(self.replays):
            self._progress(f"{bench.fold.name}: {router}")
            try:
                took_s = self._fit_and_replay(router, bench, encoder)
            except Exception as error:
                if not self._protocol.keep_going:
                    raise
                if not isinstance(error, ThinkrouteError):
                    _logger.exception("router %s took no part in %s", router, bench.fold.name)
                self._drop(router, _reason(error))
                continue
            limit_s = self._protocol.fit_limit_s
            if more and limit_s is not None and took_s > limit_s:
                self._drop(router, f"one fit took {took_s:.0f} s, the limit is {limit_s:.0f} s")

    def _encoder(self, bench: Bench) -> Encoder | None:
        if not any(router_kind(router).reads_text for router in self.replays):
            return None
        encoder = fit_encoder(self._protocol.encoder, bench.learned.texts, self._protocol.encoder_parameters)
        return RememberingEncoder(encoder)

    def _fit_and_replay(self, router: str, bench: Bench, encoder: Encoder | None) -> float:
        start = time.perf_counter()
        fitted = fit_router(router, bench.learned, parameters=self._protocol.parameters, encoder=encoder)
        took_s = time.perf_counter() - start
        replay_into(self.replays[router], fitted, bench, took_s)
        return took_s

    def _drop(self, router: str, reason: str) -> None:
        del self.replays[router]
        self.not_judged.append(NotJudged(router, reason))


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ThinkrouteError) else f"{type(error).__name__}: {error}"


def _usable(table: OutcomeTable, wanted: Sequence[str]) -> OutcomeTable:
    if wanted:
        table = table.select_arms(wanted)
    graded_QA = ~np.isnan(table.quality_QA)
    arms = [table.arms[int(arm)] for arm in np.flatnonzero(graded_QA.sum(axis=0))]
    if len(arms) < 2:
        raise DataError(f"evaluation needs at least two arms with outcomes, the table has {len(arms)}")
    if table.propensity_QA is not None and graded_QA.sum(axis=1).max() <= 1:
        raise DataError(
            "the table is a decision log: one arm answered each question, so no other choice can be replayed; "
            "use `thinkroute evaluate-log`"
        )
    return table.take(np.flatnonzero(graded_QA.sum(axis=1))).select_arms(arms)
