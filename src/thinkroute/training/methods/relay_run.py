"""The stages of a relay training: filter, warm-up, reinforcement, and the judgement of what came out."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isnan
from typing import TYPE_CHECKING, Any

from thinkroute.catalog import family_named
from thinkroute.errors import DataError
from thinkroute.evaluation.relay import Answers, Comparison, Line
from thinkroute.fleet import shipped
from thinkroute.fleet.recipe import RECIPES
from thinkroute.fleet.tasks import Split
from thinkroute.programs.protocol import Call, Segment, ThinkingFormat
from thinkroute.programs.relay import RelayLimits
from thinkroute.training.batch import Row
from thinkroute.training.learner import FleetLearner
from thinkroute.training.losses import PolicyOptions
from thinkroute.training.methods.relay import Relay, RelayReward, grade
from thinkroute.training.methods.relay_judge import BatchBench, by, places, query_baselines, random_baselines
from thinkroute.training.methods.relay_warmup import Insertion, WarmUp
from thinkroute.training.methods.token_router import judge_routers
from thinkroute.training.optimise import Checkpoint, OptimiserOptions
from thinkroute.training.policy import PolicyTrainer, RolloutOptions
from thinkroute.training.reference import ReferenceTable, Sampling, solvable
from thinkroute.training.samplers import Sampler, Weights
from thinkroute.training.settings import RelayConfig
from thinkroute.training.supervised import SupervisedOptions, SupervisedTrainer
from thinkroute.training.tasks import FleetTask, Item, Task
from thinkroute.types import Arm, Effort

if TYPE_CHECKING:
    from thinkroute.training.assemble import Run

TEACHER = "relay-teacher"
"""What the teacher is called in trajectories."""


@dataclass(slots=True)
class Voice:
    """A sampler with another of its models in the learner's place: what samples of the teacher are drawn with."""

    sampler: Sampler
    model: str

    def encode(self, text: str) -> list[int]:
        """Token ids."""
        return self.sampler.encode(text)

    def prompt_ids(self, call: Call) -> list[int]:
        """The ids a call continues."""
        return self.sampler.prompt_ids(call)

    def generate(self, calls: Sequence[Call]) -> Sequence[Segment]:
        """One segment per call."""
        return self.sampler.generate(calls)

    def load(self, weights: Weights) -> None:
        """Nothing: it is frozen."""


@dataclass(frozen=True, slots=True)
class GradedAsRelay:
    """A task that grades messages whose block the prompt holds."""

    task: Task

    def pool(self, count: int, seed: int, split: Split = "train") -> list[Item]:
        """The task's questions."""
        return self.task.pool(count, seed, split)

    def grade(self, item: Item, response: str) -> float:
        """As a relay is graded."""
        return grade(self.task, item, response)


