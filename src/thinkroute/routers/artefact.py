"""A fitted router on disk: a folder with `router.npz` (numbers) and `router.json` (the card).

Owns the format and its checks. Loading never unpickles: arrays are plain, names are looked up in the tables of
routers and encoders. The card holds a SHA-256 of the numbers, so a half-copied artefact is refused.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import msgspec
import numpy as np

from thinkroute.errors import ConfigError, DataError
from thinkroute.routers.base import ArmStatistics, RouterState, TableRouter
from thinkroute.routers.registry import ROUTERS, router_kind
from thinkroute.routers.table import FloatArray, Measure
from thinkroute.signals import ENCODERS, EncoderState
from thinkroute.signals.base import Array, Scalar

FORMAT: Final = 1
_CARD, _NUMBERS = "router.json", "router.npz"
_STATISTICS: Final = ("mean_MA", "spread_MA", "count_MA", "prompt_line_3A")


class EncoderCard(msgspec.Struct, frozen=True):
    """The encoder a router reads text with."""

    name: str
    parameters: dict[str, Scalar]


class CalibrationCard(msgspec.Struct, frozen=True, kw_only=True):
    """Whether predicted quality means what it says, measured on queries left out of fitting."""

    cells: int
    """Graded cells it was measured on."""
    ece: float
    """Expected calibration error over bins of equal mass."""
    brier: float
    """Mean squared error."""
    chosen_excess: float
    """Predicted minus measured quality of the chosen arms, where quality alone counts."""
    reliability: tuple[tuple[float, float, int], ...]
    """Bins: mean predicted quality, mean measured quality, cells."""


class RouterCard(msgspec.Struct, frozen=True, kw_only=True):
    """What a human or a gateway reads before trusting a router."""

    format: int
    """Version of this format."""
    router: str
    version: str
    """As it stands in decisions: name and data hash."""
    arms: tuple[str, ...]
    measures: tuple[Measure, ...]
    parameters: dict[str, Scalar]
    """Settings, the ones chosen by fitting included."""
    encoder: EncoderCard | None
    data_hash: str
    """SHA-256 of the outcome table it was fitted on."""
    rows: int
    """Queries it was fitted on."""
    metrics: dict[str, float]
    """Measured by whoever fitted it, e.g. held-out quality."""
    calibration: CalibrationCard | None = None
    """None: not measured."""
    notes: dict[str, str]
    """Provenance of the data: source, licence, what the dollars are."""
    created: str
    """UTC time, ISO 8601."""
    thinkroute_version: str
    numbers_sha256: str


def save_router(
    router: TableRouter,
    folder: Path,
    *,
    metrics: Mapping[str, float] | None = None,
    calibration: CalibrationCard | None = None,
    notes: Mapping[str, str] | None = None,
) -> RouterCard:
    """Write a router to a folder, creating it; an artefact already there is replaced."""
    state = router.state()
    numbers = _pack(state)
    card = RouterCard(
        format=FORMAT,
        router=state.name,
        version=router.version,
        arms=state.statistics.arms,
        measures=state.statistics.measures,
        parameters=dict(state.parameters),
        encoder=None
        if state.encoder is None
        else EncoderCard(state.encoder.name, dict(state.encoder.parameters)),
        data_hash=state.statistics.data_hash,
        rows=state.statistics.rows,
        # JSON has no NaN: what is not known is not there.
        metrics={name: value for name, value in (metrics or {}).items() if not math.isnan(value)},
        calibration=calibration,
        notes=dict(notes or {}),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        thinkroute_version=package_version("thinkroute"),
        numbers_sha256=hashlib.sha256(numbers).hexdigest(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _NUMBERS).write_bytes(numbers)
    (folder / _CARD).write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=2))
    return card


def read_card(folder: Path) -> RouterCard:
    """Read and check a router's card alone.

    Raises:
        ConfigError: there is no artefact in the folder.
        DataError: the card is damaged or of another format.
    """
    path = folder / _CARD
    if not path.is_file():
        raise ConfigError(f"{folder} holds no router ({_CARD} is missing): make one with `thinkroute fit`")
    try:
        card = msgspec.json.decode(path.read_bytes(), type=RouterCard)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise DataError(f"{path}: not a router card: {error}") from error
    if card.format != FORMAT:
        raise DataError(f"{path}: format {card.format}, this version reads {FORMAT}: fit the router again")
    if card.router not in ROUTERS:
        raise DataError(f"{path}: unknown router {card.router!r}: this version knows {', '.join(ROUTERS)}")
    if card.encoder is not None and card.encoder.name not in ENCODERS:
        raise DataError(
            f"{path}: unknown encoder {card.encoder.name!r}: this version knows {', '.join(ENCODERS)}"
        )
    return card


def load_router(folder: Path | str) -> TableRouter:
    """Load a router saved by `save_router`.

    Raises:
        ConfigError: there is no artefact in the folder.
        DataError: the artefact is damaged, incomplete or of another format.
    """
    folder = Path(folder)
    card = read_card(folder)
    path = folder / _NUMBERS
    if not path.is_file():
        raise DataError(f"{path} is missing beside its card: copy the whole folder")
    raw = path.read_bytes()
    if hashlib.sha256(raw).hexdigest() != card.numbers_sha256:
        raise DataError(f"{path}: does not match its card (SHA-256 differs): copy the whole folder again")
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as archive:
            arrays: dict[str, Array] = {name: archive[name] for name in archive.files}
    except (ValueError, BadZipFile, EOFError) as error:
        raise DataError(f"{path}: not a readable .npz: {error}") from error
    return router_kind(card.router).restore(_unpack(card, arrays, path))


def _pack(state: RouterState) -> bytes:
    arrays: dict[str, Array] = {f"router/{name}": array for name, array in state.arrays.items()}
    arrays |= {f"statistics/{name}": getattr(state.statistics, name) for name in _STATISTICS}
    if state.encoder is not None:
        arrays |= {f"encoder/{name}": array for name, array in state.encoder.arrays.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _unpack(card: RouterCard, arrays: Mapping[str, Array], path: Path) -> RouterState:
    expected = len(card.measures), len(card.arms)
    statistics: dict[str, FloatArray] = {}
    for name in _STATISTICS:
        shape = (3, len(card.arms)) if name == "prompt_line_3A" else expected
        array = arrays.get(f"statistics/{name}")
        if array is None or array.shape != shape:
            raise DataError(f"{path}: array statistics/{name} is missing or not of shape {shape}")
        statistics[name] = array.astype(np.float64)
    encoder = None
    if card.encoder is not None:
        encoder = EncoderState(card.encoder.name, card.encoder.parameters, _part(arrays, "encoder/"))
    return RouterState(
        name=card.router,
        parameters=card.parameters,
        statistics=ArmStatistics(
            card.arms, card.measures, **statistics, data_hash=card.data_hash, rows=card.rows
        ),
        arrays=_part(arrays, "router/"),
        encoder=encoder,
    )


def _part(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
