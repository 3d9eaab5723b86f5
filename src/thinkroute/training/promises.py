"""What the methods promise on the fleet, and how a campaign's reports are judged.

Bounds are fixed here, before anything is run. AdaptThink's tolerance of a point, and every comparison with routing from
outside, are judged by the worse end of the paired 95 % interval, averaged over seeds; all else by the mean over seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import correlation, fmean
from typing import Any

from thinkroute.wire.soft_switch import NO_THINK, THINK

EASY, UNIFORM = "easy_heavy", "uniform"
ORDERED = "miss=0.3 over=0.3, with orders"
"""AdaCoT with system messages that leave no choice."""
MASKED, UNMASKED = "hard only, decision masked", "hard only, decision not masked"
"""The ablation of selective loss masking: the paper's mathematical stage with a judge that errs in a quarter."""


FORMULA, CODE = (
    "delta=0.15, both halves forced, the paper's formula",
    "delta=0.15, both halves forced, its code's ratio",
)
"""AdaptThink's ratio as its paper writes it, token by token, and as its code computes it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One promise and whether it was kept."""

    promise: str
    measured: float
    bound: str
    met: bool


Report = Mapping[str, Any]
Reports = Mapping[str, Mapping[int, Report]]
"""Label → seed → report."""


def at_least(promise: str, measured: float, bound: float) -> Verdict:
    """A lower bound."""
    return Verdict(promise, round(measured, 4), f">= {bound}", measured >= bound)


def at_most(promise: str, measured: float, bound: float) -> Verdict:
    """An upper bound."""
    return Verdict(promise, round(measured, 4), f"<= {bound}", measured <= bound)


def _mean(reports: Mapping[int, Report], read: Callable[[Report], float]) -> float:
    return fmean(read(report) for report in reports.values())


JUDGED = ("delta=0.15", 0.35)
"""δ, and the threshold that the judged arm, `adaptive=0.35`, puts on the model's own decision: the least loss for half of the
length on 2,000 other questions. The paper's δ is run beside it."""


def judge_adaptthink(reports: Reports, comparisons: Reports) -> list[Verdict]:
    """Half the length at no more than a point of accuracy, skipping thought where it is easy."""
    label, threshold = JUDGED
    arm = f"{label}, threshold {threshold}"
    arms = {seed: runs["dial"][EASY] for seed, runs in comparisons[label].items()}
    shares = [
        fmean(values) for values in zip(*(run["direct_by_level"] for run in arms.values()), strict=True)
    ]
    worst_rise = max(after - before for before, after in pairwise(shares))
    lengths = [
        _mean(reports[each], lambda r: r["against_thinking"][EASY]["length_share"])
        for each in sorted(each for each in reports if each.removeprefix("delta=").replace(".", "").isdigit())
    ]
    worst_order = max((after - before for before, after in pairwise(lengths)), default=0.0)

    return [
        at_most(
            f"length, easy-heavy mix, as a share of thinking's, {arm}",
            _mean(arms, lambda r: r["length_share"]),
            0.5,
        ),
        at_least(
            f"accuracy gain over thinking, easy-heavy mix, {arm}",
            _mean(arms, lambda r: r["gain_over_thinking"][0]),
            -0.01,
        ),
        at_least(
            f"accuracy gain over thinking, easy-heavy mix, lower end of the interval, {arm}",
            _mean(arms, lambda r: r["gain_over_thinking"][1]),
            -0.01,
        ),
        at_least(f"answers at once at level 1, {arm}", shares[0], 0.9),
        at_most(f"answers at once at level 5, {arm}", shares[-1], 0.1),
        at_most("largest rise of that share from level to level", worst_rise, 0.0),
        at_most("largest rise of length as delta grows, no threshold", worst_order, 0.0),
        *judge_formula(reports),
    ]


PLATEAU = (0.35, 0.65)
"""Where the clip of the paper's formula holds the decision, ½(1 ± .2), and a little more for the mean of many questions."""


