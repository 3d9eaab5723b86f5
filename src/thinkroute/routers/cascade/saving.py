"""A fitted cascade on disk: a folder with `cascade.npz` (numbers), `cascade.json` (the card) and its query router.

Owns the format and its checks. Loading never unpickles. The card holds a SHA-256 of the numbers, so a half-copied
artefact is refused.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import msgspec
import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import ConfigError, DataError
from thinkroute.routers.artefact import load_router, save_router
from thinkroute.routers.cascade.features import FEATURES
from thinkroute.routers.cascade.fitted import FittedCascade
from thinkroute.routers.cascade.forest import Forest, Tree
from thinkroute.routers.cascade.planner import Situation
from thinkroute.routers.cascade.verifier import Head
from thinkroute.signals.base import Scalar

FORMAT: Final = 1
_CARD, _NUMBERS, _ROUTER = "cascade.json", "cascade.npz", "router"


class CascadeCard(msgspec.Struct, frozen=True, kw_only=True):
    """What a human or a gateway reads before trusting a cascade."""

    format: int
    version: str
    stages: tuple[str, ...]
    features: tuple[str, ...]
    samples: tuple[int, ...]
    temperature: float
    parameters: dict[str, Scalar]
    data_hash: str
    rows: int
    metrics: dict[str, float]
    """Calibration and whatever else was measured by whoever fitted it."""
    notes: dict[str, str]
    created: str
    thinkroute_version: str
    numbers_sha256: str


def save_cascade(
    cascade: FittedCascade,
    folder: Path,
    *,
    metrics: Mapping[str, float] | None = None,
    notes: Mapping[str, str] | None = None,
) -> CascadeCard:
    """Write a cascade to a folder, creating it; an artefact already there is replaced."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **_arrays(cascade))
    numbers = buffer.getvalue()
    card = CascadeCard(
        format=FORMAT,
        version=cascade.version,
        stages=cascade.stages,
        features=FEATURES,
        samples=cascade.samples_S,
        temperature=cascade.temperature,
        parameters=dict(cascade.parameters),
        data_hash=cascade.data_hash,
        rows=cascade.rows,
        metrics=dict(metrics or {}),
        notes=dict(notes or {}),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        thinkroute_version=package_version("thinkroute"),
        numbers_sha256=hashlib.sha256(numbers).hexdigest(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_router(cascade.router, folder / _ROUTER, notes=notes)
    (folder / _NUMBERS).write_bytes(numbers)
    (folder / _CARD).write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=2))
    return card


def read_cascade_card(folder: Path) -> CascadeCard:
    """Read and check a card alone.

    Raises:
        ConfigError: there is no cascade in the folder.
        DataError: the card is damaged, or of another format or other features.
    """
    path = folder / _CARD
    if not path.is_file():
        raise ConfigError(
            f"{folder} holds no cascade ({_CARD} is missing): make one with `thinkroute cascade fit`"
        )
    try:
        card = msgspec.json.decode(path.read_bytes(), type=CascadeCard)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise DataError(f"{path}: not a cascade's card: {error}") from error
    if card.format != FORMAT or card.features != FEATURES:
        raise DataError(f"{path}: made by another version of thinkroute: fit again")
    return card


def load_cascade(folder: Path) -> FittedCascade:
    """Load a cascade saved by `save_cascade`.

    Raises:
        ConfigError: there is no cascade in the folder.
        DataError: it is damaged.
    """
    card = read_cascade_card(folder)
    path = folder / _NUMBERS
    if not path.is_file():
        raise DataError(f"{path} is missing beside its card: copy the whole folder")
    raw = path.read_bytes()
    if hashlib.sha256(raw).hexdigest() != card.numbers_sha256:
        raise DataError(f"{path}: does not match its card (SHA-256 differs): copy the whole folder again")
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, BadZipFile, EOFError) as error:
        raise DataError(f"{path}: not a readable .npz: {error}") from error
    try:
        return _restore(card, arrays, folder)
    except (KeyError, IndexError) as error:
        raise DataError(f"{path}: an array is missing: {error}") from error


def _arrays(cascade: FittedCascade) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {
        "tokens_S": cascade.tokens_S,
        "cost_RSM": cascade.scenarios[0].cost_RSM.astype(np.float32),
    }
    for (owner, stage), head in cascade.heads.items():
        arrays[f"head/{owner}/{stage}"] = np.stack(
            [np.concatenate([[0.0], head.centre_F]), np.concatenate([[1.0], head.scale_F]), head.weight_W]
        )
    for owner, (forest, scenario) in enumerate(zip(cascade.forests, cascade.scenarios, strict=True)):
        sizes = [len(tree.number_N) for tree in forest.trees]
        arrays[f"forest/{owner}/size"] = np.array(sizes, dtype=np.int32)
        arrays[f"forest/{owner}/number"] = np.concatenate([tree.number_N for tree in forest.trees]).astype(
            np.int16
        )
        arrays[f"forest/{owner}/left"] = np.concatenate([tree.left_N for tree in forest.trees]).astype(
            np.int16
        )
        arrays[f"forest/{owner}/threshold"] = np.concatenate([tree.threshold_N for tree in forest.trees])
        arrays[f"scenario/{owner}/belief"] = scenario.belief_RS.astype(np.float32)
        arrays[f"scenario/{owner}/leaf"] = scenario.leaf_RT.astype(np.int16)
    return arrays


def _restore(card: CascadeCard, arrays: Mapping[str, NDArray[Any]], folder: Path) -> FittedCascade:
    stages = len(card.stages)
    heads: dict[tuple[int, int], Head] = {}
    forests: list[Forest] = []
    scenarios: list[Situation] = []
    cost_RSM = arrays["cost_RSM"].astype(np.float64)
    for owner in range(stages + 1):
        for stage in range(max(owner - 1, 0), stages):
            centre_W, scale_W, weight_W = arrays[f"head/{owner}/{stage}"].astype(np.float64)
            heads[owner, stage] = Head(centre_W[1:], scale_W[1:], weight_W)
        ends = np.cumsum(arrays[f"forest/{owner}/size"])[:-1]
        parts = [np.split(arrays[f"forest/{owner}/{name}"], ends) for name in ("number", "threshold", "left")]
        forests.append(
            Forest(
                tuple(
                    Tree(number.astype(np.intp), threshold.astype(np.float64), left.astype(np.intp))
                    for number, threshold, left in zip(*parts, strict=True)
                )
            )
        )
        scenarios.append(
            Situation(
                owner,
                arrays[f"scenario/{owner}/belief"].astype(np.float64),
                cost_RSM,
                arrays[f"scenario/{owner}/leaf"].astype(np.intp),
            )
        )
    return FittedCascade(
        stages=card.stages,
        router=load_router(folder / _ROUTER),
        heads=heads,
        forests=tuple(forests),
        scenarios=tuple(scenarios),
        tokens_S=arrays["tokens_S"].astype(np.float64),
        samples_S=card.samples,
        temperature=card.temperature,
        data_hash=card.data_hash,
        rows=card.rows,
        parameters=card.parameters,
    )
