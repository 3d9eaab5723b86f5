"""Metrics as JSON lines, one per step. A run that continues from a checkpoint forgets the lines after it. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import cast


class MetricsFile:
    """One run's metrics."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one step."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(
                json.dumps({"step": step, **{key: round(value, 6) for key, value in values.items()}}) + "\n"
            )

    def read(self) -> list[dict[str, float]]:
        """All steps, in order."""
        if not self._path.exists():
            return []
        lines = self._path.read_text(encoding="utf-8").splitlines()
        return [cast("dict[str, float]", json.loads(line)) for line in lines]

    def forget_from(self, step: int) -> None:
        """Drop everything from a step on."""
        kept = [row for row in self.read() if row["step"] < step]
        self._path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")


def mean_terms(terms: Iterable[Mapping[str, float]], prefix: str) -> dict[str, float]:
    """The mean of every named term; one that a row lacks counts as zero there."""
    rows = list(terms)
    names = dict.fromkeys(name for row in rows for name in row)
    return {f"{prefix}{name}": fmean(row.get(name, 0.0) for row in rows) for name in names}
