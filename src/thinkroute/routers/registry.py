"""The table of routers and the one way to fit any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from thinkroute.errors import ConfigError
from thinkroute.routers.base import RouterKind, TableRouter
from thinkroute.routers.table import OutcomeTable
from thinkroute.signals import fit_encoder
from thinkroute.signals.base import Encoder, Scalar

DEFAULT_ENCODER: Final = "hashed_ngrams"


def _constant() -> RouterKind:
    from thinkroute.routers import constant

    return constant.KIND


def _best_single() -> RouterKind:
    from thinkroute.routers import best_single

    return best_single.KIND


def _random_mix() -> RouterKind:
    from thinkroute.routers import random_mix

    return random_mix.KIND


def _knn() -> RouterKind:
    from thinkroute.routers import knn

    return knn.KIND


def _ridge() -> RouterKind:
    from thinkroute.routers import ridge

    return ridge.KIND


def _routerdc() -> RouterKind:
    from thinkroute.routers import routerdc

    return routerdc.KIND


def _graph() -> RouterKind:
    from thinkroute.routers import graph

    return graph.KIND


def _encoder_regressor() -> RouterKind:
    from thinkroute.routers import encoder_regressor

    return encoder_regressor.KIND


ROUTERS: Final[Mapping[str, Callable[[], RouterKind]]] = {
    "constant": _constant,
    "best_single": _best_single,
    "random_mix": _random_mix,
    "knn": _knn,
    "ridge": _ridge,
    "routerdc": _routerdc,
    "graph": _graph,
    "encoder_regressor": _encoder_regressor,
}
"""Name → factory, baselines first."""


def router_kind(name: str) -> RouterKind:
    """The kind of router called `name`.

    Raises:
        ConfigError: no router of that name; the message lists the known ones.
    """
    if name not in ROUTERS:
        raise ConfigError(f"unknown router {name!r}: use one of {', '.join(ROUTERS)}")
    return ROUTERS[name]()


def fit_router(
    name: str,
    table: OutcomeTable,
    *,
    parameters: Mapping[str, Scalar] | None = None,
    encoder: Encoder | None = None,
) -> TableRouter:
    """Fit the router called `name` on an outcome table.

    Args:
        name: One of `ROUTERS`.
        table: Outcomes to learn from; missing cells are fine.
        parameters: Settings that replace the router's defaults.
        encoder: A fitted encoder to share; None fits the default encoder on the table's texts when needed.
    """
    kind = router_kind(name)
    if kind.reads_text and encoder is None:
        encoder = fit_encoder(DEFAULT_ENCODER, table.texts)
    return kind.fit(table, parameters or {}, encoder)
