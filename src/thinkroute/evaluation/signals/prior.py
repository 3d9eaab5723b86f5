"""Training the shipped prior for real text on the public outcomes whose licence allows it, and measuring it elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from thinkroute.evaluation.datasets import convert
from thinkroute.evaluation.datasets.labelled import GRADED_TASKS, LICENCES
from thinkroute.evaluation.frontier import dial, replay, sweep
from thinkroute.evaluation.metrics import aiq, hull
from thinkroute.evaluation.signals.heads import Trained
from thinkroute.routers.realtext.facts import ArmFacts
from thinkroute.routers.realtext.fitting import Answers, abilities, line, opening
from thinkroute.routers.realtext.law import FORMAT, PriorLaw
from thinkroute.routers.realtext.router import LAW_FILE, RealTextPrior
from thinkroute.routers.table import FloatArray, OutcomeTable
from thinkroute.signals.semantic import SemanticSignals
from thinkroute.signals.thinking import TYPICAL_DIFFICULTY
from thinkroute.types import Effort, Query, estimate_tokens

_SETS: Final = ("llmrouter-9llm", "routellm-mmlu")
_EXTREME: Final = 0.02
_GUARD: Final = 0.25
"""Declared: a difficulty of .34 to .46 counts as the typical .4."""
_PRICES: Final[Mapping[str, float]] = {
    # List prices in dollars per million generated tokens when the outcomes were made.
    "gpt-4-1106-preview": 30.0,
    "mistralai/Mixtral-8x7B-Instruct-v0.1": 0.6,
    "claude-v1": 24.0, "claude-v2": 24.0, "claude-instant-v1": 2.4, "gpt-3.5-turbo-1106": 2.0,
    "WizardLM/WizardLM-13B-V1.2": 0.3, "meta/code-llama-instruct-34b-chat": 0.776, "meta/llama-2-70b-chat": 0.9,
    "mistralai/mistral-7b-chat": 0.2, "mistralai/mixtral-8x7b-chat": 0.6, "zero-one-ai/Yi-34B-Chat": 0.8,
    "claude-3-haiku-20240307": 1.25, "gemini-2.0-flash-001": 0.4,
    "gemma-2-9b-it": 0.1, "llama-3.1-8b-instruct": 0.2, "llama-3.1-nemotron-51b-instruct": 0.9,
    "llama-3.3-nemotron-super-49b-v1": 0.9, "mistral-7b-instruct-v0.3": 0.2, "qwen2.5-7b-instruct": 0.2,
}  # fmt: skip
_MEASURED_ON: Final = ("routerbench-11llm",)
_OFF: Final = Effort("off")


def train_prior(trained: Trained, root: Path, command: str) -> PriorLaw:
    """Fit the law on outcomes and on what the heads say of texts they had not seen."""
    by_set = {name: _answers(trained, name, root) for name in _SETS}
    answers = {model: found for learned in by_set.values() for model, found in learned.items()}
    ability, _ = abilities(answers)
    own_slope = {name: abilities({name: found})[1] for name, found in answers.items()}
    facts = {name: _facts(name) for name in answers}
    by_size = {name: found for name in answers if (found := facts[name].size_doublings) is not None}
    by_price = {name: found for name in answers if (found := facts[name].price_doublings) is not None}
    slope, widens = opening(by_size, own_slope)
    return PriorLaw(
        format=FORMAT,
        what="A prior for arms nobody has measured; thinkroute fit on your own outcomes replaces it.",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        thinkroute_version=package_version("thinkroute"),
        command=command,
        sources={
            name: f"{LICENCES[name]}, {sum(len(f.right_Q) for f in learned.values())} graded answers"
            for name, learned in by_set.items()
        },
        by_size=line(by_size, ability),
        by_price=line(by_price, ability),
        slope=round(slope, 4),
        opening=round(widens, 4),
        difficulty_std=round(_difficulty_std(trained), 4),
        guard=_GUARD,
        models={name: round(value, 3) for name, value in ability.items()},
        measured={},
    )


def write_law(law: PriorLaw, folder: Path) -> None:
    """Write the artefact."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LAW_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(law), indent=2) + b"\n")


