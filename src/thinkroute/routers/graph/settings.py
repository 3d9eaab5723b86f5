"""Settings of GraphRouter, in a module of their own because training and serving both read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from thinkroute.errors import ConfigError
from thinkroute.routers.settings import read_settings
from thinkroute.signals.base import Scalar

NAME: Final = "graph"
LABELS: Final = ("scores", "paper")


@dataclass(frozen=True)
class GraphSettings:
    """Settings."""

    labels: str = "scores"
    """scores: graded scores as they are; paper: 1 for the arm of best reward, 0 for all others."""
    reward_quality: float = 1.0
    """α of the paper's reward, for its labels alone."""
    reward_cost: float = 0.0
    """β of the paper's reward."""
    task_nodes: bool = False
    """Tell queries their task where it is known; half the training queries are not told, so that it may be missing."""
    dimension: int = 64
    """Of the space that queries and arms share; fewer when the encoder has fewer."""
    layers: int = 2
    steps: int = 200
    batch_size: int = 512
    """Queries per step."""
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    folds: int = 5
    """Models trained, each without one part of the queries, which calibrates."""
    seed: int = 0


def settings_of(parameters: Mapping[str, Scalar]) -> GraphSettings:
    """Settings with `parameters` laid over the defaults.

    Raises:
        ConfigError: an unknown name, a wrong type, or a value out of range.
    """
    settings = read_settings(NAME, GraphSettings(), parameters)
    if settings.labels not in LABELS:
        raise ConfigError(
            f"router {NAME}: labels={settings.labels!r} is unknown: use one of {', '.join(LABELS)}"
        )
    for name in ("dimension", "layers", "steps", "batch_size", "folds"):
        if getattr(settings, name) < 1:
            raise ConfigError(f"router {NAME}: {name}={getattr(settings, name)} must be at least 1")
    return settings
