"""The proofs of the methods on the fleet: campaigns of runs, what they must hold, and the stored record.

A campaign is a list of runs that differ in one setting or in the seed. Its record holds every run's report, the verdict
on every promise, and what is needed to repeat it. Bounds are fixed here, before anything is run: a promise about a
tolerance is judged by the worse end of the paired 95 % interval, one about a size by the mean over seeds.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from thinkroute.errors import DataError
from thinkroute.training import external
from thinkroute.training.assemble import MIXES, Watcher, execute
from thinkroute.training.settings import TrainingConfig, load

SCHEMA = "thinkroute.training.gates/1"
EASY, UNIFORM = "easy_heavy", "uniform"


@dataclass(frozen=True, slots=True)
class Variant:
    """One run of a campaign."""

    label: str
    overrides: Mapping[str, object]
    seed: int = 0

    @property
    def name(self) -> str:
        """The run's folder."""
        return f"{self.label.replace(' ', '-')}-seed-{self.seed}"


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


@dataclass(frozen=True, slots=True)
class Campaign:
    """The runs of one method and how they are judged."""

    method: str
    config: str
    variants: tuple[Variant, ...]
    judge: Callable[[Reports], list[Verdict]]
    mix: str | None = None
    """Mix of levels under which its models are held against routing from outside; None where that says nothing."""


def at_least(promise: str, measured: float, bound: float) -> Verdict:
    """A lower bound."""
    return Verdict(promise, round(measured, 4), f">= {bound}", measured >= bound)


def at_most(promise: str, measured: float, bound: float) -> Verdict:
    """An upper bound."""
    return Verdict(promise, round(measured, 4), f"<= {bound}", measured <= bound)


def _mean(reports: Mapping[int, Report], read: Callable[[Report], float]) -> float:
    return fmean(read(report) for report in reports.values())


JUDGED = ("delta=0.15", 0.3)
"""δ, and the threshold that the judged arm, `adaptive=0.3`, puts on the model's own decision. The paper's δ is run beside it."""


def _on_dial(report: Report) -> Mapping[str, Any]:
    return next(point for point in report["dial"] if point["threshold"] == JUDGED[1])


def judge_adaptthink(reports: Reports) -> list[Verdict]:
    """Half the length at no more than a point of accuracy, skipping thought where it is easy."""
    label, threshold = JUDGED
    arm = f"{label}, threshold {threshold}"
    main = reports[label]
    shares = [
        fmean(values)
        for values in zip(*(_on_dial(r)["by_level"]["direct"].values() for r in main.values()), strict=True)
    ]
    worst_rise = max(after - before for before, after in pairwise(shares))
    lengths = [
        _mean(reports[each], lambda r: r["against_thinking"][EASY]["length_share"])
        for each in sorted(reports)  # by delta
    ]
    worst_order = max(after - before for before, after in pairwise(lengths))

    def kept(report: Report, name: str) -> tuple[float, float]:
        return _on_dial(report)[EASY][name], report["before"]["think"][EASY][name]

    return [
        at_most(
            f"length, easy-heavy mix, as a share of thinking's, {arm}",
            _mean(main, lambda r: kept(r, "tokens")[0] / kept(r, "tokens")[1]),
            0.5,
        ),
        at_least(
            f"accuracy gain over thinking, easy-heavy mix, {arm}",
            _mean(main, lambda r: kept(r, "accuracy")[0] - kept(r, "accuracy")[1]),
            -0.01,
        ),
        at_least(f"answers at once at level 1, {arm}", shares[0], 0.9),
        at_most(f"answers at once at level 5, {arm}", shares[-1], 0.1),
        at_most("largest rise of that share from level to level", worst_rise, 0.0),
        at_most("largest rise of length as delta grows, no threshold", worst_order, 0.0),
    ]


def _above_mix(report: Report) -> float:
    """Accuracy above the line between always answering at once and always thinking, at equal tokens, uniform levels."""
    after = report["after"]
    point, low, high = (after[mode][UNIFORM] for mode in ("free", "direct", "think"))
    share = (point["tokens"] - low["tokens"]) / (high["tokens"] - low["tokens"])
    return point["accuracy"] - (low["accuracy"] + share * (high["accuracy"] - low["accuracy"]))


def judge_adacot(reports: Reports) -> list[Verdict]:
    """Trigger rates at the oracle threshold of each operating point, on or above the mix of always and never."""
    verdicts = judge_masking(reports)
    for label, runs in reports.items():
        if label in (MASKED, UNMASKED):
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


