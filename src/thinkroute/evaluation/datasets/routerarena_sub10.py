"""RouterArena's 10 % split: two models with measured dollars and token counts.

Its rules forbid training on it for its leaderboard; the note `use` says so. One model is both better and cheaper,
which makes it a good check that a router notices.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from thinkroute.evaluation.datasets.source import Cells, DataSet, read_rows
from thinkroute.routers.table import OutcomeTable


def convert(folder: Path) -> OutcomeTable:
    """Read `routerarena_sub10_sample.csv.gz`."""
    found = Cells()
    for row in read_rows(folder / "routerarena_sub10_sample.csv.gz"):
        query, arm = row.text("global_index"), row.text("model")
        found.texts.setdefault(query, row.text("question"))
        found.tasks[query] = row.text("dataset")
        found.cells[query, arm] = {
            "quality": row.number("score"),
            "cost_usd": row.number("inference_cost"),
            "prompt_tokens": row.number("input_tokens"),
            "answer_tokens": row.number("output_tokens"),
        }
    return found.table(
        {
            "source": DATASET.source,
            "licence": DATASET.licence,
            "cost_basis": "measured",
            "use": "evaluation only: RouterArena forbids training on its data for its leaderboard",
        }
    )


DATASET: Final = DataSet(
    name="routerarena-sub10",
    title="RouterArena's 10 % split, 2 models, measured dollars and tokens",
    licence="Apache-2.0",
    source="https://github.com/RouteWorks/RouterArena",
    convert=convert,
)