def run_relay(run: Run, config: RelayConfig) -> dict[str, object]:
    """All stages; leaves the model in the run's folder and returns the findings."""
    arm = Arm("relay", (run.sampler.model, TEACHER), Effort(config.effort))
    pool = run.task.pool(config.task.questions, config.task.seed, config.task.split)
    run.sampler.load(run.learner.weights())
    untrained: Weights = {}
    if config.model.fleet:  # a checkpoint's are too many to keep
        untrained = {name: values.copy() for name, values in run.learner.weights().items()}
    run.watcher.stage("measuring before", 0)
    bench = _bench(run, config, arm)
    alone = bench.alone(arm.models[0], sureness=True)[0]
    taught = bench.alone(TEACHER)[0]
    kept = _filtered(run, config, pool)
    if config.calls and config.warm_up.steps:
        _warm_up(run, config, arm, kept)
    method = _method(run, config, arm)
    reference = copy.deepcopy(run.learner) if config.kl else None
    trainer = PolicyTrainer(
        run.learner,
        run.sampler,
        method,
        kept,
        options=PolicyOptions(
            advantage=config.advantage,
            ratio="token",
            aggregation=config.aggregation,
            constant_tokens=config.rollouts.most_tokens or 1,
            clip_low=config.clip,
            clip_high=config.clip,
            kl_coefficient=config.kl,
        ),
        rollouts=RolloutOptions(
            config.seed,
            config.rollouts.items_per_step,
            config.rollouts.temperature,
            config.rollouts.epochs,
            config.rollouts.updates,
            config.rollouts.tokens_per_batch,
        ),
        optimiser=OptimiserOptions(**config.optimiser.model_dump(), steps=config.steps),
        reference=reference,
    )
    # What is measured afterwards changes no weight, so a run may be measured anew without being trained anew.
    identity = config.model_dump_json(exclude={"evaluate", "token_routers", "checkpoint_every"})
    checkpoint = Checkpoint(run.output / "checkpoint-reinforce.pt", identity, config.checkpoint_every)
    run.train(trainer, config.steps, "reinforce", checkpoint)
    run.learner.save(run.output / "model")
    if config.model.fleet:  # judged is what is stored, rounded to bfloat16
        run.sampler.load(FleetLearner(config.model.fleet, run.output / "model").weights())
    run.watcher.stage("measuring after", 0)
    findings = judged(bench, method, (alone, taught), untrained, seed=config.seed)
    if config.token_routers and config.model.fleet and config.teacher.fleet:
        share = next(line["teacher_share"] for line in findings["policies"] if line["policy"] == "relay")
        findings["token_routers"] = judge_routers(run, config, bench, kept, (alone, taught), share)
    return {"questions": {"pool": len(pool), "kept": len(kept), "evaluated": len(bench.items)}, **findings}


def _method(run: Run, config: RelayConfig, arm: Arm) -> Relay:
    return Relay(
        arm,
        run.task,
        thinking_of(config),
        RelayReward(**config.reward.model_dump()),
        limits_of(config),
        config.calls,
        config.rollouts.group,
        config.rollouts.temperature,
        config.rollouts.most_tokens,
    )


def limits_of(config: RelayConfig) -> RelayLimits:
    """The relay's bounds, in training as in judging."""
    return RelayLimits(
        config.most_calls,
        config.most_tokens_per_call,
        teacher_timeout_s=1e9,
        fixed_tokens=config.fixed_tokens,
    )


def thinking_of(config: RelayConfig) -> ThinkingFormat:
    """How the student writes thinking."""
    family = family_named("thinkroute-fleet" if config.model.fleet else "qwen3")
    return ThinkingFormat(family.open_text, family.close_text, family.stop_text)


def _bench(run: Run, config: RelayConfig, arm: Arm) -> BatchBench:
    if isinstance(run.task, FleetTask):
        items = run.task.by_level(config.evaluate, seed=0)
    else:
        items = run.task.pool(config.evaluate, 0, "eval")
    prices = {}
    if config.model.fleet and config.teacher.fleet:
        names = (config.model.fleet, config.teacher.fleet)
        known = {**shipped.MEMBERS, **shipped.TRAINED}
        prices = {name: known[member].price for name, member in zip(arm.models, names, strict=True)}
    return BatchBench(
        arm, run.sampler, run.task, items, thinking_of(config), prices, config.rollouts.most_tokens
    )


def _filtered(run: Run, config: RelayConfig, pool: list[Item]) -> list[Item]:
    """The questions that the teacher passes often enough; all where nothing is to be sampled."""
    section = config.filter
    if not section.samples:
        return pool
    sampling = Sampling(
        section.samples, section.temperature, section.top_p, max_tokens=config.rollouts.most_tokens
    )
    table = ReferenceTable(
        (run.references or run.output) / "reference-teacher.json",
        model=config.teacher.model_dump_json(),
        opening="",
        sampling=sampling,
        # What it passes must be what it can do as it will be called; left to itself it thinks, as with `on`.
        effort=Effort("off" if config.effort == "off" else "default"),
    )
    run.watcher.stage("teacher's pass rates", len(pool))
    voice = Voice(run.sampler, TEACHER)
    table.fill(pool, voice, GradedAsRelay(run.task), lambda done, total: run.watcher.step(done, {}))
    kept = solvable(pool, table, least=section.least)
    if not kept:
        raise DataError(
            f"the teacher passes none of {len(pool)} questions in {section.least:.0%} of {section.samples} samples: "
            "lower filter.least, or keep all by filter.samples=0"
        )
    return kept


