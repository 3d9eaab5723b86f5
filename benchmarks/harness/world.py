"""What the gateway of the benchmark is given: a router fitted on synthetic outcomes, and a configuration with all on.

The outcomes mean nothing but are no noise: each text has a difficulty that its words and length show, and arms that
think longer answer harder texts, so that the router has something to learn and the gateway chooses among all arms.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from thinkroute.routers import OutcomeTable, TableRouter, fit_router, save_router

ARMS = ("small@off", "small@low", "small@medium", "large@off", "large@medium", "large@xhigh")
_SKILL_A = np.array([0.25, 0.45, 0.55, 0.6, 0.8, 0.95])
_TOKENS_A = np.array([0.0, 200.0, 600.0, 0.0, 500.0, 2000.0])
_EASY = "add the two numbers and name the colour of a simple short word please"
_HARD = "prove derive integrate the eigenvalue theorem over a lattice group with optimal bound"


def texts(count: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Questions of 40 to 600 bytes and their difficulty in [0, 1]."""
    rng = np.random.default_rng(seed)
    difficulty_Q = rng.random(count)
    made: list[str] = []
    for difficulty in difficulty_Q:
        words = rng.integers(8, 20) + int(80 * difficulty * rng.random())
        hard = rng.random(words) < difficulty
        made.append(
            " ".join(str(rng.choice((_HARD if h else _EASY).split())) for h in hard)
            + f" {rng.integers(10**6)}?"
        )
    return made, difficulty_Q


def outcome_table(rows: int, seed: int) -> OutcomeTable:
    """Synthetic outcomes of every arm on `rows` texts."""
    questions, difficulty_Q = texts(rows, seed)
    rng = np.random.default_rng(seed + 1)
    chance_QA = 1 / (1 + np.exp(-8 * (_SKILL_A - difficulty_Q[:, None])))
    prompt_Q = np.array([len(text) / 4 for text in questions])
    reasoning_QA = _TOKENS_A * (0.5 + difficulty_Q[:, None]) * rng.lognormal(0, 0.3, chance_QA.shape)
    answer_QA = rng.lognormal(4, 0.4, chance_QA.shape)
    return OutcomeTable(
        query_ids=tuple(f"q{row}" for row in range(rows)),
        texts=tuple(questions),
        arms=ARMS,
        measured={
            "quality": (rng.random(chance_QA.shape) < chance_QA).astype(np.float64),
            "prompt_tokens": np.repeat(prompt_Q[:, None], len(ARMS), axis=1),
            "reasoning_tokens": reasoning_QA,
            "answer_tokens": answer_QA,
            "latency_s": 0.3 + (reasoning_QA + answer_QA) / 80,
        },
    )


def fitted_router(rows: int, seed: int, folder: Path) -> TableRouter:
    """A kNN router on the synthetic outcomes, saved as `thinkroute fit` saves it."""
    router = fit_router("knn", outcome_table(rows, seed))
    save_router(router, folder)
    return router


def write_config(upstream_port: int, router: Path, log: Path, path: Path) -> None:
    """Two models, six arms, prices, a spend budget, a router and the decision log in SQLite."""
    root = f"http://127.0.0.1:{upstream_port}/v1"
    small = {"input_usd_per_mtok": 0.1, "output_usd_per_mtok": 0.4}
    large = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 4.0}
    settings = {
        "models": {
            "small": {"url": root, "family": "qwen3.8", "price": small, "context_window": 131_072},
            "large": {"url": root, "family": "qwen3.8", "price": large, "context_window": 131_072},
        },
        "arms": list(ARMS),
        "policy": {"value_usd": 0.02, "latency_usd_per_s": 0.00005, "budgets": {"usd_per_day": 1_000_000.0}},
        "router": {"path": str(router)},
        "store": {"path": str(log), "log_content": True},
    }
    path.write_text(yaml.safe_dump(settings))
