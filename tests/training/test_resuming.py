"""An interrupted run ends in the same bits as one that was not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from thinkroute.fleet import shipped
from thinkroute.programs.protocol import ThinkingFormat
from thinkroute.programs.relay import RelayLimits
from thinkroute.training import settings
from thinkroute.training.assemble import Watcher, execute
from thinkroute.training.batch import Row
from thinkroute.training.learner import FleetLearner, fingerprint
from thinkroute.training.losses import PolicyOptions
from thinkroute.training.methods.adacot import AdaCoT, Labels
from thinkroute.training.methods.adaptthink import AdaptThink
from thinkroute.training.methods.relay import Relay
from thinkroute.training.metrics import MetricsFile
from thinkroute.training.optimise import Checkpoint, OptimiserOptions, run_steps
from thinkroute.training.policy import PolicyTrainer, RolloutOptions
from thinkroute.training.reference import ReferenceTable, Sampling
from thinkroute.training.samplers import EmbeddedSampler
from thinkroute.training.supervised import SupervisedOptions, SupervisedTrainer
from thinkroute.training.tasks import FleetTask, Item
from thinkroute.training.thinking import QWEN3
from thinkroute.training.trajectory import Span, Trajectory
from thinkroute.types import Arm, Effort

DIRECTORY = shipped.directory("base")
TASK = FleetTask(("relations",), (0.5, 0.5, 0.0, 0.0, 0.0))
OPTIMISER = OptimiserOptions(1e-3)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def policy_trainer(method_name: str) -> PolicyTrainer:
    """AdaptThink, AdaCoT, or a relay whose student has learned to call."""
    if method_name == "relay":
        return relay_trainer()
    learner, sampler = FleetLearner("base", DIRECTORY), EmbeddedSampler("base", DIRECTORY, seats=32)
    pool = TASK.pool(12, 0)

    def table(opening: str) -> ReferenceTable:
        made = ReferenceTable(None, model="base", opening=opening, sampling=Sampling(2))
        made.fill(pool, sampler, TASK)
        return made

    think = table(QWEN3.think)
    if method_name == "adaptthink":
        method = AdaptThink("base", TASK, QWEN3, think, group=4)
        options = PolicyOptions("raw", "sequence_mean", "sequence_mean")
    else:
        method = AdaCoT("base", TASK, QWEN3, Labels(think, table(QWEN3.no_think)), group=4)
        options = PolicyOptions("gae", "token", "token_mean", whiten=True)
    return PolicyTrainer(
        learner,
        sampler,
        method,
        pool,
        options=options,
        rollouts=RolloutOptions(seed=5, items_per_step=3),
        optimiser=OPTIMISER,
    )


def relay_trainer() -> PolicyTrainer:
    student = shipped.directory("student-relay")
    others = {"teacher": shipped.directory("teacher")}
    task = FleetTask(("operators",), (1.0, 0.0, 0.0, 0.0, 0.0))
    return PolicyTrainer(
        FleetLearner("student-relay", student),
        EmbeddedSampler("student-relay", student, others=others, seats=32),
        Relay(
            Arm("relay", ("student-relay", "teacher"), Effort("on")),
            task,
            ThinkingFormat(),
            limits=RelayLimits(most_calls=4, most_tokens_per_call=4),
            group=4,
            most_tokens=60,
        ),
        task.pool(12, 0, "filter"),
        options=PolicyOptions("group_norm_unbiased", kl_coefficient=0.01),
        rollouts=RolloutOptions(seed=5, items_per_step=4, updates=2),
        optimiser=OPTIMISER,
        reference=FleetLearner("reference", student),
    )


def state(trainer: PolicyTrainer | SupervisedTrainer) -> list[torch.Tensor]:
    return [value.clone() for module in trainer.modules for value in module.state_dict().values()]


@pytest.mark.parametrize("method", ["adaptthink", "adacot", "relay"])
def test_a_resumed_policy_run_ends_in_the_same_bits(method: str, tmp_path: Path) -> None:
    whole = policy_trainer(method)
    run_steps(whole, 4, metrics=MetricsFile(tmp_path / "whole.jsonl"))
    checkpoint = Checkpoint(tmp_path / "state.pt", "run", every_steps=2)
    metrics = MetricsFile(tmp_path / "parts.jsonl")
    run_steps(policy_trainer(method), 2, checkpoint=checkpoint, metrics=metrics)
    metrics.write(2, {"reward": 9.0})  # a step that was done but never saved
    resumed = policy_trainer(method)
    run_steps(resumed, 4, checkpoint=checkpoint, metrics=metrics)
    assert method != "relay" or any(row["calls"] for row in metrics.read()), "hand-overs are part of it"
    assert all(torch.equal(left, right) for left, right in zip(state(whole), state(resumed), strict=True))
    assert metrics.read() == MetricsFile(tmp_path / "whole.jsonl").read()


def supervised_trainer() -> SupervisedTrainer:
    learner = FleetLearner("base", DIRECTORY)
    rows = [
        Row(Trajectory(tuple(range(20, 30 + place)), (Span((40, 41, 42 + place), "base"),), ""))
        for place in range(5)
    ]
    return SupervisedTrainer(learner, rows, options=SupervisedOptions(1, 3), optimiser=OPTIMISER)


def test_a_resumed_supervised_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole = supervised_trainer()
    losses: list[float] = []
    run_steps(whole, 6, progress=lambda step, values: losses.append(values["loss"]))
    assert losses[-1] < losses[0]
    checkpoint = Checkpoint(tmp_path / "state.pt", "run", every_steps=3)
    run_steps(supervised_trainer(), 3, checkpoint=checkpoint)
    resumed = supervised_trainer()
    run_steps(resumed, 6, checkpoint=checkpoint)
    assert all(torch.equal(left, right) for left, right in zip(state(whole), state(resumed), strict=True))


def test_a_checkpoint_of_another_run_is_not_continued(tmp_path: Path) -> None:
    run_steps(supervised_trainer(), 2, checkpoint=Checkpoint(tmp_path / "state.pt", "one", every_steps=1))
    assert Checkpoint(tmp_path / "state.pt", "other").resume(supervised_trainer()) == 0


def test_reference_statistics_are_reused_for_the_same_weights_only(tmp_path: Path) -> None:
    sampler, learner = EmbeddedSampler("base", DIRECTORY, seats=32), FleetLearner("base", DIRECTORY)
    pool = TASK.pool(4, 0)
    path, model = tmp_path / "table.json", fingerprint(learner)
    first = ReferenceTable(path, model=model, opening=QWEN3.think, sampling=Sampling(2))
    first.fill(pool, sampler, TASK)
    asked: list[int] = []
    again = ReferenceTable(path, model=model, opening=QWEN3.think, sampling=Sampling(2))
    again.fill(pool, sampler, TASK, lambda done, total: asked.append(total))
    assert not asked
    assert [again[item] for item in pool] == [first[item] for item in pool]
    other = ReferenceTable(path, model="other", opening=QWEN3.think, sampling=Sampling(2))
    other.fill(pool, sampler, TASK, lambda done, total: asked.append(total))
    assert asked == [4]


def test_reference_statistics_are_not_reused_for_other_grades(tmp_path: Path) -> None:
    sampler = EmbeddedSampler("base", DIRECTORY, seats=32)
    pool, path = TASK.pool(4, 0), tmp_path / "table.json"

    def asked(items: Sequence[Item], grader: str) -> int:
        totals: list[int] = []
        table = ReferenceTable(path, model="base", opening=QWEN3.think, sampling=Sampling(1), grader=grader)
        table.fill(items, sampler, TASK, lambda done, total: totals.append(total))
        return sum(totals)

    assert asked(pool, "number") == 4
    assert asked(pool, "number") == 0
    assert asked([replace(item, reference="0") for item in pool], "number") == 4
    assert asked(pool, "exact") == 4


def test_an_interrupted_run_leaves_no_report_of_an_earlier_one(tmp_path: Path) -> None:
    """Whoever reads a folder must not take what another configuration achieved for this one's."""
    for name in ("report.json", "external.json"):
        (tmp_path / name).write_text("{}")

    def interrupt(name: str, steps: int) -> None:
        raise KeyboardInterrupt

    config = settings.load("adaptthink-fleet", "adaptthink")
    with pytest.raises(KeyboardInterrupt):
        execute(config, tmp_path, Watcher(stage=interrupt))
    assert (tmp_path / "config.json").exists()
    assert not any((tmp_path / name).exists() for name in ("report.json", "external.json"))


