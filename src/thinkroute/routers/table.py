"""The outcome table in memory: queries by arms, one matrix per measured quantity.

Owns the matrix form that routers are fitted on and its laws; reading and writing files is
`thinkroute.evaluation.outcomes`. A missing cell is NaN everywhere and stays missing: it is neither zero nor wrong.
Shape letters: Q queries, A arms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import DataError
from thinkroute.types import Outcome, Price, Query

FloatArray: TypeAlias = NDArray[np.float64]
Measure: TypeAlias = Literal[
    "quality", "prompt_tokens", "reasoning_tokens", "answer_tokens", "cost_usd", "ttft_s", "latency_s"
]

MEASURES: Final[tuple[Measure, ...]] = (
    "quality",
    "prompt_tokens",
    "reasoning_tokens",
    "answer_tokens",
    "cost_usd",
    "ttft_s",
    "latency_s",
)
"""Every quantity a table can hold, in the order of its columns."""


@dataclass(frozen=True)
class ArmInfo:
    """What is known of an arm beside its outcomes: all that a router can go by for an arm without any."""

    description: str = ""
    """In words: what it is, what it is good at."""
    parameters_b: float | None = None
    """Size in billions of parameters, None where unknown."""
    price: Price | None = None
    """Published price, None where unknown."""


@dataclass(frozen=True)
class OutcomeTable:
    """What every arm did on every query, as far as it was measured."""

    query_ids: tuple[str, ...]
    """Unique ids, one per row Q."""
    texts: tuple[str, ...]
    """The text a router may read."""
    arms: tuple[str, ...]
    """Unique arm ids, one per column A."""
    measured: Mapping[Measure, FloatArray]
    """Matrices (Q, A) with NaN for missing cells; always has `quality`."""
    tasks: tuple[str | None, ...] = ()
    """Task label per query, None where there is none. Empty means none has one."""
    splits: tuple[str | None, ...] = ()
    """The source's own split (`train`, `test`, …) per query."""
    finish_QA: NDArray[np.str_] | None = None
    """Why each answer ended (`stop`, `length`, …), "" where unknown."""
    propensity_QA: FloatArray | None = None
    """Probability with which the logging policy chose the cell, for tables made from decision logs."""
    weight_Q: FloatArray | None = None
    """Importance of each query; None means equal."""
    notes: Mapping[str, str] = field(default_factory=dict[str, str])
    """Provenance: `source`, `licence`, `cost_basis` (`measured`, `proxy`, `none`), …"""
    arm_info: Mapping[str, ArmInfo] = field(default_factory=dict[str, ArmInfo])
    """Descriptions by arm id; arms may be absent, and ids need not be columns. Not part of the digest."""

    def __post_init__(self) -> None:
        for name in ("tasks", "splits"):
            if not getattr(self, name):
                object.__setattr__(self, name, (None,) * len(self.query_ids))
        self._check_lengths()
        self._check_values()

    def _check_lengths(self) -> None:
        rows, columns = len(self.query_ids), len(self.arms)
        for name in ("texts", "tasks", "splits"):
            if len(getattr(self, name)) != rows:
                raise DataError(f"outcome table: {len(getattr(self, name))} {name} for {rows} queries")
        if len(set(self.query_ids)) != rows:
            raise DataError(f"outcome table: query id {_first_repeated(self.query_ids)!r} occurs twice")
        if len(set(self.arms)) != columns:
            raise DataError(f"outcome table: arm {_first_repeated(self.arms)!r} occurs twice")
        if "quality" not in self.measured:
            raise DataError("outcome table: the quality matrix is missing")
        matrices = {**self.measured, "finish": self.finish_QA, "propensity": self.propensity_QA}
        for name, matrix in matrices.items():
            if matrix is not None and matrix.shape != (rows, columns):
                raise DataError(f"outcome table: {name} has shape {matrix.shape}, expected {(rows, columns)}")

    def _check_values(self) -> None:
        for measure, matrix_QA in self.measured.items():
            bad = np.isinf(matrix_QA) | (matrix_QA < 0)
            if measure == "quality":
                bad |= matrix_QA > 1
            if bad.any():
                row, column = (int(index[0]) for index in np.nonzero(bad))
                allowed = "in [0, 1]" if measure == "quality" else "finite and >= 0"
                raise DataError(
                    f"outcome table: {measure} of query {self.query_ids[row]!r} and arm {self.arms[column]!r} is "
                    f"{matrix_QA[row, column]}, expected {allowed}"
                )

    @property
    def quality_QA(self) -> FloatArray:
        """Graded quality in [0, 1], NaN where not measured."""
        return self.measured["quality"]

    @property
    def cost_usd_QA(self) -> FloatArray | None:
        """Dollars per cell, None when the table has no dollars at all."""
        return self.measured.get("cost_usd")

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The quantities with at least one measured cell, quality first."""
        return tuple(m for m in MEASURES if m == "quality" or self._any(m))

    def _any(self, measure: Measure) -> bool:
        return measure in self.measured and not bool(np.isnan(self.measured[measure]).all())

    def __len__(self) -> int:
        return len(self.query_ids)

    def queries(self) -> tuple[Query, ...]:
        """Every row as a routing query."""
        return tuple(Query(text=text, task=task) for text, task in zip(self.texts, self.tasks, strict=True))

    def take(self, rows: Sequence[int] | NDArray[np.intp] | NDArray[np.bool_]) -> OutcomeTable:
        """The table of these rows, in this order (or of the rows where a mask is true)."""
        index = np.arange(len(self))[np.asarray(rows)]
        pick = [int(row) for row in index]
        return replace(
            self,
            query_ids=tuple(self.query_ids[row] for row in pick),
            texts=tuple(self.texts[row] for row in pick),
            tasks=tuple(self.tasks[row] for row in pick),
            splits=tuple(self.splits[row] for row in pick),
            measured={name: matrix[index] for name, matrix in self.measured.items()},
            finish_QA=None if self.finish_QA is None else self.finish_QA[index],
            propensity_QA=None if self.propensity_QA is None else self.propensity_QA[index],
            weight_Q=None if self.weight_Q is None else self.weight_Q[index],
        )

    def select_arms(self, arms: Sequence[str]) -> OutcomeTable:
        """The table of these arms, in this order.

        Raises:
            DataError: the table has no such arm.
        """
        unknown = [arm for arm in arms if arm not in self.arms]
        if unknown:
            raise DataError(f"outcome table has no arm {unknown[0]!r}: it has {', '.join(self.arms)}")
        index = np.array([self.arms.index(arm) for arm in arms], dtype=np.intp)
        return replace(
            self,
            arms=tuple(arms),
            measured={name: matrix[:, index] for name, matrix in self.measured.items()},
            finish_QA=None if self.finish_QA is None else self.finish_QA[:, index],
            propensity_QA=None if self.propensity_QA is None else self.propensity_QA[:, index],
        )

    def digest(self) -> str:
        """SHA-256 of queries, arms and every measured cell: changes when any outcome does."""
        sha = hashlib.sha256()
        for strings in (self.query_ids, self.texts, self.arms):
            for text in strings:
                raw = text.encode("utf-8", "surrogatepass")
                sha.update(len(raw).to_bytes(8, "little") + raw)
        for measure in self.measures:
            matrix = np.where(np.isnan(self.measured[measure]), np.nan, self.measured[measure])
            sha.update(measure.encode() + matrix.astype("<f8").tobytes())
        return sha.hexdigest()


def table_from_outcomes(
    queries: Mapping[str, Query], outcomes: Iterable[Outcome], notes: Mapping[str, str] | None = None
) -> OutcomeTable:
    """Arrange measured cells as a table: rows in the order of `queries`, arms in order of first appearance.

    Raises:
        DataError: an outcome of an unknown query, or two outcomes of one cell.
    """
    row_of = {query_id: row for row, query_id in enumerate(queries)}
    cells = list(outcomes)
    arms = tuple(dict.fromkeys(cell.arm_id for cell in cells))
    column_of = {arm: column for column, arm in enumerate(arms)}
    measured: dict[Measure, FloatArray] = {m: np.full((len(row_of), len(arms)), np.nan) for m in MEASURES}
    finish_QA = np.full((len(row_of), len(arms)), "", dtype="U16")
    for cell in cells:
        if cell.query_id not in row_of:
            raise DataError(f"outcome of arm {cell.arm_id!r} names unknown query {cell.query_id!r}")
        at = row_of[cell.query_id], column_of[cell.arm_id]
        if not np.isnan(measured["quality"][at]):
            raise DataError(f"two outcomes of query {cell.query_id!r} and arm {cell.arm_id!r}")
        for measure, value in _numbers(cell).items():
            measured[measure][at] = np.nan if value is None else value
        finish_QA[at] = cell.finish_reason or ""
    return OutcomeTable(
        query_ids=tuple(queries),
        texts=tuple(query.text for query in queries.values()),
        arms=arms,
        measured={
            m: matrix for m, matrix in measured.items() if m == "quality" or not np.isnan(matrix).all()
        },
        tasks=tuple(query.task for query in queries.values()),
        finish_QA=finish_QA if finish_QA.any() else None,
        notes=notes or {},
    )


def _numbers(cell: Outcome) -> dict[Measure, float | None]:
    # A count of unknown provenance is a placeholder, not a measured zero.
    usage = None if cell.usage is None or cell.usage.provenance == "unknown" else cell.usage
    return {
        "quality": cell.quality,
        "prompt_tokens": None if usage is None else usage.prompt_tokens,
        "reasoning_tokens": None if usage is None else usage.reasoning_tokens,
        "answer_tokens": None if usage is None else usage.completion_tokens - usage.reasoning_tokens,
        "cost_usd": cell.cost_usd,
        "ttft_s": cell.ttft_s,
        "latency_s": cell.latency_s,
    }


def _first_repeated(names: Sequence[str]) -> str:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return ""
