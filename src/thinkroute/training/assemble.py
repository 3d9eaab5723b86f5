"""From a training file to a finished run: learner, sampler, task, the method's stages, a measured and stored model.

Owns the order of the stages of each method and what a run's folder holds: `config.json`, `metrics.jsonl`,
`checkpoint.pt`, `reference-*.json` and `before-*.json` while it goes on, `model/` and `report.json` when it is done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from thinkroute.errors import ConfigError
from thinkroute.evaluation.graders import GRADERS
from thinkroute.fleet import shipped
from thinkroute.training.assemble_sampler import checkpoint_sampler
from thinkroute.training.learner import FleetLearner, HuggingFaceLearner, Learner, fingerprint
from thinkroute.training.measure import Answered, Measurement, Messages, as_asked, measure, turned
from thinkroute.training.methods.fusion import Flags
from thinkroute.training.metrics import MetricsFile
from thinkroute.training.optimise import Checkpoint, Trainer, run_steps
from thinkroute.training.reference import ReferenceTable, Sampling, natural_first_token
from thinkroute.training.samplers import EmbeddedSampler, Sampler
from thinkroute.training.settings import (
    AdaCoTConfig,
    AdaptThinkConfig,
    AnyConfig,
    FusionConfig,
    ReferenceSection,
    RelayConfig,
    TrainingConfig,
)
from thinkroute.training.stages import run_adacot, run_adaptthink, run_fusion
from thinkroute.training.tasks import EASY_HEAVY, FileTask, FleetTask, Item, Task
from thinkroute.training.thinking import QWEN3, Openings, r1_distill
from thinkroute.wire.fleet_prompt import TURN_END
from thinkroute.wire.soft_switch import NO_THINK, THINK

MIXES = {"easy_heavy": EASY_HEAVY, "uniform": (0.2,) * 5}
Parts = dict[str, "bool | Parts"]
"""Parts of a training file, by name."""
DIAL = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
"""Thresholds at which the front of one model is drawn."""


MEASURED_FLAGS = Flags(none_share=0.0, several_share=0.5, front_share=0.3, system_share=0.2)
"""How obedience is asked for: by more flags in more places than fusion was trained on."""
_R1_END = "<\uff5cend\u2581of\u2581sentence\uff5c>"


@dataclass(frozen=True, slots=True)
class Watcher:
    """Where a run reports to."""

    stage: Callable[[str, int], None] = lambda name, steps: None
    """A stage begins; 0 steps when their number is not known."""
    step: Callable[[int, Mapping[str, float]], None] = lambda step, values: None


@dataclass(slots=True)
class Run:
    """One run, assembled."""

    config: AnyConfig
    output: Path
    learner: Learner
    sampler: Sampler
    task: Task
    openings: Openings
    watcher: Watcher
    end_text: str = TURN_END
    references: Path | None = None
    """Where reference tables lie when several runs share them."""

    def checkpoint(self, stage: str, parts: Parts | None = None) -> Checkpoint:
        """The stage's checkpoint in the run's folder; beside the references, when only `parts` of the file matter to it.

        Runs that differ elsewhere then share the stage.
        """
        written = self.config.model_dump_json(include=parts)
        identity = f"{stage} {written}"
        name = f"checkpoint-{stage}.pt"
        folder = self.output
        if parts and self.references is not None:
            name = f"checkpoint-{stage}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.pt"
            folder = self.references
        return Checkpoint(folder / name, identity, self.config.checkpoint_every)

    def train(self, trainer: Trainer, steps: int, stage: str, checkpoint: Checkpoint | None = None) -> None:
        """Run one stage; its checkpoint lies in the run's folder unless another is given."""
        self.watcher.stage(stage, steps)
        run_steps(
            trainer,
            steps,
            checkpoint=checkpoint or self.checkpoint(stage),
            metrics=MetricsFile(self.output / f"metrics-{stage}.jsonl"),
            progress=self.watcher.step,
        )
        self.sampler.load(self.learner.weights())

    def reference(self, name: str, opening: str, section: ReferenceSection) -> ReferenceTable:
        """A table of the model as it is now."""
        sampling = Sampling(
            section.samples,
            section.temperature,
            section.top_p,
            max_tokens=_most_tokens(self.config),
        )
        path = (self.references or self.output) / f"reference-{name}.json"
        return ReferenceTable(
            path,
            model=fingerprint(self.learner),
            opening=opening,
            sampling=sampling,
            grader=self.config.task.grader if self.config.task.file else "",
        )

    def fill(self, table: ReferenceTable, items: list[Item], name: str) -> None:
        """Sample what the table lacks."""
        self.watcher.stage(f"reference ({name})", len(items))
        table.fill(items, self.sampler, self.task, lambda done, total: self.watcher.step(done, {}))


