"""Making the static table and measuring how much of its teacher it keeps.

Quality is told on texts that nothing was distilled from: how well cosines of random pairs agree with the teacher's,
and how many of the teacher's ten nearest neighbours are among the table's ten.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from thinkroute.evaluation.datasets import convert
from thinkroute.evaluation.datasets.labelled import LabelledText
from thinkroute.evaluation.datasets.source import read_rows
from thinkroute.evaluation.signals.corpus import stem
from thinkroute.evaluation.splits import normalise
from thinkroute.signals.base import Matrix
from thinkroute.signals.distil import Recipe, Teacher, distil
from thinkroute.signals.static_table import CARD_FILE, TABLE_FILE, StaticTable, pack, unpack

_PAIRS: Final = 20_000
_ASKED: Final = 300
_NEIGHBOURS: Final = 10
_HELD_OUT: Final = 1000
"""Texts of each held-out set, at most: the teacher reads them all."""
_HELD_OUT_CHARS: Final = 300


class TableCard(msgspec.Struct, frozen=True, kw_only=True):
    """What a human reads before trusting the table."""

    teacher: str
    teacher_source: str
    licence: str
    recipe: dict[str, float]
    tokens: int
    dimension: int
    bytes: int
    sources: dict[str, str]
    """What it was distilled from: set → licence and number of texts."""
    texts: int
    """Spans distilled from."""
    held_out: dict[str, dict[str, float]]
    """Set → agreement with the teacher on texts nothing was distilled from."""
    created: str
    thinkroute_version: str
    command: str
    sha256: str


@dataclass(frozen=True)
class Origin:
    """Where the teacher comes from, and how the command was called."""

    teacher: str
    source: str
    licence: str
    command: str


def make_table(
    teacher: Teacher,
    texts: Sequence[str],
    held_out: Mapping[str, Sequence[str]],
    recipe: Recipe,
    origin: Origin,
    sources: Mapping[str, str],
) -> tuple[bytes, TableCard]:
    """Distil, measure, and describe."""
    raw = pack(list(teacher.vocabulary), distil(teacher, texts, recipe))
    table = unpack(raw)
    card = TableCard(
        teacher=origin.teacher,
        teacher_source=origin.source,
        licence=origin.licence,
        recipe={"pull": recipe.pull, "steps": recipe.steps},
        tokens=len(table.rows_VD),
        dimension=table.dimension,
        bytes=len(raw),
        sources=dict(sources),
        texts=len(texts),
        held_out={name: agreement(teacher, table, found) for name, found in held_out.items()},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        thinkroute_version=package_version("thinkroute"),
        command=origin.command,
        sha256=hashlib.sha256(raw).hexdigest(),
    )
    return raw, card


def write_table(raw: bytes, card: TableCard, folder: Path) -> None:
    """Write the table and its card."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TABLE_FILE).write_bytes(raw)
    (folder / CARD_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n")


def held_out_texts(root: Path, labelled: Sequence[LabelledText]) -> dict[str, list[str]]:
    """Short texts that nothing is distilled from: general questions, mathematics, examinations."""
    learned = {normalise(stem(found.text)) for found in labelled}
    questions = [row.text("instruction") for row in read_rows(root / "questions" / "hotpotqa_4k.jsonl.gz")]
    found = {
        # The first line says that a question follows, in every row.
        "hotpotqa": [text.partition("Question: ")[2] for text in questions],
        "bigmath-solverate": convert("bigmath-solverate", root / "bigmath-solverate").texts,
        "routerdc-7llm": [
            text for text in convert("routerdc-7llm", root / "routerdc-7llm").texts if text.isascii()
        ],
    }
    # Sets share questions: what stands in the corpus under whatever name is not held out.
    fresh = {
        name: [text for text in texts if normalise(stem(text)) not in learned]
        for name, texts in found.items()
    }
    return {name: _sample(texts) for name, texts in fresh.items()}


def agreement(teacher: Teacher, table: StaticTable, texts: Sequence[str]) -> dict[str, float]:
    """Correlation of cosines over random pairs, and the share of the teacher's nearest neighbours that are kept."""
    taught_QE = teacher.of_texts(texts)
    found_QD = np.stack([table.topic(table.tokens(text.encode("utf-8", "replace"))) for text in texts])
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, len(texts), (2, _PAIRS))
    asked = rng.choice(len(texts), size=min(_ASKED, len(texts)), replace=False)
    cosines = [(vectors[left] * vectors[right]).sum(axis=1) for vectors in (taught_QE, found_QD)]
    near_taught, near_found = (_nearest(vectors, asked) for vectors in (taught_QE, found_QD))
    kept = [len(set(a) & set(b)) / _NEIGHBOURS for a, b in zip(near_taught, near_found, strict=True)]
    return {
        "texts": float(len(texts)),
        "cosine_correlation": round(float(np.corrcoef(cosines[0], cosines[1])[0, 1]), 4),
        "nearest_ten_kept": round(float(np.mean(kept)), 4),
    }


def _nearest(vectors_QD: Matrix, asked: np.typing.NDArray[np.intp]) -> list[list[int]]:
    cosine_AQ = vectors_QD[asked] @ vectors_QD.T
    cosine_AQ[np.arange(len(asked)), asked] = -np.inf
    return np.argsort(-cosine_AQ, axis=1)[:, :_NEIGHBOURS].tolist()


def _sample(texts: Sequence[str]) -> list[str]:
    short = [text for text in dict.fromkeys(texts) if 0 < len(text) <= _HELD_OUT_CHARS]
    chosen = np.random.default_rng(0).permutation(len(short))[:_HELD_OUT]
    return [short[int(place)] for place in chosen]
