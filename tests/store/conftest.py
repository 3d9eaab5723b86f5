"""Stores of every kind, and records to put in them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from thinkroute.store import DecisionRecord, LegRecord, MemoryStore, ScoreRecord, Store
from thinkroute.store.sqlite import SqliteStore


@pytest.fixture
def make_record() -> Callable[..., DecisionRecord]:
    def make(number: int = 1, **fields: Any) -> DecisionRecord:
        known: dict[str, Any] = {
            "decision_id": f"dec_{number:04d}",
            "created_at": 1000.0 + number,
            "status": "ok",
            "key_id": "team",
            "asked_model": "auto",
            "query_hash": f"hash{number}",
            "query_text": "what is 2+2?",
            "arm_id": "m@budget=8",
            "program": "budgeted",
            "models": ("m",),
            "effort": "budget=8",
            "propensity": 0.75,
            "reason_codes": ("best_utility",),
            "router": "knn-1",
            "policy_version": "1",
            "value_usd": 0.01,
            "scores": (
                ScoreRecord(
                    arm_id="m@budget=8",
                    allowed=True,
                    propensity=0.75,
                    quality=0.5,
                    quality_std=0.1,
                    cost_usd=0.25,
                ),
                ScoreRecord(arm_id="m@off", allowed=False, propensity=0.0, reasons=("no_quality",)),
            ),
            "legs": (
                LegRecord(
                    owner="m",
                    prompt_tokens=10,
                    completion_tokens=20,
                    reasoning_tokens=8,
                    provenance="reported",
                    cost_usd=0.25,
                    latency_s=0.5,
                    finish_reason="stop",
                ),
            ),
            "cost_usd": 0.25,
            "ttft_s": 0.1,
            "latency_s": 0.5,
            "finish_reason": "stop",
        }
        return DecisionRecord(**(known | fields))

    return make


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "decisions.db"


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, database: Path) -> Iterator[Store]:
    opened: Store = MemoryStore() if request.param == "memory" else SqliteStore(database)
    yield opened
    opened.close()
