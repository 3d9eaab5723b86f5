"""RouteLLM's MT-Bench judgements: GPT-4 grades 1 to 10 for each turn of GPT-4-1106 and Mixtral-8x7B.

Quality is the grade mapped linearly from [1, 10] to [0, 1]. Each turn is a query of its own with only its own text:
the second turn's context is not in the source. Dollars are the same proxy as for `routellm-mmlu`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from thinkroute.errors import DataError
from thinkroute.evaluation.datasets.routellm_mmlu import BYTES_PER_TOKEN, USD_PER_MTOK
from thinkroute.evaluation.datasets.source import Cells, DataSet, read_rows
from thinkroute.routers.table import OutcomeTable

_WORST, _BEST = 1.0, 10.0


def convert(folder: Path) -> OutcomeTable:
    """Read `mtbench_gpt4_vs_mixtral_judgements.csv.gz`."""
    found = Cells()
    for row in read_rows(folder / "mtbench_gpt4_vs_mixtral_judgements.csv.gz"):
        query = f"mtbench-{row.text('question_id')}-{row.text('turn')}"
        arm, grade = row.text("model"), row.number("score")
        if arm not in USD_PER_MTOK or not _WORST <= grade <= _BEST:
            raise DataError(
                f"{row.path}: row {row.line}: model {arm!r} with score {grade} is not of this set"
            )
        text = found.texts.setdefault(query, row.text("turn_prompt"))
        found.tasks[query] = row.text("category")
        found.cells[query, arm] = {
            "quality": (grade - _WORST) / (_BEST - _WORST),
            "cost_usd": USD_PER_MTOK[arm] * len(text.encode()) / BYTES_PER_TOKEN / 1e6,
        }
    return found.table({"source": DATASET.source, "licence": DATASET.licence, "cost_basis": "proxy"})


DATASET: Final = DataSet(
    name="routellm-mtbench",
    title="MT-Bench, 80 questions of 2 turns, GPT-4 against Mixtral-8x7B, judged, proxy dollars",
    licence="Apache-2.0",
    source="https://github.com/lm-sys/RouteLLM",
    convert=convert,
)