def judge_formula(reports: Reports) -> list[Verdict]:
    """The formula's clip keeps the decision on its plateau even where it is clear; the published code's ratio does not."""
    if FORMULA not in reports:
        return []

    def at_level_1(label: str) -> float:
        return _mean(reports[label], lambda r: r["after"]["free"]["by_level"]["p_direct"]["1"])

    promise = "mean probability of answering at once at level 1"
    return [
        at_least(f"{promise}, {FORMULA}", at_level_1(FORMULA), PLATEAU[0]),
        at_most(f"{promise}, {FORMULA}", at_level_1(FORMULA), PLATEAU[1]),
        *([at_least(f"{promise}, {CODE}", at_level_1(CODE), PLATEAU[1])] if CODE in reports else []),
    ]


def _above_mix(report: Report) -> float:
    """Accuracy above the line between always answering at once and always thinking, at equal tokens, uniform levels."""
    after = report["after"]
    point, low, high = (after[mode][UNIFORM] for mode in ("free", "direct", "think"))
    share = (point["tokens"] - low["tokens"]) / (high["tokens"] - low["tokens"])
    return point["accuracy"] - (low["accuracy"] + share * (high["accuracy"] - low["accuracy"]))


def judge_adacot(reports: Reports, comparisons: Reports) -> list[Verdict]:
    """Trigger rates at the oracle threshold of each operating point, on or above the mix of always and never."""
    verdicts = [*judge_masking(reports), *judge_orders(reports)]
    for label, runs in reports.items():
        if label in (MASKED, UNMASKED, ORDERED):
            continue
        off = _mean(runs, lambda r: abs(r["oracle"]["rate"] - r["oracle"]["thinks"]))
        verdicts.append(at_most(f"distance of the thinking rate to the oracle's, {label}", off, 0.05))
        by_cell = _mean(runs, lambda r: abs(r["oracle"]["rate_by_cell"] - r["oracle"]["thinks"]))
        verdicts.append(
            at_most(f"distance to the rule on what family and level tell, {label}", by_cell, 0.05)
        )
        verdicts.append(
            at_least(f"accuracy above the mix at equal tokens, {label}", _mean(runs, _above_mix), 0.0)
        )
    return verdicts


def judge_orders(reports: Reports) -> list[Verdict]:
    """Told to always or never think, the model does, and thinks as well as the one before."""
    if (runs := reports.get(ORDERED)) is None:
        return []

    def thinks(order: str) -> float:
        return _mean(runs, lambda r: 1 - r["after"][order][UNIFORM]["direct_share"])

    kept = _mean(
        runs, lambda r: r["after"]["always"][UNIFORM]["accuracy"] - r["before"]["think"][UNIFORM]["accuracy"]
    )
    return [
        at_least(f"thinks when ordered to always think, {ORDERED}", thinks("always"), 0.99),
        at_most(f"thinks when ordered to never think, {ORDERED}", thinks("never"), 0.01),
        at_least(
            f"accuracy when ordered to always think, gain over the model before, {ORDERED}", kept, -0.01
        ),
    ]


def judge_masking(reports: Reports) -> list[Verdict]:
    """Reinforced on hard questions alone, the decision stays where it was if it is masked, and collapses if it is not."""
    verdicts: list[Verdict] = []
    if MASKED in reports:
        moved = _mean(reports[MASKED], lambda r: abs(r["oracle"]["thinks"] - r["oracle"]["warmed_up_thinks"]))
        verdicts.append(at_most(f"distance of the thinking rate to the warm-up's, {MASKED}", moved, 0.05))
        better = _mean(
            reports[MASKED], lambda r: r["oracle"]["right_hard"] - r["oracle"]["warmed_up_right_hard"]
        )
        verdicts.append(
            at_least(f"accuracy on the reinforced levels, gain over the warm-up, {MASKED}", better, 0.0)
        )
    if UNMASKED in reports:
        thinks = _mean(reports[UNMASKED], lambda r: r["oracle"]["thinks"])
        verdicts.append(at_least(f"thinking rate over all levels, {UNMASKED}", thinks, 0.95))
    return verdicts


