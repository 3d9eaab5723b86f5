"""A router on disk: what is refused, and with which words."""

import json
import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from thinkroute.errors import ConfigError, DataError
from thinkroute.routers import CalibrationCard, OutcomeTable, fit_router, load_router, read_card, save_router
from thinkroute.routers.registry import DEFAULT_ENCODER

CALIBRATION = CalibrationCard(
    cells=3, ece=0.25, brier=0.1, chosen_excess=-0.05, reliability=((0.25, 0.0, 1), (0.75, 1.0, 2))
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    table = OutcomeTable(
        query_ids=("a", "b", "c"),
        texts=("one", "two words", "three more words"),
        arms=("x", "y"),
        measured={"quality": np.array([[1.0, 0.0], [0.0, 1.0], [1.0, np.nan]])},
    )
    save_router(
        fit_router("knn", table),
        tmp_path / "router",
        metrics={"quality": 0.5, "aiq": float("nan")},
        calibration=CALIBRATION,
        notes={"licence": "MIT"},
    )
    return tmp_path / "router"


def edit(folder: Path, **changes: object) -> None:
    card = json.loads((folder / "router.json").read_text())
    (folder / "router.json").write_text(json.dumps({**card, **changes}))


def test_the_card_says_what_the_router_is_and_where_it_came_from(folder: Path) -> None:
    card = read_card(folder)
    assert (card.router, card.arms, card.rows) == ("knn", ("x", "y"), 3)
    assert card.encoder is not None
    assert card.encoder.name == DEFAULT_ENCODER
    assert card.parameters["neighbours"] == 2
    assert card.metrics == {"quality": 0.5}, "what is not a number is left out, not written as null"
    assert card.calibration == CALIBRATION
    assert datetime.now(UTC) - datetime.fromisoformat(card.created) < timedelta(minutes=10)
    assert card.notes == {"licence": "MIT"}
    assert card.version == f"knn:{card.data_hash[:8]}"


def test_a_card_written_before_calibration_was_kept_still_loads(folder: Path) -> None:
    card = json.loads((folder / "router.json").read_text())
    del card["calibration"]
    (folder / "router.json").write_text(json.dumps(card))
    assert read_card(folder).calibration is None


def test_an_empty_folder_names_the_command_that_makes_a_router(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="thinkroute fit"):
        load_router(tmp_path)


def test_changed_numbers_are_refused(folder: Path) -> None:
    raw = bytearray((folder / "router.npz").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "router.npz").write_bytes(raw)
    with pytest.raises(DataError, match="SHA-256 differs"):
        load_router(folder)


def test_missing_numbers_are_refused(folder: Path) -> None:
    (folder / "router.npz").unlink()
    with pytest.raises(DataError, match="missing beside its card"):
        load_router(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 99}, "format 99"),
        ({"router": "oracle"}, "unknown router 'oracle'"),
        ({"arms": "x"}, "not a router card"),
        ({"arms": ["x"]}, "not of shape"),
        ({"encoder": {"name": "bert", "parameters": {}}}, "unknown encoder 'bert'"),
        ({"encoder": None}, "lacks its encoder"),
    ],
)
def test_a_wrong_card_is_refused_with_the_reason(
    folder: Path, changes: dict[str, object], words: str
) -> None:
    edit(folder, **changes)
    with pytest.raises(DataError, match=words):
        load_router(folder)


def test_pickled_arrays_are_never_loaded(folder: Path) -> None:
    """Even with a matching checksum: an object array would run code when unpickled."""
    import hashlib

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (pytest.fail, ("unpickled",))

    assert pickle.dumps(Bomb())
    np.savez(folder / "router.npz", bomb=np.array([Bomb()], dtype=object))
    edit(folder, numbers_sha256=hashlib.sha256((folder / "router.npz").read_bytes()).hexdigest())
    with pytest.raises(DataError, match=r"router\.npz"):
        load_router(folder)


def test_saving_twice_replaces_the_router(folder: Path) -> None:
    table = OutcomeTable(("a",), ("one",), ("z",), {"quality": np.array([[1.0]])})
    save_router(fit_router("constant", table), folder)
    assert load_router(folder).arms == ("z",)
