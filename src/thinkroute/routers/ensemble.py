"""The average of several routers fitted on the same table with the same encoder.

mean = Σ mean_i / n; its variance is the mean of the members' variances plus the variance between members: where they
disagree, nobody is sure. Routers err differently where each has its own idea of what is near, so their
average is better than the best of them more often than not; "The Routing Plateau" (arXiv 2606.07587) finds no single method that
leads everywhere. Members share one encoder and are fitted with their default settings. Arms stand in the order of their
names, in every member and here: members that learn by gradient descent put them so, and columns are averaged by place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Final, TypeVar

import numpy as np

from thinkroute.errors import ConfigError, DataError
from thinkroute.routers.base import ArmStatistics, RouterKind, RouterState, TableRouter
from thinkroute.routers.settings import read_settings
from thinkroute.routers.table import FloatArray, OutcomeTable
from thinkroute.signals.base import Array, Encoder, Scalar
from thinkroute.types import Query

_ValueT = TypeVar("_ValueT")


@dataclass(frozen=True)
class EnsembleSettings:
    """Settings."""

    members: str = "guarded_knn,kmeans,logistic"
    """Names of routers, comma-separated."""


class EnsembleRouter(TableRouter):
    """See the module."""

    name: ClassVar[str] = "ensemble"

    def __init__(
        self, statistics: ArmStatistics, settings: EnsembleSettings, members: Sequence[TableRouter]
    ) -> None:
        super().__init__(statistics)
        self.settings = settings
        self._members = tuple(members)

    def state(self) -> RouterState:
        """What to save: every member's numbers under its place."""
        parameters: dict[str, Scalar] = {**asdict(self.settings)}
        arrays: dict[str, Array] = {}
        encoder = None
        for place, member in enumerate(self._members):
            state = member.state()
            parameters |= {f"{place}.{name}": value for name, value in state.parameters.items()}
            arrays |= {f"{place}.{name}": array for name, array in state.arrays.items()}
            encoder = encoder or state.encoder
        return RouterState(self.name, parameters, self.statistics, arrays, encoder)

    def _moments(self, query: Query) -> tuple[FloatArray, FloatArray]:
        mean_QMA, std_QMA = self._batch_moments((query,))
        return mean_QMA[0], std_QMA[0]

    def _batch_moments(self, queries: Sequence[Query]) -> tuple[FloatArray, FloatArray]:
        parts = [member._batch_moments(queries) for member in self._members]  # noqa: SLF001  # its own kind
        mean_IQMA, std_IQMA = (np.stack(part) for part in zip(*parts, strict=True))
        variance_QMA = (std_IQMA**2).mean(axis=0) + mean_IQMA.var(axis=0)
        return mean_IQMA.mean(axis=0), np.sqrt(variance_QMA)


def fit(table: OutcomeTable, parameters: Mapping[str, Scalar], encoder: Encoder | None) -> TableRouter:
    """Fit every member."""
    settings = read_settings(EnsembleRouter.name, EnsembleSettings(), parameters)
    ordered = table.select_arms(sorted(table.arms))
    statistics = replace(ArmStatistics.of(ordered), data_hash=table.digest())
    return EnsembleRouter(statistics, settings, [kind.fit(ordered, {}, encoder) for kind in _kinds(settings)])


def _kinds(settings: EnsembleSettings) -> list[RouterKind]:
    from thinkroute.routers.registry import ROUTERS

    names = [name.strip() for name in settings.members.split(",")]
    for name in names:
        if name not in ROUTERS or name == EnsembleRouter.name:
            known = ", ".join(known for known in ROUTERS if known != EnsembleRouter.name)
            raise ConfigError(f"router ensemble: members={settings.members!r} names {name!r}: use {known}")
    return [ROUTERS[name]() for name in names]


def restore(state: RouterState) -> TableRouter:
    """Rebuild from saved state."""
    own = {name: value for name, value in state.parameters.items() if not name[0].isdigit()}
    settings = read_settings(EnsembleRouter.name, EnsembleSettings(), own)
    kinds = _kinds(settings)
    if state.encoder is None and any(kind.reads_text for kind in kinds):
        raise DataError("router ensemble: the artefact lacks its encoder: fit it again")
    members: list[TableRouter] = []
    names = settings.members.split(",")
    for place, kind in enumerate(kinds):
        member = RouterState(
            names[place].strip(),
            _part(state.parameters, f"{place}."),
            state.statistics,
            _part(state.arrays, f"{place}."),
            state.encoder,
        )
        members.append(kind.restore(member))
    return EnsembleRouter(state.statistics, settings, members)


def _part(named: Mapping[str, _ValueT], prefix: str) -> dict[str, _ValueT]:
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}


KIND: Final = RouterKind(fit=fit, restore=restore, reads_text=True)
