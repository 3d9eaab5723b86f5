"""Questions with what the signal heads learn from: domains, and how many answers were right.

Owns which public set says what. Only sets whose licence allows training a shipped artefact are read here; the others
serve for measuring. A domain is known to be there, known not to be, or unknown: a quiz question may well be about
history, so history is unknown of it, not denied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from thinkroute.evaluation.datasets import convert
from thinkroute.evaluation.datasets.source import read_rows
from thinkroute.signals.domains import DOMAINS, Domain

AUTHORED: Final = "authored"
LICENCES: Final[Mapping[str, str]] = {
    AUTHORED: "Apache-2.0 (this project)",
    "routellm-mmlu": "Apache-2.0",
    "llmrouter-9llm": "MIT",
    "gsm8k-anytime-4budget": "MIT",
    "math": "MIT",
    "gsm8k": "MIT",
    "humaneval": "MIT",
    "mbpp": "CC BY 4.0",
}
"""Sources read here and their licences."""

_GENERAL_MODELS: Final = (
    "gemma-2-9b-it",
    "llama-3.1-8b-instruct",
    "llama-3.1-nemotron-51b-instruct",
    "qwen2.5-7b-instruct",
)
"""The arms of llmrouter-9llm that keep to the asked format; what the others miss is mostly format, not difficulty."""
GRADED_TASKS: Final = (
    "agentverse-logicgrid",
    "agentverse-mgsm",
    "arc_challenge",
    "commonsense_qa",
    "gsm8k",
    "human_eval",
    "math",
    "mbpp",
    "mmlu",
)
"""Tasks of llmrouter-9llm whose grade is right or wrong; overlap scores of free answers say little of difficulty."""
_LEVEL_LOGITS: Final = (1.7, 1.0, 0.3, -0.4, -1.1)
"""Ease of MATH's five levels in logits: declared, not measured. Right answers of 8B models fall about so."""

_SOCIAL: Final[tuple[Domain, ...]] = ("social_science",)
_SUBJECTS: Final[Mapping[str, tuple[tuple[Domain, ...], tuple[Domain, ...]]]] = {
    "abstract_algebra": (("mathematics",), ()),
    "anatomy": (("medicine", "natural_science"), ()),
    "astronomy": (("natural_science",), ()),
    "business_ethics": (("business", "philosophy"), ("law", "social_science")),
    "college_biology": (("natural_science",), ("medicine",)),
    "college_chemistry": (("natural_science",), ("mathematics",)),
    "college_computer_science": (("technology",), ("programming", "mathematics")),
    "college_medicine": (("medicine",), ("natural_science",)),
    "college_physics": (("natural_science",), ("mathematics", "technology")),
    "computer_security": (("technology",), ("programming",)),
    "conceptual_physics": (("natural_science",), ("technology",)),
    "electrical_engineering": (("technology",), ("natural_science", "mathematics")),
    "elementary_mathematics": (("mathematics",), ()),
    "global_facts": (_SOCIAL, ("general_knowledge", "history", "business", "medicine")),
    "high_school_biology": (("natural_science",), ("medicine",)),
    "high_school_chemistry": (("natural_science",), ("mathematics",)),
    "high_school_computer_science": (("technology",), ("programming", "mathematics")),
    "high_school_european_history": (("history",), _SOCIAL),
    "high_school_geography": (_SOCIAL, ("general_knowledge", "history", "business")),
    "high_school_government_and_politics": (_SOCIAL, ("law", "history")),
    "high_school_macroeconomics": (("business",), _SOCIAL),
    "high_school_mathematics": (("mathematics",), ()),
    "high_school_microeconomics": (("business",), _SOCIAL),
    "high_school_psychology": (_SOCIAL, ("medicine",)),
    "high_school_statistics": (("mathematics",), ()),
    "high_school_us_history": (("history",), ("law", "social_science")),
    "high_school_world_history": (("history",), _SOCIAL),
    "human_aging": (("medicine",), _SOCIAL),
    "human_sexuality": (("medicine", "social_science"), ("natural_science",)),
    "international_law": (("law",), _SOCIAL),
    "jurisprudence": (("law",), ("philosophy",)),
    "logical_fallacies": (("philosophy",), ()),
    "machine_learning": (("technology",), ("programming", "mathematics")),
    "management": (("business",), _SOCIAL),
    "marketing": (("business",), _SOCIAL),
    "medical_genetics": (("medicine", "natural_science"), ()),
    "miscellaneous": (("general_knowledge",), DOMAINS),
    "moral_disputes": (("philosophy",), ("law", "social_science")),
    "nutrition": (("medicine",), ("natural_science",)),
    "philosophy": (("philosophy",), ()),
    "prehistory": (("history",), ("natural_science", "social_science")),
    "professional_accounting": (("business",), ("law", "mathematics")),
    "professional_law": (("law",), ()),
    "professional_medicine": (("medicine",), ("natural_science",)),
    "professional_psychology": (_SOCIAL, ("medicine",)),
    "public_relations": (("business",), _SOCIAL),
    "security_studies": (_SOCIAL, ("history", "law")),
    "sociology": (_SOCIAL, ("philosophy",)),
    "us_foreign_policy": (_SOCIAL, ("history", "law")),
    "virology": (("medicine", "natural_science"), ()),
}
"""MMLU subject → domains that are there, and domains that may be. Subjects not listed are left out."""

