"""LLMRouter's 12-task set: nine open models, one score each per query.

The source publishes prices but no token counts, so dollars are a proxy (note `cost_basis: proxy`): prompt bytes / 4
input tokens and ASSUMED_OUTPUT_TOKENS output tokens at the published price. It ranks arms by price and queries by
prompt length; how much longer one model's answers are than another's it cannot know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

from thinkroute.errors import DataError
from thinkroute.evaluation.datasets.source import DataSet, Row, model_columns, read_rows, wide_table
from thinkroute.routers.table import ArmInfo, OutcomeTable
from thinkroute.types import Price

BYTES_PER_TOKEN: Final = 4
ASSUMED_OUTPUT_TOKENS: Final = 200
_SIZE: Final = re.compile(r"([0-9.]+)B")
_COLUMNS: Final = (
    "source_split",
    "task_name",
    "metric",
    "question",
    "ground_truth",
    "choices",
    "task_id",
    "cluster_id",
)


def convert(folder: Path) -> OutcomeTable:
    """Read `routing_train.csv.gz` and `llm_candidates.json`."""
    path = folder / "routing_train.csv.gz"
    rows = list(read_rows(path))
    arms = model_columns(path, tuple(rows[0].fields) if rows else (), _COLUMNS)
    listed = _candidates(folder / "llm_candidates.json", arms)
    prices = {
        arm: Price(float(listed[arm]["input_price"]), float(listed[arm]["output_price"])) for arm in arms
    }

    def proxy_usd(row: Row, arm: str) -> float:
        prompt_tokens = len(row.text("question").encode()) / BYTES_PER_TOKEN
        return prices[arm].cost_usd(prompt_tokens, ASSUMED_OUTPUT_TOKENS)

    table = wide_table(
        rows,
        arms=arms,
        ids=[f"llmrouter-{row.line}" for row in rows],
        texts=[row.text("question") for row in rows],
        tasks=[row.text("task_name") for row in rows],
        measured={"quality": Row.number, "cost_usd": proxy_usd},
        notes={
            "source": DATASET.source,
            "licence": DATASET.licence,
            "cost_basis": "proxy",
            "cost_detail": f"published price × (prompt bytes / {BYTES_PER_TOKEN} + {ASSUMED_OUTPUT_TOKENS} tokens)",
        },
    )
    return replace(table, arm_info={arm: _info(listed[arm], prices[arm]) for arm in arms})


def _candidates(path: Path, arms: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """What the source says of each arm; every one of them has prices."""
    try:
        listed = cast("dict[str, dict[str, Any]]", json.loads(path.read_text(encoding="utf-8")))
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: the price list is not readable: {error}") from error
    for arm in arms:
        if not {"input_price", "output_price"} <= listed.get(arm, {}).keys():
            raise DataError(f"{path}: no price for {arm!r}")
    return listed


def _info(candidate: Mapping[str, Any], price: Price) -> ArmInfo:
    size = _SIZE.fullmatch(str(candidate.get("size", "")))
    return ArmInfo(str(candidate.get("feature", "")), float(size.group(1)) if size else None, price)


DATASET: Final = DataSet(
    name="llmrouter-9llm",
    title="12 tasks, 9 open models of 7B to 70B, graded scores, proxy dollars",
    licence="MIT",
    source="https://github.com/ulab-uiuc/LLMRouter",
    convert=convert,
)
