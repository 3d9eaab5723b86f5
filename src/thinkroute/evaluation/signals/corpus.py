"""Texts to distil from and labelled texts to fit heads on, from the public sets whose licence allows shipping."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final
from zlib import crc32

import numpy as np

from thinkroute.evaluation.datasets.labelled import AUTHORED, LICENCES, LabelledText
from thinkroute.evaluation.splits import normalise
from thinkroute.signals.domains import DOMAINS
from thinkroute.signals.head_training import Examples

_BREAK: Final = re.compile(r"(?<=[.?!:])\s+|\n+")
_OPTIONS: Final = "\nA. "
_SPAN_CHARS: Final = 240
_MOST_OF_MATHEMATICS: Final[Mapping[str, int]] = {"gsm8k": 3500, "math": 3500, "gsm8k-anytime-4budget": 500}
"""Texts distilled from, whole ones first: more of the same words teach nothing."""
_MOST_PER_KIND: Final = 1200
"""Texts of one source with the same labels that heads are fitted on, at most: they bring nothing new beyond."""
_EVEN_PER_KIND: Final = 600.0
"""Weight that all texts of one source with the same labels have together, at most: arithmetic must not be half of all."""
_AUTHORED_WEIGHT: Final = 10.0
"""Weight of a prompt as people type them. Examinations outnumber them a hundred to one, and users send none; with equal
weight the likeliest domain of authored prompts left out is right for .45 of them, with this for .57."""


def distillation_texts(labelled: Sequence[LabelledText]) -> list[str]:
    """A short span of every text, each once: the teacher's time grows with length, the table's need does not."""
    taken: Counter[str] = Counter()
    found: dict[str, None] = {}
    for row in sorted(labelled, key=lambda row: len(row.text) > _SPAN_CHARS):
        span = _span(row.text.strip())
        if span and taken[row.source] < _MOST_OF_MATHEMATICS.get(row.source, len(labelled)):
            taken[row.source] += 1
            found[span] = None
    return list(found)


def _span(text: str) -> str:
    """The text itself when short, else one span of whole sentences, drawn by the text's checksum."""
    if len(text) <= _SPAN_CHARS:
        return text
    packed = list(_packed(_BREAK.split(text)))
    return packed[crc32(text.encode("utf-8", "replace")) % len(packed)]


def _packed(sentences: Sequence[str]) -> Iterator[str]:
    span = ""
    for sentence in sentences:
        if span and len(span) + len(sentence) > _SPAN_CHARS:
            yield span
            span = ""
        span = f"{span} {sentence}".strip()[:_SPAN_CHARS]
    if span:
        yield span


def head_examples(labelled: Sequence[LabelledText]) -> Examples:
    """Examples for all heads: domains first, then `hard`. Questions with options count once more without them."""
    rows = [found for found in labelled if found.domains is not None or found.ease is not None]
    rows = [row for kept in _kept(rows) for row in _views(kept)]
    kinds = Counter(_kind(row) for row in rows)
    target_QL = np.full((len(rows), len(DOMAINS) + 1), np.nan)
    for place, row in enumerate(rows):
        for column, domain in enumerate(DOMAINS):
            if row.domains is not None and domain in row.domains:
                target_QL[place, column] = row.domains[domain]
        if row.ease is not None:
            target_QL[place, -1] = 1.0 - row.ease
    return Examples(
        texts=[row.text for row in rows],
        groups=[normalise(stem(row.text)) for row in rows],
        target_QL=target_QL,
        weight_Q=np.array([_weight(row, kinds[_kind(row)]) for row in rows]),
        authored_Q=np.array([row.source == AUTHORED for row in rows]),
    )


def _weight(row: LabelledText, as_many: int) -> float:
    return _AUTHORED_WEIGHT if row.source == AUTHORED else min(1.0, _EVEN_PER_KIND / as_many)


def sources(labelled: Sequence[LabelledText]) -> dict[str, str]:
    """Every source, its licence and how many texts of it were used."""
    count = Counter(found.source for found in labelled)
    return {source: f"{LICENCES[source]}, {number} texts" for source, number in count.items()}


def _kept(rows: Sequence[LabelledText]) -> Iterator[LabelledText]:
    """At most so many of a kind, each text once, in an order that only the texts decide."""
    taken: Counter[tuple[object, ...]] = Counter()
    seen: set[str] = set()
    for row in sorted(rows, key=lambda row: crc32(row.text.encode("utf-8", "replace"))):
        key = normalise(row.text)
        if taken[_kind(row)] < _MOST_PER_KIND and key not in seen:
            taken[_kind(row)] += 1
            seen.add(key)
            yield row


def _kind(row: LabelledText) -> tuple[object, ...]:
    labels = None if row.domains is None else tuple(sorted(row.domains.items()))
    return row.source, labels, row.ease is None


def _views(row: LabelledText) -> list[LabelledText]:
    question = stem(row.text)
    if question == row.text or not question:
        return [row]
    # Without its options a question is another question: how hard that one is, nobody measured.
    return [row, LabelledText(question, row.source, row.domains)]


def stem(text: str) -> str:
    """A question without its options."""
    return text.partition(_OPTIONS)[0].strip()
