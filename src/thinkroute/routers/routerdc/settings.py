"""Settings of RouterDC and its two presets, in a module of their own because fitting and serving both read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from thinkroute.errors import ConfigError
from thinkroute.routers.encoder_regressor.network import POOLINGS, PRECISIONS
from thinkroute.routers.settings import read_settings
from thinkroute.signals.base import Scalar

NAME: Final = "routerdc"
TIES: Final = ("drawn", "column")
MAPS: Final = ("all", "arm", "one")


@dataclass(frozen=True)
class RouterDcSettings:
    """Settings; the defaults are ours, `preset=paper` starts from the paper's."""

    preset: str = "default"
    """default or paper."""
    model: str = ""
    """Hugging Face encoder to fine-tune, by name or folder; empty trains a linear map of the encoder's vectors."""
    pooling: str = "cls"
    """cls or mean: how a fine-tuned encoder's tokens become one vector."""
    most_tokens: int = 512
    """Tokens a fine-tuned encoder reads: of longer texts the first and the last."""
    precision: str = "int8"
    """int8 or float32: of the graph that serves a fine-tuned encoder."""
    dimension: int = 64
    """Of the space that queries and arms share, for frozen vectors."""
    positives: int = 3
    """K⁺: best arms per query."""
    negatives: int = 3
    """K⁻: worst arms per query."""
    temperature: float = 1.0
    """τ, in both losses."""
    sample_loss_weight: float = 1.0
    """λ: weight of the sample–sample loss."""
    other_samples: int = 3
    """H: queries of other clusters per query."""
    clusters: int = 5
    ties: str = "drawn"
    """drawn: equally good arms take turns; column: always the first ones, as the paper's code does."""
    balance_tasks: bool = False
    """Draw every task equally often; needs task labels in training, none in serving."""
    steps: int = 1000
    batch_size: int = 64
    learning_rate: float = 1e-3
    """Of the linear map and the arms' vectors."""
    encoder_learning_rate: float = 5e-5
    """When an encoder is fine-tuned: of it and the arms' vectors."""
    weight_decay: float = 0.01
    folds: int = 0
    """Models trained, each without one part of the queries, which calibrates; 0: five for frozen vectors, one else."""
    maps: str = "all"
    """What makes a probability of cosines: all: one map per arm that reads the cosines of all arms; arm: one per arm that reads
    its own; one: the same for all arms, which keeps the order of the cosines."""
    seed: int = 0


PRESETS: Final[Mapping[str, RouterDcSettings]] = {
    "default": RouterDcSettings(),
    "paper": RouterDcSettings(preset="paper", ties="column", balance_tasks=True, folds=1, maps="one"),
}
"""The paper: K⁺ = K⁻ = 3, λ = 1, τ = 1, H = 3, 5 clusters, 1,000 steps of 64 queries, AdamW at 5e-5, as many queries
of every data set, arg-max of the similarity."""


def settings_of(parameters: Mapping[str, Scalar]) -> RouterDcSettings:
    """Settings with `parameters` laid over their preset.

    Raises:
        ConfigError: an unknown name, a wrong type, or a value out of range.
    """
    preset = parameters.get("preset", "default")
    if preset not in PRESETS:
        raise ConfigError(f"router {NAME}: preset={preset!r} is unknown: use one of {', '.join(PRESETS)}")
    settings = read_settings(NAME, PRESETS[str(preset)], parameters)
    for name, value, known in (
        ("pooling", settings.pooling, POOLINGS),
        ("precision", settings.precision, PRECISIONS),
        ("ties", settings.ties, TIES),
        ("maps", settings.maps, MAPS),
    ):
        if value not in known:
            raise ConfigError(f"router {NAME}: {name}={value!r} is unknown: use one of {', '.join(known)}")
    for name in ("dimension", "positives", "negatives", "other_samples", "clusters", "steps", "batch_size"):
        if getattr(settings, name) < 1:
            raise ConfigError(f"router {NAME}: {name}={getattr(settings, name)} must be at least 1")
    if settings.temperature <= 0 or settings.folds < 0:
        raise ConfigError(f"router {NAME}: temperature must be positive, folds not negative")
    if settings.model and settings.folds > 1:
        raise ConfigError(
            f"router {NAME}: folds={settings.folds}, but a fine-tuned encoder is one model: leave it at 0"
        )
    return settings
