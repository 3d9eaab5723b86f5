"""LLMRouter's 12-task set: nine open models, one score each per query.

The source publishes prices but no token counts, so dollars are a proxy (note `cost_basis: proxy`): prompt bytes / 4
input tokens and ASSUMED_OUTPUT_TOKENS output tokens at the published price. It ranks arms by price and queries by
prompt length; how much longer one model's answers are than another's it cannot know.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, cast

from thinkroute.errors import DataError
from thinkroute.evaluation.datasets.source import DataSet, Row, model_columns, read_rows, wide_table
from thinkroute.routers.table import OutcomeTable
from thinkroute.types import Price

BYTES_PER_TOKEN: Final = 4
ASSUMED_OUTPUT_TOKENS: Final = 200
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
    prices = _prices(folder / "llm_candidates.json", arms)

    def proxy_usd(row: Row, arm: str) -> float:
        prompt_tokens = len(row.text("question").encode()) / BYTES_PER_TOKEN
        return prices[arm].cost_usd(prompt_tokens, ASSUMED_OUTPUT_TOKENS)

    return wide_table(
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


def _prices(path: Path, arms: tuple[str, ...]) -> dict[str, Price]:
    try:
        listed = cast("dict[str, dict[str, Any]]", json.loads(path.read_text(encoding="utf-8")))
        return {
            arm: Price(float(listed[arm]["input_price"]), float(listed[arm]["output_price"])) for arm in arms
        }
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: the price list is not readable: {error}") from error
    except KeyError as error:
        raise DataError(f"{path}: no price for {error.args[0]!r}") from error


DATASET: Final = DataSet(
    name="llmrouter-9llm",
    title="12 tasks, 9 open models of 7B to 70B, graded scores, proxy dollars",
    licence="MIT",
    source="https://github.com/ulab-uiuc/LLMRouter",
    convert=convert,
)
