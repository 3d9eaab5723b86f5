"""Settings of the `encoder_regressor`, in a module of their own because fitting and serving both read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from thinkroute.errors import ConfigError
from thinkroute.routers.encoder_regressor.network import POOLINGS, PRECISIONS
from thinkroute.routers.settings import read_settings
from thinkroute.signals.base import Scalar

NAME = "encoder_regressor"


@dataclass(frozen=True)
class EncoderRegressorSettings:
    """Settings; `model` has no default."""

    model: str = ""
    """Name on the Hugging Face hub, or a folder with `config.json`, weights and tokenizer."""
    revision: str = "main"
    """Commit or branch of a name on the hub."""
    pooling: str = "mean"
    """mean (over tokens) or cls (the first token)."""
    most_tokens: int = 512
    """Tokens read, special ones included: of longer texts the first and the last."""
    precision: str = "int8"
    """int8 or float32: of the graph that serves."""
    threads: int = 1
    """Threads of one prediction."""
    epochs: int = 5
    """At most."""
    patience: int = 2
    """Epochs without a better validation loss that end the training."""
    batch_size: int = 16
    """Texts computed at once."""
    accumulation: int = 2
    """Batches whose gradients make one step."""
    learning_rate: float = 3e-5
    """Of the encoder; it rises over a tenth of the steps and falls to zero."""
    head_learning_rate: float = 1e-3
    """Of the linear layer on top."""
    weight_decay: float = 0.01
    other_weight: float = 0.3
    """Weight of tokens, seconds and dollars beside quality in the loss."""
    validation_share: float = 0.15
    """Part of the queries that stops the training and calibrates the outputs."""
    seed: int = 0


def settings_of(parameters: Mapping[str, Scalar]) -> EncoderRegressorSettings:
    """Settings with `parameters` laid over the defaults.

    Raises:
        ConfigError: an unknown name, a wrong type, or a value out of range.
    """
    settings = read_settings(NAME, EncoderRegressorSettings(), parameters)
    for name, value, known in (
        ("pooling", settings.pooling, POOLINGS),
        ("precision", settings.precision, PRECISIONS),
    ):
        if value not in known:
            raise ConfigError(f"router {NAME}: {name}={value!r} is unknown: use one of {', '.join(known)}")
    if (
        min(settings.epochs, settings.patience, settings.batch_size, settings.accumulation, settings.threads)
        < 1
    ):
        raise ConfigError(
            f"router {NAME}: epochs, patience, batch_size, accumulation and threads must be at least 1"
        )
    if not 0 < settings.validation_share < 1:
        raise ConfigError(
            f"router {NAME}: validation_share={settings.validation_share} must lie between 0 and 1"
        )
    if not settings.model:
        raise ConfigError(
            f"router {NAME}: model is not set: give a name on the hub or a folder with an encoder"
        )
    return settings