def measure_prior(law: PriorLaw, signals: SemanticSignals, root: Path) -> dict[str, float]:
    """The prior on sets it never saw, all of whose arms are new to it, beside what knows no text or no arm.

    AIQ over the costs of the set's single arms: of the prior, of the prior with every text taken as typical, and of
    random mixing of the best single arms, which knows the outcomes.
    """
    measured: dict[str, float] = {}
    for name in _MEASURED_ON:
        table = convert(name, root / name)
        table = table.take(~np.isnan(table.quality_QA).any(axis=1))
        facts = {arm: _facts(arm) for arm in table.arms}
        queries = [Query(text, prompt_tokens=estimate_tokens(len(text))) for text in table.texts]
        router = RealTextPrior(facts, law, signals)
        blind = RealTextPrior(facts, msgspec.structs.replace(law, guard=math.inf), signals)
        measured[f"{name}_aiq"] = _aiq(router, table, queries, facts)
        measured[f"{name}_aiq_every_text_typical"] = _aiq(blind, table, queries, facts)
        measured[f"{name}_aiq_random_mixing"] = _random_mixing(table)
        measured[f"{name}_quality_random_arm"] = float(table.quality_QA.mean())
        ability_A = [law.ability(facts[arm]).logit(law, 0.0) for arm in table.arms]
        measured[f"{name}_ability_rank_correlation"] = _rank_correlation(ability_A, table)
    return {name: round(value, 4) for name, value in measured.items()}


def _answers(trained: Trained, name: str, root: Path) -> dict[str, Answers]:
    """Graded answers of a set's models with a price here, to texts whose difficulty was told unseen.

    Models that are no general ones have none: `codegemma-7b` writes code, `llama3-chatqa-1.5-*` reads documents.
    """
    hard_of = dict(zip(trained.examples.texts, trained.left_out_QL[:, -1].tolist(), strict=True))
    table = convert(name, root / name)
    rows = [
        row
        for row, (text, task) in enumerate(zip(table.texts, table.tasks, strict=True))
        if text in hard_of and (name != "llmrouter-9llm" or task in GRADED_TASKS)
    ]
    shift_Q = np.array([_shift(hard_of[table.texts[row]]) for row in rows])
    found: dict[str, Answers] = {}
    for column, arm in enumerate(table.arms):
        right_Q = table.quality_QA[rows, column]
        seen = ~np.isnan(right_Q)
        if arm in _PRICES:
            found[arm] = Answers(shift_Q[seen], right_Q[seen])
    return found


def _facts(name: str) -> ArmFacts:
    return ArmFacts(_OFF, name, output_usd_per_mtok=_PRICES.get(name))


def _shift(difficulty: float) -> float:
    difficulty = min(max(difficulty, _EXTREME), 1 - _EXTREME)
    return math.log(difficulty / (1 - difficulty)) - math.log(TYPICAL_DIFFICULTY / (1 - TYPICAL_DIFFICULTY))


def _difficulty_std(trained: Trained) -> float:
    """Logits between the head's difficulty and a text's true one, from the error that drawing answers leaves unexplained.

    Brier error = E[p(1 − p)] / answers per text + Var(true − predicted); the second part, through the logistic's
    slope p(1 − p), is in logits.
    """
    target_Q, chance_Q = trained.examples.target_QL[:, -1], trained.left_out_QL[:, -1]
    known = ~np.isnan(target_Q)
    error = float(((target_Q[known] - chance_Q[known]) ** 2).mean())
    noise = float((chance_Q[known] * (1 - chance_Q[known])).mean())
    unexplained = max(error - noise / _ANSWERS_PER_TEXT, 0.0)
    return math.sqrt(unexplained) / noise


_ANSWERS_PER_TEXT: Final = 3.0
"""Two to four models answered each text."""


def _aiq(
    router: RealTextPrior, table: OutcomeTable, queries: Sequence[Query], facts: Mapping[str, ArmFacts]
) -> float:
    predicted = router.predict_batch(queries, table.arms)
    answer_QA = predicted.moments["answer_tokens"].mean_QA
    prompt_QA = predicted.moments["prompt_tokens"].mean_QA
    price_A = np.array([facts[arm].output_usd_per_mtok or math.nan for arm in table.arms]) / 1e6
    believed_QA = price_A * (answer_QA + prompt_QA / 3)
    choice_VQ = sweep(predicted.quality.mean_QA, believed_QA, dial(believed_QA), ~np.isnan(table.quality_QA))
    real = replay(choice_VQ, table.quality_QA, table.measured["cost_usd"])
    return _between_single_arms(real.cost_VQ.mean(axis=1), real.quality_VQ.mean(axis=1), table)


def _random_mixing(table: OutcomeTable) -> float:
    return _between_single_arms(*_single(table), table)


def _single(table: OutcomeTable) -> tuple[FloatArray, FloatArray]:
    return table.measured["cost_usd"].mean(axis=0), table.quality_QA.mean(axis=0)


def _between_single_arms(cost_V: FloatArray, quality_V: FloatArray, table: OutcomeTable) -> float:
    single_A = _single(table)[0]
    return aiq(hull(cost_V, quality_V), float(single_A.min()), float(single_A.max()))


def _rank_correlation(ability_A: Sequence[float], table: OutcomeTable) -> float:
    from thinkroute.signals.calibration import spearman

    return spearman(np.array(ability_A), table.quality_QA.mean(axis=0))