_KNOWLEDGE: Final[tuple[Domain, ...]] = (
    "natural_science", "medicine", "law", "business", "history", "philosophy", "social_science", "technology",
    "everyday",
)  # fmt: skip
_TASKS: Final[Mapping[str, tuple[tuple[Domain, ...], tuple[Domain, ...]]]] = {
    "math": (("mathematics",), ()),
    "gsm8k": (("mathematics",), ("everyday",)),
    "agentverse-mgsm": (("mathematics",), ("everyday",)),
    "mbpp": (("programming",), ()),
    "human_eval": (("programming",), ()),
    "trivia_qa": (("general_knowledge",), _KNOWLEDGE),
    "natural_qa": (("general_knowledge",), _KNOWLEDGE),
    "commonsense_qa": (("everyday",), ("social_science", "general_knowledge")),
    "arc_challenge": (("natural_science",), ("medicine", "technology", "everyday")),
}
"""Task of llmrouter-9llm → the same."""


@dataclass(frozen=True)
class LabelledText:
    """One question."""

    text: str
    source: str
    """Key of `LICENCES`."""
    domains: Mapping[Domain, bool] | None = None
    """What is known to be there or not; domains not listed are unknown. None: nothing is known."""
    ease: float | None = None
    """Share of answers that were right, in [0, 1]; None where nobody was asked."""


def labelled_texts(root: Path) -> list[LabelledText]:
    """Every labelled question of the sets in `root`, authored ones first.

    Raises:
        DataError: a set is missing or damaged.
    """
    readers: tuple[Callable[[Path], Iterator[LabelledText]], ...] = (
        _authored, _mmlu, _llmrouter, _gsm8k_budgets, _math, _gsm8k, _programming,
    )  # fmt: skip
    return [found for read in readers for found in read(root)]


def known_domains(there: tuple[Domain, ...], possible: tuple[Domain, ...]) -> dict[Domain, bool]:
    """Domains that are there, and every other one that is not even possible, denied."""
    return {domain: domain in there for domain in DOMAINS if domain in there or domain not in possible}


def _authored(root: Path) -> Iterator[LabelledText]:
    from thinkroute.evaluation.datasets.authored import authored_prompts

    for text, there in authored_prompts():
        yield LabelledText(text, AUTHORED, known_domains(there, ()))


def _mmlu(root: Path) -> Iterator[LabelledText]:
    table = convert("routellm-mmlu", root / "routellm-mmlu")
    for text, subject, quality_A in zip(table.texts, table.tasks, table.quality_QA, strict=True):
        labels = _SUBJECTS.get(subject or "")
        domains = None if labels is None else known_domains(*labels)
        yield LabelledText(text, "routellm-mmlu", domains, _mean(quality_A))


def _llmrouter(root: Path) -> Iterator[LabelledText]:
    table = convert("llmrouter-9llm", root / "llmrouter-9llm")
    columns = [table.arms.index(arm) for arm in _GENERAL_MODELS]
    for text, task, quality_A in zip(table.texts, table.tasks, table.quality_QA, strict=True):
        labels = _TASKS.get(task or "")
        domains = None if labels is None else known_domains(*labels)
        ease = _mean(quality_A[columns]) if task in GRADED_TASKS else None
        yield LabelledText(text, "llmrouter-9llm", domains, ease)


def _gsm8k_budgets(root: Path) -> Iterator[LabelledText]:
    table = convert("gsm8k-anytime-4budget", root / "gsm8k-anytime-4budget")
    for text, quality_A in zip(table.texts, table.quality_QA, strict=True):
        yield LabelledText(text, "gsm8k-anytime-4budget", known_domains(*_TASKS["gsm8k"]), _mean(quality_A))


def _math(root: Path) -> Iterator[LabelledText]:
    for row in read_rows(root / "questions" / "math_test_5000.csv.gz"):
        level = row.text("level").removeprefix("Level ")
        ease = 1 / (1 + math.exp(-_LEVEL_LOGITS[int(level) - 1])) if level in "12345" else None
        yield LabelledText(row.text("instruction"), "math", known_domains(*_TASKS["math"]), ease)


def _gsm8k(root: Path) -> Iterator[LabelledText]:
    for row in read_rows(root / "questions" / "gsm8k_train.csv.gz"):
        yield LabelledText(row.text("question"), "gsm8k", known_domains(*_TASKS["gsm8k"]))


def _programming(root: Path) -> Iterator[LabelledText]:
    for source, column in (("humaneval", "prompt"), ("mbpp", "text")):
        for row in read_rows(root / "questions" / f"{source}.jsonl.gz"):
            yield LabelledText(row.text(column), source, known_domains(("programming",), ()))


def _mean(quality_A: np.typing.NDArray[np.float64]) -> float | None:
    seen = quality_A[~np.isnan(quality_A)]
    return float(seen.mean()) if seen.size else None