def judge_masking(reports: Reports) -> list[Verdict]:
    """Reinforced on hard questions alone, the decision stays where it was if it is masked, and collapses if it is not."""
    verdicts: list[Verdict] = []
    if MASKED in reports:
        moved = _mean(reports[MASKED], lambda r: abs(r["oracle"]["thinks"] - r["oracle"]["warmed_up"]))
        verdicts.append(at_most(f"distance of the thinking rate to the warm-up's, {MASKED}", moved, 0.05))
    if UNMASKED in reports:
        thinks = _mean(reports[UNMASKED], lambda r: r["oracle"]["thinks"])
        verdicts.append(at_least(f"thinking rate over all levels, {UNMASKED}", thinks, 0.95))
    return verdicts


def judge_external(comparisons: Reports, mix: str) -> list[Verdict]:
    """Better than routing the initial model from outside, at equal tokens: the lower end of every paired interval."""
    rivals = (("random_mix", "a random mix"), ("best_router", "the best router on text alone"))
    return [
        at_least(
            f"accuracy gain over {words} at equal tokens, lower end of the interval, {label}",
            _mean(runs, lambda r: r[mix][f"gain_over_{rival}"][1]),  # noqa: B023 - called at once
            0.0,
        )
        for label, runs in comparisons.items()
        for rival, words in rivals
    ]


def judge_fusion(reports: Reports) -> list[Verdict]:
    """Obedience, nothing forgotten, and both modes equally good where it is easy."""
    main = reports["fusion"]

    def share(report: Report, mode: str) -> float:
        return fmean(report["after"][mode]["by_level"]["direct"].values())

    def accuracy(report: Report, when: str, mode: str, level: str) -> float:
        return report[when][mode]["by_level"]["correct"][level]

    return [
        at_least("answers at once when told /no_think", _mean(main, lambda r: share(r, "/no_think")), 0.99),
        at_least("thinks when told /think", _mean(main, lambda r: 1 - share(r, "/think")), 0.99),
        at_least("thinks when told nothing", _mean(main, lambda r: 1 - share(r, "free")), 0.99),
        at_least(
            "thinking accuracy, gain over the model before",
            _mean(
                main,
                lambda r: (
                    r["after"]["/think"][UNIFORM]["accuracy"] - r["before"]["think"][UNIFORM]["accuracy"]
                ),
            ),
            -0.01,
        ),
        at_most(
            "level 1, distance of both modes",
            _mean(
                main,
                lambda r: abs(accuracy(r, "after", "/no_think", "1") - accuracy(r, "after", "/think", "1")),
            ),
            0.02,
        ),
        at_least(
            "level 5, thinking above not thinking",
            _mean(
                main, lambda r: accuracy(r, "after", "/think", "5") - accuracy(r, "after", "/no_think", "5")
            ),
            0.2,
        ),
        at_least(
            "budget curve: least gain from budget to budget",
            _mean(
                main,
                lambda r: min(
                    b - a
                    for a, b in zip(r["budgets"]["accuracy"], r["budgets"]["accuracy"][1:], strict=False)
                ),
            ),
            -0.01,
        ),
    ]


def _line(report: Report, policy: str) -> Mapping[str, float]:
    """One policy of a relay's report."""
    return next(line for line in report["policies"] if line["policy"] == policy)


def judge_relay(reports: Reports) -> list[Verdict]:
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


def _delta(value: float, *seeds: int) -> tuple[Variant, ...]:
    return tuple(Variant(f"delta={value}", {"delta": value}, seed) for seed in seeds)


def _point(miss: float, over: float, seed: int) -> Variant:
    return Variant(f"miss={miss} over={over}", {"penalties.miss": miss, "penalties.over": over}, seed)


PENALTIES = ((0.1, 0.3), (0.3, 0.3), (0.3, 0.1), (0.1, 0.6))
"""AdaCoT's operating points: for a missed thought, for a needless one."""

MASKED, UNMASKED = "hard only, decision masked", "hard only, decision not masked"
"""The ablation of selective loss masking: the paper's mathematical stage with a judge that errs in a quarter."""


def _masking(label: str, *, masks: bool) -> Variant:
    return Variant(
        label,
        {
            "masks_decision": masks,
            "reinforced_levels": [4, 5],
            "flipped_labels": 0.25,
            "penalties.miss": 0.0,
            "penalties.over": 0.0,
            "optimiser.learning_rate": 3e-4,
        },
    )