def judge_external(comparisons: Reports, mix: str) -> list[Verdict]:
    """Better than routing the initial model from outside, at equal tokens: the lower end of every paired interval."""
    rivals = (("random_mix", "a random mix"), ("best_router", "the best router on text alone"))
    arms = {label: {seed: found[mix] for seed, found in runs.items()} for label, runs in comparisons.items()}
    for label, runs in comparisons.items():
        if turned := {seed: found["dial"] for seed, found in runs.items() if "dial" in found}:
            threshold = next(iter(turned.values()))["threshold"]
            arms[f"{label}, threshold {threshold}"] = {seed: found[mix] for seed, found in turned.items()}
    return [
        at_least(
            f"accuracy gain over {words} at equal tokens, lower end of the interval, {label}",
            _mean(runs, lambda r: r[f"gain_over_{rival}"][1]),  # noqa: B023 - called at once
            0.0,
        )
        for label, runs in arms.items()
        for rival, words in rivals
    ]


def judge_fusion(reports: Reports, comparisons: Reports) -> list[Verdict]:
    """Obedience, nothing forgotten, both modes equally good where it is easy, and more budget never worse."""
    runs = reports["fusion"]

    def share(mode: str) -> float:
        return _mean(runs, lambda r: r["after"][mode][UNIFORM]["direct_share"])

    def accuracy(report: Report, mode: str, level: str) -> float:
        return report["after"][mode]["by_level"]["correct"][level]

    kept = _mean(
        runs, lambda r: r["after"][THINK][UNIFORM]["accuracy"] - r["before"]["think"][UNIFORM]["accuracy"]
    )
    easy = _mean(runs, lambda r: abs(accuracy(r, NO_THINK, "1") - accuracy(r, THINK, "1")))
    hard = _mean(runs, lambda r: accuracy(r, THINK, "5") - accuracy(r, NO_THINK, "5"))
    curve = [fmean(values) for values in zip(*(r["budgets"]["accuracy"] for r in runs.values()), strict=True)]
    gains = [after - before for before, after in pairwise(curve)]
    ranks = correlation(range(len(curve)), [sorted(curve).index(value) for value in curve])
    return [
        at_least(f"answers at once when told {NO_THINK}", share(NO_THINK), 0.99),
        at_least(f"thinks when told {THINK}", 1 - share(THINK), 0.99),
        at_least("thinks when told nothing", 1 - share("free"), 0.99),
        at_least("thinking accuracy, gain over the model before", kept, -0.01),
        at_most("level 1, distance of both modes", easy, 0.02),
        at_least("level 5, thinking above not thinking", hard, 0.2),
        at_least("budget curve: rank correlation of budget and accuracy", ranks, 0.9),
        at_least("budget curve: least gain from budget to budget", min(gains), -0.01),
    ]


def _line(report: Report, policy: str) -> Mapping[str, float]:
    """One policy of a relay's report."""
    return next(line for line in report["policies"] if line["policy"] == policy)


def judge_relay(reports: Reports, comparisons: Reports) -> list[Verdict]:
    """Most of the gap for few teacher tokens, spent where the student does not know; above every baseline."""
    main = reports["relay"]

    def mean(policy: str, name: str) -> float:
        return _mean(main, lambda r: _line(r, policy)[name])

    def above(policy: str) -> Verdict:
        gain = _mean(main, lambda r: _line(r, "relay")["accuracy"] - _line(r, policy)["accuracy"])
        return at_least(f"accuracy above {policy}", gain, 0.05)

    verdicts = [
        at_least("part of the gap from student to teacher", mean("relay", "gap_recovered"), 0.7),
        at_most("teacher's share of the tokens", mean("relay", "teacher_share"), 0.03),
        *map(above, ("random tokens", "random tokens, 4 times the share", "random queries", "cascade")),
        at_least(
            "unknown operators whose result the teacher wrote",
            _mean(main, lambda r: r["where"]["unknown_steps_by_teacher"]),
            0.8,
        ),
        at_most(
            "questions without unknown operators that call",
            _mean(main, lambda r: r["where"]["easy_questions_that_call"]),
            0.05,
        ),
    ]
    for router in next(iter(main.values())).get("token_routers", ()):
        gain = mean("relay", "gap_recovered") - router["gap_recovered"]
        verdicts.append(at_least(f"part of the gap above {router['policy']}", gain, 0.0))
    if plain := reports.get("plain GRPO"):
        alone = _mean(plain, lambda r: _line(r, "plain GRPO")["accuracy"])
        verdicts.append(at_least("accuracy above plain GRPO", mean("relay", "accuracy") - alone, 0.05))
    return verdicts