def execute(
    config: AnyConfig, output: Path, watcher: Watcher | None = None, references: Path | None = None
) -> dict[str, object]:
    """Train, measure before and after, write the model and the report; returns the report.

    A run that was interrupted goes on from its last checkpoint and ends in the same weights.

    Args:
        config: What to do.
        output: The run's folder.
        watcher: Where progress goes.
        references: Folder of reference tables shared with other runs; None keeps them in the run's own.
    """
    torch.set_num_threads(1 if config.model.fleet else torch.get_num_threads())
    output.mkdir(parents=True, exist_ok=True)
    for stale in ("report.json", "external.json"):
        (output / stale).unlink(
            missing_ok=True
        )  # whoever finds one must find that of this very configuration
    (output / "config.json").write_text(config.model_dump_json(indent=1) + "\n")
    run = assemble(config, output, watcher or Watcher())
    run.references = references
    if isinstance(config, RelayConfig):
        return _relay(run, config)
    run.watcher.stage("measuring before", 0)
    before = _measured_before(run)
    if isinstance(config, AdaptThinkConfig):
        findings = run_adaptthink(run, config)
    elif isinstance(config, AdaCoTConfig):
        findings = run_adacot(run, config)
    else:
        findings = run_fusion(run, config)
    run.watcher.stage("measuring after", 0)
    after = _measure_modes(run)
    run.learner.save(output / "model")
    report: dict[str, object] = {
        "schema": "thinkroute.training.report/1",
        "config": config.model_dump(mode="json"),
        "before": {name: _described(result) for name, result in before.items()},
        "after": {name: _described(result) for name, result in after.items()},
        "against_thinking": compared(after["free"], before["think"]),
        "dial": _dial(after),
        **findings,
    }
    (output / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def _relay(run: Run, config: RelayConfig) -> dict[str, object]:
    """A relay has no modes to measure: its report is its own."""
    from thinkroute.training.methods.relay_run import run_relay

    report: dict[str, object] = {
        "schema": "thinkroute.training.relay-report/1",
        "config": config.model_dump(mode="json"),
        **run_relay(run, config),
    }
    (run.output / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def assemble(config: AnyConfig, output: Path, watcher: Watcher) -> Run:
    """Load what a run needs."""
    task = _task(config)
    section = config.model
    seats = config.seats if isinstance(config, FusionConfig) else config.rollouts.seats
    if section.fleet is not None:
        directory = section.directory or shipped.directory(section.fleet)
        learner: Learner = FleetLearner(section.fleet, directory)
        sampler: Sampler = EmbeddedSampler(section.fleet, directory, others=_others(config), seats=seats)
        return Run(config, output, learner, sampler, task, QWEN3, watcher)
    assert section.path is not None  # noqa: S101 - the section's own rule
    learner = HuggingFaceLearner(
        section.path,
        device=section.device,
        dtype=section.dtype,
        gradient_checkpointing=section.gradient_checkpointing,
        lora_rank=section.lora_rank,
    )
    sampler = checkpoint_sampler(config, output, learner, seats)
    if section.format == "qwen3":
        return Run(config, output, learner, sampler, task, QWEN3, watcher)
    first = natural_first_token(task.pool(64, config.seed), sampler)
    return Run(config, output, learner, sampler, task, r1_distill(first), watcher, _R1_END)


def _others(config: AnyConfig) -> dict[str, Path]:
    """Members that programs call besides the learner."""
    if not isinstance(config, RelayConfig):
        return {}
    from thinkroute.training.methods.relay_run import TEACHER

    if config.teacher.fleet is None:
        raise ConfigError("an embedded student needs an embedded teacher", param="teacher.fleet")
    return {TEACHER: config.teacher.directory or shipped.directory(config.teacher.fleet)}


def _task(config: TrainingConfig) -> Task:
    section = config.task
    if section.file is None:
        if config.model.path is not None:
            raise ConfigError("a checkpoint needs questions of its own: set task.file", param="task.file")
        return FleetTask(section.families, section.level_shares)
    if section.grader not in GRADERS:
        raise ConfigError(
            f"unknown grader {section.grader!r}; known: {', '.join(GRADERS)}", param="task.grader"
        )
    task = FileTask(section.file, GRADERS[section.grader], section.eval_file)
    for split in (section.split, "eval"):
        task.pool(1, 0, split)  # a file that cannot be used is said so before any weights are loaded
    return task


def _most_tokens(config: AnyConfig) -> int | None:
    """Cap of a response, sampled or measured."""
    return config.most_tokens if isinstance(config, FusionConfig) else config.rollouts.most_tokens


def _measured_before(run: Run) -> dict[str, Measurement]:
    """The initial model; measured once, also where runs share a folder for such things or a run is resumed."""
    asked = run.config.model_dump_json(include={"model", "task", "evaluate", "method", "orders"})
    most = _most_tokens(run.config) or ("" if isinstance(run.config, FusionConfig) else None)
    key = hashlib.sha256(f"{fingerprint(run.learner)} {asked} {most}".encode()).hexdigest()[:12]
    path = (run.references or run.output) / f"before-{key}.json"
    if not path.exists():
        measured = _measure_modes(run)
        partial = path.with_suffix(".partial")
        partial.write_text(
            json.dumps({name: [asdict(row) for row in result.rows] for name, result in measured.items()})
        )
        partial.replace(path)
    stored: dict[str, list[dict[str, Any]]] = json.loads(path.read_text())
    return {name: Measurement([Answered(**row) for row in rows]) for name, rows in stored.items()}


def _measure_modes(run: Run) -> dict[str, Measurement]:
    """The model left to itself and in both forced modes; with flags as well for fusion."""
    count, seed = run.config.evaluate, 0
    if isinstance(run.task, FleetTask):
        items = run.task.by_level(count, seed)
    else:
        items = run.task.pool(count, seed, "eval")
    run.sampler.load(run.learner.weights())
    most = _most_tokens(run.config)

    def asked(forced: str = "", address: Callable[[Item], Messages] = as_asked) -> Measurement:
        rows = measure(
            items, run.sampler, run.task, run.openings, forced=forced, address=address, max_tokens=most
        )
        return Measurement(rows)

    results = {"free": asked(), "think": asked(run.openings.think), "direct": asked(run.openings.no_think)}
    if isinstance(run.config, FusionConfig):
        for name, thinks in ((THINK, True), (NO_THINK, False)):
            rng = Random(f"{seed}/flags/{name}")  # noqa: S311 - the same placements every time
            results[name] = asked(address=lambda item, t=thinks, r=rng: MEASURED_FLAGS.address(item, t, r))
    if isinstance(run.config, AdaCoTConfig) and run.config.orders.share:
        for name in ("always", "never"):
            text = getattr(run.config.orders, name)
            results[name] = asked(address=lambda item, s=text: replace(item, system=s).messages)
    return results


def _dial(after: Mapping[str, Measurement]) -> list[dict[str, object]]:
    """Thresholds on the probability of answering at once: a front from one model, without training."""
    rows = (after["free"].rows, after["think"].rows, after["direct"].rows)
    return [
        {"threshold": threshold, **_described(Measurement(turned(*rows, threshold)))} for threshold in DIAL
    ]


def compared(after: Measurement, before: Measurement) -> dict[str, object]:
    """Gain in accuracy with its paired 95 % interval, and length as a share, under each mix."""
    return {
        mix: {
            "accuracy_gain": [round(value, 4) for value in after.gain_over(before, shares=shares)],
            "length_share": round(after.mean("tokens", shares) / before.mean("tokens", shares), 4),
        }
        for mix, shares in after.mixes(MIXES).items()
    }


def _described(result: Measurement) -> dict[str, object]:
    return result.as_json(result.mixes(MIXES))
