"""One model on GSM8K under four output budgets: the arms are budgets.

The source has texts, not token counts: answer tokens are words × TOKENS_PER_WORD, cut at the budget (note
`token_basis: estimated`). An answer that lacks its closing confidence line was cut by its budget and counts as
`length`, others as `stop`. No dollars.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from thinkroute.evaluation.datasets.source import Cells, DataSet, RemoteFile, first_file, read_rows
from thinkroute.routers.table import OutcomeTable

TOKENS_PER_WORD: Final = 1.3
_ROOT: Final = (
    "https://raw.githubusercontent.com/altieriumb7/adaptive-anytime-llm-routing/"
    "310cd40aa9323b7c13c5e55887a8fd623d789176/results_abl"
)


def convert(folder: Path) -> OutcomeTable:
    """Read `preds_main_adapter.csv.gz`, or `preds_main_adapter.jsonl` as published."""
    found = Cells()
    for row in read_rows(first_file(folder, "preds_main_adapter.csv.gz", "preds_main_adapter.jsonl")):
        query, budget = row.text("uid"), int(row.number("max_new_tokens"))
        arm = f"gsm8k-adapter@budget={budget}"
        answer = row.text("raw_text")
        found.texts.setdefault(query, row.text("problem"))
        found.tasks[query] = "gsm8k"
        found.cells[query, arm] = {
            "quality": row.number("correct"),
            "answer_tokens": min(round(len(answer.split()) * TOKENS_PER_WORD), budget),
        }
        found.finish[query, arm] = "stop" if "CONF:" in answer else "length"
    return found.table(
        {
            "source": DATASET.source,
            "licence": DATASET.licence,
            "cost_basis": "none",
            "token_basis": "estimated",
        }
    )


DATASET: Final = DataSet(
    name="gsm8k-anytime-4budget",
    title="GSM8K, one model under four output budgets, right or wrong, estimated tokens",
    licence="MIT",
    source="https://github.com/altieriumb7/adaptive-anytime-llm-routing",
    convert=convert,
    remote=(RemoteFile(f"{_ROOT}/preds_main_adapter.jsonl", "preds_main_adapter.jsonl"),),
)
