"""Making the signal heads and measuring them, on left-out texts and on sets never trained on."""

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
from thinkroute.evaluation.signals.corpus import head_examples, sources
from thinkroute.evaluation.splits import normalise
from thinkroute.signals.calibration import Floats, auroc, spearman
from thinkroute.signals.domains import DOMAINS, Domain
from thinkroute.signals.head_training import Examples, HeadReport, fit_heads
from thinkroute.signals.heads import HeadArrays, Heads, pack_heads
from thinkroute.signals.semantic import (
    CARD_FILE,
    FORMAT,
    HARD,
    HEADS_FILE,
    LABELS,
    HeadCard,
    SemanticSignals,
    SignalsCard,
)
from thinkroute.signals.static_table import StaticTable

_YES_PRECISION: Final = 0.85
"""A domain is said to be there from the probability on at which left-out texts bear out this many of the claims."""
_NO_PRECISION: Final = 0.985
"""… and said not to be there up to the probability at which this many of the denials are borne out."""
_HARD_YES, _HARD_NO = 0.6, 0.4
"""`hard` is a chance itself, so its thresholds are plain."""

ARENA_DOMAINS: Final[Mapping[str, Domain]] = {
    "AsDiv": "mathematics", "MathQA": "mathematics", "MATH": "mathematics", "AIME": "mathematics",
    "MMLUPro_math": "mathematics", "LiveCodeBench": "programming", "MMLUPro_computer science": "technology",
    "OpenTDB_Science: Computers": "technology", "MMLUPro_engineering": "technology", "PubMedQA": "medicine",
    "MedMCQA": "medicine", "MMLUPro_health": "medicine", "MMLUPro_biology": "natural_science",
    "MMLUPro_chemistry": "natural_science", "MMLUPro_physics": "natural_science",
    "MMLUPro_history": "history", "QANTA_History": "history", "OpenTDB_History": "history",
    "MMLUPro_law": "law", "MMLUPro_economics": "business", "MMLUPro_business": "business",
    "MMLU_management": "business", "MMLUPro_philosophy": "philosophy", "QANTA_Philosophy": "philosophy",
    "MMLUPro_psychology": "social_science",
}  # fmt: skip
"""What RouterArena's sets are about; for measuring only."""


@dataclass(frozen=True)
class Trained:
    """Heads, their card, and everything a plot needs."""

    arrays: HeadArrays
    card: SignalsCard
    reports: Mapping[str, HeadReport]
    examples: Examples
    left_out_QL: Floats
    """Calibrated predictions for each text by heads that had not seen it."""


def train(labelled: Sequence[LabelledText], table: StaticTable, root: Path, command: str) -> Trained:
    """Fit and measure all heads."""
    examples = head_examples(labelled)
    arrays, reports, probability_QL = fit_heads(examples, table)
    floor = _authored_floor(examples, probability_QL)
    heads = tuple(
        _head_card(label, reports[place], probability_QL[:, place], examples.target_QL[:, place], floor)
        for place, label in enumerate(LABELS)
    )
    card = SignalsCard(
        format=FORMAT,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        thinkroute_version=package_version("thinkroute"),
        command=command,
        table_sha256=table.digest,
        sources=sources(labelled),
        heads=heads,
        measured=measure(SemanticSignals(Heads(arrays, table), _bare(heads)), root),
        numbers_sha256=hashlib.sha256(pack_heads(arrays)).hexdigest(),
    )
    return Trained(arrays, card, dict(zip(LABELS, reports, strict=True)), examples, probability_QL)


