"""RouterBench zero-shot (ARC-challenge, MBPP, WinoGrande): eleven models with measured dollars per call.

A few scores are empty in the source. The paper's code counts them as wrong; here they stay missing.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

from thinkroute.errors import DataError
from thinkroute.evaluation.datasets.source import DataSet, RemoteFile, Row, read_rows, wide_table
from thinkroute.routers.table import OutcomeTable

_COST: Final = "|total_cost"
_JOINED: Final = "routerbench_0shot_3task_train.csv.gz"
_PARTS: Final = ("arc_challenge_train.csv", "mbpp_train.csv", "winograde_train.csv")
_ROOT: Final = (
    "https://raw.githubusercontent.com/shuhao02/RouterDC/1963d6874b69c94309ea37a34d7d4cd6f527e7c5/"
    "datasets/routerbench_zs"
)


def convert(folder: Path) -> OutcomeTable:
    """Read the joined file, or else the three files as published."""
    paths = [folder / _JOINED] if (folder / _JOINED).is_file() else [folder / part for part in _PARTS]
    rows = [row for path in paths for row in read_rows(path)]
    arms = tuple(
        dict.fromkeys(c.removesuffix(_COST) for row in rows for c in row.fields if c.endswith(_COST))
    )
    if not arms:
        raise DataError(f"{paths[0]}: no column ends in {_COST!r}")
    return wide_table(
        rows,
        arms=arms,
        ids=_ids(rows),
        texts=[_query(row) for row in rows],
        tasks=[row.text("eval_name") for row in rows],
        measured={"quality": Row.number, "cost_usd": lambda row, arm: row.number(arm + _COST)},
        notes={"source": DATASET.source, "licence": DATASET.licence, "cost_basis": "measured"},
    )


def _ids(rows: Sequence[Row]) -> list[str]:
    """Sample ids; seven of them stand twice in the source, the second time with `#2`."""
    seen: Counter[str] = Counter()
    ids: list[str] = []
    for row in rows:
        sample = row.text("sample_id")
        seen[sample] += 1
        ids.append(sample if seen[sample] == 1 else f"{sample}#{seen[sample]}")
    return ids


def _query(row: Row) -> str:
    """The plain text; as published the prompt is a Python list of strings written as text."""
    if row.fields.get("query"):
        return row.fields["query"]
    prompt = row.text("prompt")
    try:
        parts: object = ast.literal_eval(prompt)
    except (ValueError, SyntaxError) as error:
        raise DataError(f"{row.path}: row {row.line}: column 'prompt' is not a list of strings") from error
    return "\n".join(map(str, cast("list[object]", parts))) if isinstance(parts, list) else str(parts)


DATASET: Final = DataSet(
    name="routerbench-11llm",
    title="RouterBench zero-shot, 3 tasks, 11 models, measured dollars",
    licence="upstream withmartian/routerbench: MIT; the copy used has no licence file",
    source="https://github.com/shuhao02/RouterDC",
    convert=convert,
    remote=tuple(RemoteFile(f"{_ROOT}/{part}", part) for part in _PARTS),
)
