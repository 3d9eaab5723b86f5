"""A trained model against routing from outside, at equal tokens: a random mix of both modes, and routers on text alone.

Both send every question to the *initial* model, thinking or not. The random mix tosses a coin. A router is fitted on that
model's own outcomes, with and without thinking, on the questions that the run was trained on, and then thinks where it
expects most accuracy per token. Both are held to the tokens that the trained model used under the same mix of levels; the last
question that fits in part counts in part. No torch.

All routers are judged on the evaluation questions and the best of them is compared, so the choice favours them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import ConfigError
from thinkroute.fleet import shipped
from thinkroute.routers import Predictions, fit_router, table_from_outcomes
from thinkroute.signals import fit_encoder
from thinkroute.training.measure import Answered, Measurement, measure, turned
from thinkroute.training.samplers import EmbeddedSampler
from thinkroute.training.settings import TrainingConfig
from thinkroute.training.tasks import FleetTask, Item
from thinkroute.training.thinking import QWEN3
from thinkroute.types import Outcome, Query

ROUTERS = ("guarded_knn", "knn", "kmeans", "ridge", "logistic", "mlp")
_DIRECT, _THINK = "direct", "think"
_ENCODER = "blend"

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Modes:
    """The initial model on the same questions, with and without thinking."""

    direct: Sequence[Answered]
    think: Sequence[Answered]

    def gains(self) -> tuple[Doubles, Doubles]:
        """What thinking adds to every question: accuracy and tokens."""
        pairs = [
            (t.correct - d.correct, t.tokens - d.tokens) for d, t in zip(self.direct, self.think, strict=True)
        ]
        columns = np.array(pairs, dtype=np.float64)
        return columns[:, 0], columns[:, 1]


def compare(
    config: TrainingConfig,
    model: Path,
    cache: Path,
    mixes: Mapping[str, Sequence[float]],
    threshold: float | None = None,
) -> dict[str, object]:
    """How a finished run's model does against both, under each mix of levels.

    Args:
        config: The run's; names the initial model.
        model: The trained model's folder.
        cache: Folder for the initial model's answers, shared by the runs of a campaign.
        mixes: Shares of the levels by name.
        threshold: Also compare the model with this threshold on its decision, as `dial`.

    Raises:
        ConfigError: the run was not on the embedded fleet.
    """
    section = config.model
    if section.fleet is None:
        raise ConfigError("routing from outside is compared on the embedded fleet only", param="model.fleet")
    initial = section.directory or shipped.directory(section.fleet)
    task = FleetTask(config.task.families, config.task.level_shares)
    items = task.by_level(config.evaluate, seed=0)
    sampler = EmbeddedSampler(section.fleet, model)
    free = measure(items, sampler, task, QWEN3)
    known = _cached(cache, section.fleet, initial, task, items, "eval")
    pool = task.pool(config.task.questions, config.task.seed, config.task.split)
    fit_items = list({item.question: item for item in pool}.values())
    fitted_on = _cached(cache, section.fleet, initial, task, fit_items, "fit")
    predictions = predict(fit_items, fitted_on, items)

    def judged(rows: Sequence[Answered]) -> dict[str, object]:
        return {mix: against(rows, known, predictions, shares) for mix, shares in mixes.items()}

    found = {"fitted_on": len(fit_items), **judged(free)}
    if threshold is None:
        return found
    think = measure(items, sampler, task, QWEN3, forced=QWEN3.think)
    direct = measure(items, sampler, task, QWEN3, forced=QWEN3.no_think)
    return {**found, "dial": {"threshold": threshold, **judged(turned(free, think, direct, threshold))}}


def predict(
    fit_items: Sequence[Item], fitted_on: Modes, items: Sequence[Item]
) -> dict[str, tuple[Doubles, Doubles]]:
    """By router: the accuracy and the tokens that thinking is expected to add to each question."""
    queries = {str(place): Query(item.question) for place, item in enumerate(fit_items)}
    # Dollars stand for tokens: what a router says of cost is then what it expects thinking to take.
    outcomes = [
        Outcome(str(place), arm, row.correct, cost_usd=float(row.tokens))
        for arm, rows in ((_DIRECT, fitted_on.direct), (_THINK, fitted_on.think))
        for place, row in enumerate(rows)
    ]
    table = table_from_outcomes(queries, outcomes)
    encoder = fit_encoder(_ENCODER, table.texts)
    asked = [Query(item.question) for item in items]
    return {
        name: _gains(fit_router(name, table, encoder=encoder).predict_batch(asked, (_DIRECT, _THINK)))
        for name in ROUTERS
    }


def _gains(predictions: Predictions) -> tuple[Doubles, Doubles]:
    quality, cost = predictions.quality.mean_QA, predictions.moments["cost_usd"].mean_QA
    return quality[:, 1] - quality[:, 0], np.maximum(cost[:, 1] - cost[:, 0], 1.0)


def against(
    free: Sequence[Answered],
    known: Modes,
    predictions: Mapping[str, tuple[Doubles, Doubles]],
    shares: Sequence[float],
) -> dict[str, object]:
    """The trained model beside a random mix and beside every router, at its own tokens."""
    trained = Measurement(free)
    levels = np.array([row.level for row in free])
    weights = np.asarray(shares)[levels - 1] / np.bincount(levels, minlength=len(shares) + 1)[levels]
    allowed = trained.mean("tokens", shares) - Measurement(known.direct).mean("tokens", shares)
    _, extra = known.gains()
    mixed = np.full(len(free), np.clip(allowed / float(weights @ extra), 0.0, 1.0))
    rivals = {"random_mix": mixed} | {
        name: thinking_shares(gain / cost, extra * weights, allowed)
        for name, (gain, cost) in predictions.items()
    }
    judged = {name: _beside(trained, known, rival, shares) for name, rival in rivals.items()}
    best = max(predictions, key=lambda name: judged[name]["accuracy"][0])
    return {
        "tokens": round(trained.mean("tokens", shares), 2),
        "accuracy": round(trained.mean("correct", shares), 4),
        "gain_over_thinking": _rounded(trained.gain_over(Measurement(known.think), shares=shares)),
        "length_share": round(
            trained.mean("tokens", shares) / Measurement(known.think).mean("tokens", shares), 4
        ),
        "direct_by_level": _rounded(list(trained.by_level("direct").values())),
        "best_router": best,
        "gain_over_random_mix": judged["random_mix"]["gain"],
        "gain_over_best_router": judged[best]["gain"],
        "rivals": {
            name: {"accuracy": found["accuracy"][0], "gain": found["gain"]} for name, found in judged.items()
        },
    }


def thinking_shares(worth: Doubles, extra: Doubles, allowed: float) -> Doubles:
    """Which questions to think on: the most worthwhile first, as long as the tokens last; the last one in part.

    Args:
        worth: What thinking on each question is believed to be worth per token.
        extra: Tokens it takes, weighted by the mix; all >= 0.
        allowed: Tokens to spend.
    """
    order = np.argsort(-worth, kind="stable")
    before = np.concatenate([[0.0], np.cumsum(extra[order])[:-1]])
    part = np.clip((allowed - before) / np.maximum(extra[order], 1e-12), 0.0, 1.0)
    chosen = np.empty(len(worth))
    chosen[order] = part
    return chosen


def _beside(
    trained: Measurement, known: Modes, thinks: Doubles, shares: Sequence[float]
) -> dict[str, list[float]]:
    """A rival's accuracy, and the trained model's gain over it with a paired 95 % interval."""
    gain, _ = known.gains()
    right = np.array([row.correct for row in known.direct]) + thinks * gain
    rival = Measurement(
        [replace(row, correct=float(value)) for row, value in zip(known.direct, right, strict=True)]
    )
    return {
        "accuracy": [round(rival.mean("correct", shares), 4)],
        "gain": _rounded(trained.gain_over(rival, shares=shares)),
    }


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]


def _cached(
    cache: Path, member: str, directory: Path, task: FleetTask, items: Sequence[Item], name: str
) -> Modes:
    """The initial model's answers in both modes, from the cache where they were written down before."""
    weights = hashlib.sha256((directory / "model.safetensors").read_bytes())
    weights.update(json.dumps([item.question for item in items]).encode())
    path = cache / f"external-{name}-{weights.hexdigest()[:12]}.json"
    if path.exists():
        stored = cast("dict[str, list[list[float]]]", json.loads(path.read_text()))
    else:
        sampler = EmbeddedSampler(member, directory)
        stored = {
            mode: [[row.correct, row.tokens] for row in measure(items, sampler, task, QWEN3, forced=opening)]
            for mode, opening in ((_DIRECT, QWEN3.no_think), (_THINK, QWEN3.think))
        }
        path.write_text(json.dumps(stored))
    return Modes(*(_rows(items, stored[mode], mode == _DIRECT) for mode in (_DIRECT, _THINK)))


def _rows(items: Sequence[Item], stored: Sequence[Sequence[float]], direct: bool) -> list[Answered]:
    return [
        Answered(item.level, item.family, float(correct), int(tokens), direct, float(direct))
        for item, (correct, tokens) in zip(items, stored, strict=True)
    ]