def _warm_up(run: Run, config: RelayConfig, arm: Arm, pool: Sequence[Item]) -> None:
    """Learn the command; runs that share all that matters here share its result."""
    section = config.warm_up
    shared = config.model_dump_json(
        include={"model", "task", "effort", "filter", "teacher", "warm_up", "seed"}
    )
    name = hashlib.blake2b(shared.encode(), digest_size=6).hexdigest()
    checkpoint = Checkpoint((run.references or run.output) / f"warm-up-{name}.pt", shared, section.steps)
    builder = WarmUp(
        arm,
        Insertion(section.lengths, section.per_position, section.most_commands, section.clean_share),
        section.temperature,
        section.samples,
        config.rollouts.most_tokens,
    )
    run.watcher.stage("sampling the student", 0)
    done = checkpoint.path.exists()
    chosen = pool[: 1 if done else section.questions]
    rows = [Row(each) for each in builder.build(chosen, run.sampler, config.seed)]
    trainer = SupervisedTrainer(
        run.learner,
        rows,
        options=SupervisedOptions(config.seed, section.examples_per_step),
        optimiser=OptimiserOptions(**section.optimiser.model_dump(), steps=section.steps),
    )
    run.train(trainer, section.steps, "warm-up", checkpoint)


def judged(
    bench: BatchBench, method: Relay, ends: tuple[Answers, Answers], untrained: Weights, *, seed: int
) -> dict[str, Any]:
    """What the trained student does, beside its baselines.

    Args:
        bench: Its sampler holds the trained student.
        method: What was trained.
        ends: The untrained student and the teacher, alone.
        untrained: The untrained student, who hands over at random; empty leaves that baseline out.
        seed: Of the random places.
    """
    alone, taught = ends
    table = Comparison(alone, taught)
    student, teacher = bench.arm.models
    if not method.calls:
        trained = bench.alone(student)[0]
        lines = [table.line(alone), table.line(taught), table.line(trained)]
        names = ("student", "teacher", "plain GRPO")
        return {
            "policies": [_stored(line, name) for line, name in zip(lines, names, strict=True)],
            "by_family": by(bench.items, trained, lambda item: item.family),
            "by_level": by(bench.items, trained, lambda item: item.level),
        }
    relayed, written = bench.relay("relay", method.limits)
    trained_alone = [bench.banned("relay, calls banned"), bench.relay("relay, no teacher", RelayLimits(0))[0]]
    lines = [table.line(each) for each in (alone, taught, relayed, *trained_alone)]
    lines += query_baselines(table, relayed)
    if untrained:
        bench.sampler.load(untrained)
        lines += random_baselines(bench, table, relayed, seed=seed)
    findings: dict[str, Any] = {
        "policies": [
            _stored(line, {student: "student", teacher: "teacher"}.get(line.policy, line.policy))
            for line in lines
        ],
        "by_family": by(bench.items, relayed, lambda item: item.family),
        "by_level": by(bench.items, relayed, lambda item: item.level),
    }
    if isinstance(bench.task, FleetTask):
        unknown = RECIPES["student"].mixture.unknown
        findings["where"] = places(bench.items, written, relayed, teacher, unknown)
    return findings


def _stored(line: Line, policy: str) -> dict[str, Any]:
    """A line of the report; what is not known (the cost, without prices) is null, as JSON has no other word for it."""
    values = {**asdict(line), "policy": policy}
    return {
        name: None if isinstance(value, float) and isnan(value) else value for name, value in values.items()
    }
