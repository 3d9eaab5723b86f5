"""The proofs of the methods on the fleet: campaigns of runs, what they must hold, and the stored record.

A campaign is a list of runs that differ in one setting or in the seed. Its record holds every run's report, the verdict
on every promise (`promises`), and what is needed to repeat it.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from thinkroute.errors import DataError
from thinkroute.training import external
from thinkroute.training.assemble import MIXES, Watcher, execute
from thinkroute.training.methods.adacot import OPERATING_POINTS
from thinkroute.training.promises import (
    CODE,
    EASY,
    FORMULA,
    JUDGED,
    MASKED,
    ORDERED,
    UNIFORM,
    UNMASKED,
    Report,
    Reports,
    Verdict,
    judge_adacot,
    judge_adaptthink,
    judge_external,
    judge_fusion,
    judge_relay,
)
from thinkroute.training.settings import TrainingConfig, load

SCHEMA = "thinkroute.training.gates/1"


@dataclass(frozen=True, slots=True)
class Variant:
    """One run of a campaign."""

    label: str
    overrides: Mapping[str, object]
    seed: int = 0
    config: str | None = None
    """Another file than the campaign's."""

    @property
    def name(self) -> str:
        """The run's folder."""
        return f"{self.label.replace(' ', '-')}-seed-{self.seed}"


@dataclass(frozen=True, slots=True)
class Campaign:
    """The runs of one method and how they are judged."""

    method: str
    config: str
    variants: tuple[Variant, ...]
    judge: Callable[[Reports, Reports], list[Verdict]]
    """From reports, and from comparisons with routing from outside, by label and seed."""
    mix: str | None = None
    """Mix of levels under which its models are held against routing from outside; None where that says nothing."""


SEEDS = (0, 1, 2)


def _delta(value: float, *seeds: int) -> tuple[Variant, ...]:
    return tuple(Variant(f"delta={value}", {"delta": value}, seed) for seed in seeds)


def _point(miss: float, over: float, seed: int) -> Variant:
    return Variant(f"miss={miss} over={over}", {"penalties.miss": miss, "penalties.over": over}, seed)


PENALTIES = (*OPERATING_POINTS, (0.1, 0.6))
"""AdaCoT's fines for a missed thought and for a needless one: the paper's four, and a harsher one."""


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
                *_delta(0.15, *SEEDS),
                *_delta(0.05, *SEEDS),
                *_delta(0.2, *SEEDS),
                # Both halves forced, as in the paper: what a free half decides pushes on where the clip stops the forced one.
                Variant(FORMULA, {"delta": 0.15, "kl": 0.0, "thinking": "forced", "ratio": "token"}),
                Variant(CODE, {"delta": 0.15, "kl": 0.0, "thinking": "forced"}),
                Variant("delta=0.15, no divergence", {"delta": 0.15, "kl": 0.0}),
            ),
            judge_adaptthink,
            EASY,
        ),
        Campaign(
            "adacot",
            "adacot-fleet",
            (
                *(_point(*penalties, seed) for seed in SEEDS for penalties in PENALTIES),
                *(Variant(ORDERED, {}, seed, "adacot-fleet-orders") for seed in SEEDS[:2]),
                _masking(MASKED, masks=True),
                _masking(UNMASKED, masks=False),
            ),
            judge_adacot,
            UNIFORM,
        ),
        Campaign(
            "fusion",
            "fusion-fleet",
            tuple(Variant("fusion", {}, seed) for seed in SEEDS),
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
        config = load(variant.config or campaign.config, campaign.method, settings)
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
        if campaign.mix is not None and variant.label not in (MASKED, UNMASKED, ORDERED, FORMULA, CODE):
            watcher.stage(f"routing from outside ({variant.name})", 0)
            comparisons.setdefault(variant.label, {})[variant.seed] = _external(
                config, folder, JUDGED[1] if variant.label == JUDGED[0] else None
            )
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
                *campaign.judge(reports, comparisons),
                *(judge_external(comparisons, campaign.mix) if campaign.mix is not None else ()),
            )
        ],
        "external": _by_seed(comparisons),
        "runs": _by_seed(reports),
    }


def _by_seed(reports: Reports) -> dict[str, dict[str, Report]]:
    return {label: {str(seed): report for seed, report in runs.items()} for label, runs in reports.items()}


def _external(config: TrainingConfig, folder: Path, threshold: float | None) -> Report:
    """The run's comparison with routing from outside; made once per trained model."""
    stored = folder / "external.json"
    weights = (folder / "model" / "model.safetensors").stat().st_mtime
    if not stored.exists() or stored.stat().st_mtime < weights:
        found = external.compare(config, folder / "model", folder.parent, MIXES, threshold)
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
