"""Features of a request: encoders behind one protocol, and semantic signals that answer yes, no or unknown.

`ENCODERS` is the table of encoders. Looking a name up imports its module, nothing before that does. `semantic` reads
domains and difficulty with the shipped heads, `thinking` turns them into a prior for arms nobody has measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from thinkroute.errors import ConfigError
from thinkroute.signals.base import Encoder, EncoderKind, EncoderState, Scalar

__all__ = [
    "ENCODERS",
    "Encoder",
    "EncoderKind",
    "EncoderState",
    "encoder_kind",
    "fit_encoder",
    "restore_encoder",
]


def _hashed_ngrams() -> EncoderKind:
    from thinkroute.signals import hashed_ngrams

    return hashed_ngrams.KIND


def _static() -> EncoderKind:
    from thinkroute.signals import static

    return static.KIND


def _blend() -> EncoderKind:
    from thinkroute.signals import blend

    return blend.KIND


def _minilm() -> EncoderKind:
    from thinkroute.signals import minilm

    return minilm.KIND


def _huggingface() -> EncoderKind:
    from thinkroute.signals import huggingface

    return huggingface.KIND


def _remote() -> EncoderKind:
    from thinkroute.signals import remote

    return remote.KIND


ENCODERS: Mapping[str, Callable[[], EncoderKind]] = {
    "hashed_ngrams": _hashed_ngrams,
    "static": _static,
    "blend": _blend,
    "minilm": _minilm,
    "huggingface": _huggingface,
    "remote": _remote,
}
"""Name → factory. Numpy-only encoders come first."""


def encoder_kind(name: str) -> EncoderKind:
    """The kind of encoder called `name`.

    Raises:
        ConfigError: no encoder of that name; the message lists the known ones.
    """
    if name not in ENCODERS:
        raise ConfigError(f"unknown encoder {name!r}: use one of {', '.join(ENCODERS)}")
    return ENCODERS[name]()


def fit_encoder(name: str, texts: Sequence[str], parameters: Mapping[str, Scalar] | None = None) -> Encoder:
    """Fit the encoder called `name` on texts; `parameters` replaces its defaults one by one."""
    return encoder_kind(name).fit(texts, parameters or {})


def restore_encoder(state: EncoderState) -> Encoder:
    """Rebuild a saved encoder."""
    return encoder_kind(state.name).restore(state)
