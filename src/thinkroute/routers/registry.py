"""The table of routers and the one way to fit any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Final

from thinkroute.errors import ConfigError
from thinkroute.routers.base import RouterKind, TableRouter
from thinkroute.routers.table import OutcomeTable
from thinkroute.signals import fit_encoder
from thinkroute.signals.base import Encoder, Scalar

DEFAULT_ENCODER: Final = "blend"
"""Words and meaning side by side: on public sets neither alone does as well (docs/experiments.md)."""


def _lazy(module: str) -> Callable[[], RouterKind]:
    """A factory that imports its module when called: naming a router must not load the others."""

    def load() -> RouterKind:
        kind: RouterKind = import_module(f"thinkroute.routers.{module}").KIND
        return kind

    return load


ROUTERS: Final[Mapping[str, Callable[[], RouterKind]]] = {
    "constant": _lazy("constant"),
    "best_single": _lazy("best_single"),
    "random_mix": _lazy("random_mix"),
    "knn": _lazy("knn"),
    "guarded_knn": _lazy("guarded_knn"),
    "ridge": _lazy("ridge"),
    "task_lookup": _lazy("task_lookup"),
    "kmeans": _lazy("kmeans"),
    "logistic": _lazy("logistic"),
    "mlp": _lazy("mlp"),
    "matrix_factorisation": _lazy("matrix_factorisation"),
    "hybrid": _lazy("hybrid"),
    "carrot": _lazy("carrot"),
    "ensemble": _lazy("ensemble"),
    "routerdc": _lazy("routerdc.router"),
    "graph": _lazy("graph.router"),
    "encoder_regressor": _lazy("encoder_regressor.router"),
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
