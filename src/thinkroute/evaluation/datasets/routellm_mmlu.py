"""RouteLLM's MMLU answers: was GPT-4-1106 right, was Mixtral-8x7B right.

Dollars are a proxy (note `cost_basis: proxy`): the paper prices a call at $24.7 and $0.24 per million tokens, here
times the prompt's bytes / 4. One arm is a hundred times dearer than the other whatever the question.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from thinkroute.errors import DataError
from thinkroute.evaluation.datasets.source import DataSet, Row, read_rows, wide_table
from thinkroute.routers.table import OutcomeTable

USD_PER_MTOK: Final = {"gpt-4-1106-preview": 24.7, "mistralai/Mixtral-8x7B-Instruct-v0.1": 0.24}
BYTES_PER_TOKEN: Final = 4


def convert(folder: Path) -> OutcomeTable:
    """Read `mmlu_gpt4_vs_mixtral.csv.gz`."""
    path = folder / "mmlu_gpt4_vs_mixtral.csv.gz"
    rows = list(read_rows(path))
    arms = tuple(USD_PER_MTOK)
    for arm in arms:
        if rows and arm not in rows[0].fields:
            raise DataError(f"{path}: column {arm!r} is missing")
    return wide_table(
        rows,
        arms=arms,
        ids=[f"routellm-mmlu-{row.line}" for row in rows],
        texts=[row.text("prompt") for row in rows],
        tasks=[row.text("domain") for row in rows],
        measured={"quality": Row.truth, "cost_usd": proxy_usd},
        notes={"source": DATASET.source, "licence": DATASET.licence, "cost_basis": "proxy"},
    )


def proxy_usd(row: Row, arm: str) -> float:
    """The paper's price per token times the prompt's estimated tokens."""
    return USD_PER_MTOK[arm] * len(row.text("prompt").encode()) / BYTES_PER_TOKEN / 1e6


DATASET: Final = DataSet(
    name="routellm-mmlu",
    title="MMLU, 57 subjects, GPT-4 against Mixtral-8x7B, right or wrong, proxy dollars",
    licence="Apache-2.0",
    source="https://github.com/lm-sys/RouteLLM",
    convert=convert,
)
