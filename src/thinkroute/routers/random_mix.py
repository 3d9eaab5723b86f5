"""Averages plus noise that carries no information: the random mix that moves between arms as the price moves.

A baseline. Each (query, arm) gets the arm's average quality plus a uniform deviate of the arm's own spread between
queries, drawn from a hash of the text, so the same query always gets the same numbers. Its choices look as busy as
a real router's; whatever a real router gains over it is knowledge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import ClassVar, Final

import numpy as np

from thinkroute.routers.base import ArmStatistics, RouterKind, RouterState, TableRouter
from thinkroute.routers.settings import read_settings
from thinkroute.routers.table import FloatArray, OutcomeTable
from thinkroute.signals.base import Encoder, Scalar
from thinkroute.types import Query


@dataclass(frozen=True)
class RandomMixSettings:
    """Settings."""

    seed: int = 0
    """Another seed is another draw."""


class RandomMixRouter(TableRouter):
    """Predicts averages with uninformative noise."""

    name: ClassVar[str] = "random_mix"

    def __init__(self, statistics: ArmStatistics, settings: RandomMixSettings) -> None:
        super().__init__(statistics)
        self._settings = settings

    def state(self) -> RouterState:
        """What to save."""
        return RouterState(self.name, asdict(self._settings), self.statistics)

    def _moments(self, query: Query) -> tuple[FloatArray, FloatArray]:
        mean_MA = self.statistics.mean_MA.copy()
        deviate_A = np.array([self._deviate(query.text, arm) for arm in self.arms])
        # A uniform deviate on [-1, 1] has standard deviation 1/√3.
        mean_MA[0] += np.sqrt(3) * self.statistics.spread_MA[0] * deviate_A
        return mean_MA, self.statistics.spread_MA.copy()

    def _deviate(self, text: str, arm: str) -> float:
        raw = f"{self._settings.seed}\0{arm}\0{text}".encode("utf-8", "replace")
        return int.from_bytes(blake2b(raw, digest_size=7).digest(), "little") / 2**55 - 1


def fit(table: OutcomeTable, parameters: Mapping[str, Scalar], encoder: Encoder | None) -> TableRouter:
    """Average the table's cells per arm."""
    settings = read_settings("random_mix", RandomMixSettings(), parameters)
    return RandomMixRouter(ArmStatistics.of(table), settings)


def restore(state: RouterState) -> TableRouter:
    """Rebuild from saved state."""
    settings = read_settings("random_mix", RandomMixSettings(), state.parameters)
    return RandomMixRouter(state.statistics, settings)


KIND: Final = RouterKind(fit=fit, restore=restore, reads_text=False)