def test_reference_samples_drawn_before_an_interruption_are_kept(tmp_path: Path) -> None:
    sampler = EmbeddedSampler("base", DIRECTORY, seats=32)
    pool = list({item.question: item for item in TASK.pool(60, 0)}.values())[:40]
    path, totals = tmp_path / "table.json", list[int]()

    def table() -> ReferenceTable:
        return ReferenceTable(path, model="base", opening=QWEN3.no_think, sampling=Sampling(32))

    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        table().fill(pool, sampler, TASK, interrupted)
    again = table()
    again.fill(pool, sampler, TASK, lambda done, total: totals.append(total))
    assert 0 < totals[-1] < len(pool)
    whole = ReferenceTable(None, model="base", opening=QWEN3.no_think, sampling=Sampling(32))
    whole.fill(pool, sampler, TASK)
    assert [again[item] for item in pool] == [whole[item] for item in pool]


def test_what_is_saved_is_served(tmp_path: Path) -> None:
    learner = FleetLearner("base", DIRECTORY)
    with torch.no_grad():
        for parameter in learner.module.parameters():
            parameter.mul_(1.01)
    learner.save(tmp_path / "model")
    served = EmbeddedSampler("base", tmp_path / "model", seats=8)
    pushed = EmbeddedSampler("base", DIRECTORY, seats=8)
    pushed.load(FleetLearner("base", tmp_path / "model").weights())
    pool = TASK.pool(4, 1)
    sampling = Sampling(1, temperature=0.5)
    tables = [ReferenceTable(None, model="x", opening="", sampling=sampling) for _ in range(2)]
    for table, sampler in zip(tables, (served, pushed), strict=True):
        table.fill(pool, sampler, TASK)
    assert [tables[0][item] for item in pool] == [tables[1][item] for item in pool]