def write_heads(trained: Trained, folder: Path) -> None:
    """Write the heads and their card."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HEADS_FILE).write_bytes(pack_heads(trained.arrays))
    (folder / CARD_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(trained.card), indent=2) + b"\n")


def measure(signals: SemanticSignals, root: Path) -> dict[str, float]:
    """Heads on sets never trained on: Big-Math's solve rates, RouterArena's subjects."""
    table = convert("bigmath-solverate", root / "bigmath-solverate")
    missed_Q = 1.0 - table.quality_QA[:, 0]
    hard_Q = np.array([_probability(signals, text, HARD) for text in table.texts])
    return {
        "bigmath_hard_spearman": round(spearman(hard_Q, missed_Q), 4),
        "bigmath_hard_auroc": round(auroc(hard_Q, missed_Q > 0.5), 4),
        **_arena(signals, root),
    }


def difficulty_elsewhere(table: StaticTable, root: Path) -> HeadReport:
    """A difficulty head of the same kind fitted on Big-Math's solve rates alone, over texts left out by fold.

    For measuring only, and not shipped: the set comes without a licence file. Folds are by normalised question text.
    """
    found = convert("bigmath-solverate", root / "bigmath-solverate")
    texts = list(found.texts)
    examples = Examples(
        texts=texts,
        groups=[normalise(text) for text in texts],
        target_QL=1.0 - found.quality_QA[:, :1],
        weight_Q=np.ones(len(texts)),
    )
    return fit_heads(examples, table)[1][0]


def _arena(signals: SemanticSignals, root: Path) -> dict[str, float]:
    table = convert("routerarena-sub10", root / "routerarena-sub10")
    rows = [
        (text, ARENA_DOMAINS[task])
        for text, task in zip(table.texts, table.tasks, strict=True)
        if task in ARENA_DOMAINS
    ]
    return {f"routerarena_{name}": value for name, value in domain_accuracy(signals, rows).items()}


def domain_accuracy(signals: SemanticSignals, rows: Sequence[tuple[str, Domain]]) -> dict[str, float]:
    """How texts of one known domain are answered: the likeliest domain, and every yes and no about the known one."""
    read = [{signal.name: signal for signal in signals.read(text).signals} for text, _ in rows]
    likeliest = [max(DOMAINS, key=lambda name: found[name].probability) for found in read]
    answers = [found[domain].answer for found, (_, domain) in zip(read, rows, strict=True)]
    said_yes = [
        (name, domain)
        for found, (_, domain) in zip(read, rows, strict=True)
        for name in DOMAINS
        if found[name].answer == "yes"
    ]
    return {
        "texts": float(len(rows)),
        "likeliest_right": round(
            float(np.mean([a == b for a, (_, b) in zip(likeliest, rows, strict=True)])), 4
        ),
        "answered_yes": round(answers.count("yes") / len(rows), 4),
        "answered_no": round(answers.count("no") / len(rows), 4),
        "yes_right": round(float(np.mean([a == b for a, b in said_yes])), 4) if said_yes else 0.0,
    }


def _probability(signals: SemanticSignals, text: str, label: str) -> float:
    return signals.read(text).signals[LABELS.index(label)].probability


def _authored_floor(examples: Examples, probability_QL: Floats) -> tuple[float, float]:
    """Thresholds over all domains of the authored prompts together: too few to tell for each domain alone."""
    rows = (
        np.ones(len(examples.texts), dtype=np.bool_) if examples.authored_Q is None else examples.authored_Q
    )
    probability, target = probability_QL[rows][:, :-1].ravel(), examples.target_QL[rows][:, :-1].ravel()
    known = ~np.isnan(target)
    return thresholds(probability[known], target[known]) if known.any() else (0.5, 0.25)


def _head_card(
    label: str, report: HeadReport, probability_Q: Floats, target_Q: Floats, floor: tuple[float, float]
) -> HeadCard:
    known = ~np.isnan(target_Q)
    probability, target = probability_Q[known], target_Q[known]
    yes_at, no_at = thresholds(probability, target)
    # An answer must be borne out on all texts, and on texts as users type them.
    yes_at, no_at = max(yes_at, floor[0]), min(no_at, floor[1])
    if label == HARD:
        yes_at, no_at = _HARD_YES, _HARD_NO
    yes, no = probability >= yes_at, probability <= no_at
    return HeadCard(
        label=label,
        yes_at=yes_at,
        no_at=no_at,
        texts=report.texts,
        mean=round(report.mean, 4),
        auroc=round(report.auroc, 4),
        spearman=round(report.spearman, 4),
        ece=round(report.ece, 4),
        answered=round(float((yes | no).mean()), 4),
        right_when_yes=round(float(target[yes].mean()), 4) if yes.any() else None,
        right_when_no=round(float(1 - target[no].mean()), 4) if no.any() else None,
    )


def thresholds(probability_Q: Floats, target_Q: Floats) -> tuple[float, float]:
    """From where on yes, and up to where no, are borne out often enough on left-out texts."""
    order = np.argsort(-probability_Q, kind="stable")
    sorted_Q, true_Q = probability_Q[order], target_Q[order]
    precise = np.cumsum(true_Q) / np.arange(1, len(true_Q) + 1) >= _YES_PRECISION
    denied = np.cumsum(1 - true_Q[::-1]) / np.arange(1, len(true_Q) + 1) >= _NO_PRECISION
    yes_at = float(sorted_Q[np.flatnonzero(precise)[-1]]) if precise.any() else 1.0
    no_at = float(sorted_Q[::-1][np.flatnonzero(denied)[-1]]) if denied.any() else 0.0
    yes_at = round(max(yes_at, 0.5), 3)
    return yes_at, round(min(no_at, 0.5 * yes_at), 3)


def _bare(heads: tuple[HeadCard, ...]) -> SignalsCard:
    return SignalsCard(
        format=FORMAT, created="", thinkroute_version="", command="", table_sha256="", sources={}, heads=heads,
        measured={}, numbers_sha256="",
    )  # fmt: skip