CAMPAIGNS: Mapping[str, Campaign] = {
    campaign.method: campaign
    for campaign in (
        Campaign(
            "adaptthink",
            "adaptthink-fleet",
            (
                *_delta(0.15, 0, 1, 2),
                *_delta(0.05, 0, 1, 2),
                *_delta(0.2, 0),
            ),
            judge_adaptthink,
            EASY,
        ),
        Campaign(
            "adacot",
            "adacot-fleet",
            (
                *(_point(*penalties, 0) for penalties in PENALTIES),
                _masking(MASKED, masks=True),
                _masking(UNMASKED, masks=False),
                *(_point(*penalties, seed) for seed in (1, 2) for penalties in PENALTIES),
            ),
            judge_adacot,
            UNIFORM,
        ),
        Campaign(
            "fusion",
            "fusion-fleet",
            tuple(Variant("fusion", {}, seed) for seed in (0, 1, 2)),
            judge_fusion,
        ),
        Campaign(
            "relay",
            "relay-fleet",
            (
                Variant("relay", {"token_routers": 300}),
                Variant("plain GRPO", {"calls": False, "reward.kind": "right"}),
                Variant("relay", {}, 1),
                Variant("relay", {}, 2),
                Variant("simple reward", {"reward.kind": "simple"}),
                Variant("no bonus", {"reward.bonus": 0.0}),
                Variant("no exploration", {"reward.exploration": 0.0}),
                Variant("always 4 tokens", {"fixed_tokens": 4}),
            ),
            judge_relay,
        ),
    )
}


def run_campaign(
    name: str,
    work: Path,
    *,
    questions: int,
    overrides: Mapping[str, object],
    command: str,
    watcher: Watcher,
    finished_only: bool = False,
) -> dict[str, object]:
    """Run what is not finished yet, judge, and return the record.

    Args:
        name: Out of `CAMPAIGNS`.
        work: Folder of the runs; finished ones in it are not run again.
        questions: Evaluation questions per level.
        overrides: Settings for all runs.
        command: How it was called, for the record.
        watcher: Where progress goes.
        finished_only: Run nothing; judge what is there, and name what is missing.

    Raises:
        DataError: nothing is finished, and nothing was to be run.
    """
    campaign = CAMPAIGNS[name]
    reports: dict[str, dict[int, Report]] = {}
    comparisons: dict[str, dict[int, Report]] = {}
    missing: list[str] = []
    for variant in campaign.variants:
        settings = {**overrides, **variant.overrides, "seed": variant.seed, "evaluate": questions}
        config = load(campaign.config, campaign.method, settings)
        folder = work / variant.name
        stored = folder / "report.json"
        finished = stored.exists() and json.loads((folder / "config.json").read_text()) == config.model_dump(
            mode="json"
        )
        if not finished and finished_only:
            missing.append(variant.name)
            continue
        report: Report = (
            json.loads(stored.read_text()) if finished else execute(config, folder, watcher, references=work)
        )
        reports.setdefault(variant.label, {})[variant.seed] = report
        if campaign.mix is not None and variant.label not in (MASKED, UNMASKED):
            watcher.stage(f"routing from outside ({variant.name})", 0)
            comparisons.setdefault(variant.label, {})[variant.seed] = _external(config, folder)
    if not reports:
        raise DataError(f"no finished run of {name} in {work} with these settings")
    return {
        "schema": SCHEMA,
        **provenance(command),
        "method": name,
        "missing_runs": missing,
        "weights_sha256": {
            variant.name: hashlib.sha256(
                (work / variant.name / "model/model.safetensors").read_bytes()
            ).hexdigest()
            for variant in campaign.variants
            if variant.name not in missing
        },
        "gates": [
            asdict(verdict)
            for verdict in (
                *campaign.judge(reports),
                *(judge_external(comparisons, campaign.mix) if campaign.mix is not None else ()),
            )
        ],
        "external": _by_seed(comparisons),
        "runs": _by_seed(reports),
    }


def _by_seed(reports: Reports) -> dict[str, dict[str, Report]]:
    return {label: {str(seed): report for seed, report in runs.items()} for label, runs in reports.items()}


def _external(config: TrainingConfig, folder: Path) -> Report:
    """The run's comparison with routing from outside; made once per trained model."""
    stored = folder / "external.json"
    weights = (folder / "model" / "model.safetensors").stat().st_mtime
    if not stored.exists() or stored.stat().st_mtime < weights:
        found = external.compare(config, folder / "model", folder.parent, MIXES)
        stored.write_text(json.dumps(found, indent=1) + "\n")
    return cast("Report", json.loads(stored.read_text()))


def provenance(command: str) -> dict[str, object]:
    """How, on what and with which code something was measured."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, check=True, text=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {
        "command": command,
        "commit": commit,
        "machine": {"processor": platform.machine(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("thinkroute", "torch", "onnxruntime", "numpy")},
    }


def failed(record: Mapping[str, Any]) -> Sequence[str]:
    """Promises that were not kept."""
    return [gate["promise"] for gate in record["gates"] if not gate["met"]]
