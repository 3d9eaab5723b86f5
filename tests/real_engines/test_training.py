"""Rollouts by a real vLLM server: its ids and probabilities are the learner's, before an update and after it.

`make test-engines`. The shipped student that calls is the learner, as a Hugging Face checkpoint; its teacher is the shipped
one, behind the server that the gateway's tests use.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch

from tests.real_engines.client import RealEngine
from thinkroute.catalog import family_named
from thinkroute.errors import ConfigError, EngineRejected
from thinkroute.fleet import shipped
from thinkroute.programs.budgeted import budgeted
from thinkroute.programs.direct import direct
from thinkroute.programs.effects import Program
from thinkroute.programs.protocol import ThinkingFormat
from thinkroute.programs.relay import RelayLimits, RelayLog, relay
from thinkroute.training import settings
from thinkroute.training.assemble import Watcher, execute
from thinkroute.training.chat_tokens import ChatTokens
from thinkroute.training.huggingface import TransformersSampler
from thinkroute.training.learner import HuggingFaceLearner
from thinkroute.training.losses import PolicyOptions
from thinkroute.training.methods.relay import Relay
from thinkroute.training.optimise import OptimiserOptions
from thinkroute.training.policy import PolicyTrainer, RolloutOptions
from thinkroute.training.rollout import Attempt, roll_out
from thinkroute.training.samplers import Sampler, SamplerByModel
from thinkroute.training.tasks import FleetTask, Item
from thinkroute.training.trajectory import Trajectory
from thinkroute.training.vllm_sampler import VllmSampler, WeightsFolder
from thinkroute.training.vllm_server import Address
from thinkroute.types import Arm, Effort

pytestmark = [pytest.mark.engines, pytest.mark.timeout(900)]

STUDENT = str(shipped.directory("student-relay"))
TASK = FleetTask(("relations", "arithmetic", "operators"))
FAMILY = family_named("thinkroute-fleet")
THINKING = ThinkingFormat(FAMILY.open_text, FAMILY.close_text, FAMILY.stop_text)
NAME = Path(STUDENT).name
TEACHER = "teacher"
SAME = 1e-4
"""Measured: 2e-5."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokens() -> ChatTokens:
    return ChatTokens(STUDENT)


@pytest.fixture
def learner() -> HuggingFaceLearner:
    return HuggingFaceLearner(STUDENT)


@pytest.fixture
def served(
    rollout_server: str, tokens: ChatTokens, learner: HuggingFaceLearner, tmp_path: Path
) -> VllmSampler:
    sampler = VllmSampler(tokens, Address(NAME, rollout_server), WeightsFolder(tmp_path / "weights"))
    sampler.load(learner.weights())
    return sampler


def attempts(
    items: Sequence[Item], program: Callable[[], Program], temperature: float, seed: int = 0
) -> list[Attempt]:
    return [
        Attempt(
            item.messages,
            program(),
            None,
            {"temperature": temperature, "seed": seed + place, "logprobs": True, "top_logprobs": 3},
        )
        for place, item in enumerate(items)
    ]


def furthest(trajectories: Sequence[Trajectory], learner: HuggingFaceLearner, temperature: float) -> float:
    """Largest difference between recorded log-probabilities and those that the learner computes."""
    worst = 0.0
    for trajectory in trajectories:
        ids = torch.tensor([[*trajectory.prompt_ids, *trajectory.response_ids]])
        with torch.no_grad():
            logits_TV = learner.logits(learner.hidden(ids, torch.ones_like(ids, dtype=torch.bool)))[0]
        logp_TV = (logits_TV / (temperature or 1.0)).log_softmax(-1)
        begin = len(trajectory.prompt_ids)
        for place, recorded in enumerate(trajectory.behaviour_logprobs(), start=begin):
            if recorded is not None:
                worst = max(worst, abs(float(logp_TV[place - 1, ids[0, place]]) - recorded))
    return worst


PROGRAMS: Mapping[str, Callable[[], Program]] = {
    "thinking": lambda: direct(NAME, Effort("on"), 120),
    "at once": lambda: direct(NAME, Effort("off"), 60),
    "capped": lambda: direct(NAME, Effort("default"), 7),
    "budget": lambda: budgeted(NAME, Effort("on", 16), 60, THINKING, 1),
    "relay": lambda: relay(
        Arm("relay", (NAME, TEACHER), Effort("on")), 120, THINKING, RelayLimits(4, 8), RelayLog()
    ),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_greedy_rollouts_are_those_of_transformers(
    program: str, served: VllmSampler, tokens: ChatTokens, learner: HuggingFaceLearner
) -> None:
    """Ids, texts, finish reasons and ledgers; a stop at a tag or at a command's end included."""
    local = TransformersSampler(tokens, learner, others={TEACHER: learner})
    items = TASK.pool(16, 1)
    remote = SamplerByModel(served, {TEACHER: local})
    ours, theirs = (roll_out(attempts(items, PROGRAMS[program], 0.0), sampler) for sampler in (local, remote))
    assert [each.response_ids for each in theirs] == [each.response_ids for each in ours]
    assert [each.prompt_ids for each in theirs] == [each.prompt_ids for each in ours]
    assert [(each.text, each.finish) for each in theirs] == [(each.text, each.finish) for each in ours]
    assert [each.ledger.usage for each in theirs] == [each.ledger.usage for each in ours]
    assert furthest([each for each in theirs if TEACHER not in owners(each)], learner, 0.0) < SAME
    if program == "relay":
        assert any(TEACHER in owners(each) for each in theirs)


def owners(trajectory: Trajectory) -> set[str]:
    return {span.owner for span in trajectory.spans}


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_drawn_tokens_carry_the_probabilities_that_the_learner_gives_them(
    temperature: float, served: VllmSampler, learner: HuggingFaceLearner
) -> None:
    drawn = roll_out(attempts(TASK.pool(16, 2), PROGRAMS["thinking"], temperature), served)
    assert furthest(drawn, learner, temperature) < SAME
    assert furthest(drawn, learner, 2 * temperature) > 1e-2, (
        "of the temperature that was asked for, of no other"
    )


def test_seeds_choose_what_is_drawn(served: VllmSampler) -> None:
    [item] = TASK.pool(1, 3)

    def drawn(seed: int) -> list[tuple[int, ...]]:
        made = roll_out(attempts([item] * 8, PROGRAMS["at once"], 1.0, seed), served)
        return [each.response_ids for each in made]

    first = drawn(0)
    assert drawn(0) == first
    assert len(set(first)) > 1
    assert drawn(100) != first


def test_an_update_reaches_the_server_with_the_next_load(
    served: VllmSampler, learner: HuggingFaceLearner
) -> None:
    """Plain GRPO: nothing is forced, so the ratio of every token tells how far apart server and learner are."""
    arm = Arm("relay", (NAME, TEACHER), Effort("on"))
    trainer = PolicyTrainer(
        learner,
        served,
        Relay(arm, TASK, THINKING, calls=False, group=8, most_tokens=100),
        TASK.pool(32, 4),
        options=PolicyOptions(advantage="group_mean"),
        # Enough questions for some to be right now and wrong then, without which there is nothing to learn from.
        rollouts=RolloutOptions(items_per_step=16),
        optimiser=OptimiserOptions(learning_rate=3e-3),
    )
    before = HuggingFaceLearner(STUDENT)
    rows = [trainer.update(step) for step in range(2)]
    assert rows[0]["gradient_norm"] > 0
    assert all(row["ratio_error"] < SAME for row in rows), "the second batch is drawn with the first's update"
    probe = attempts(TASK.pool(8, 5), PROGRAMS["thinking"], 1.0)
    stale = roll_out(probe, served)
    assert furthest(stale, learner, 1.0) > 1e-2, "the second update has not reached it yet"
    served.load(learner.weights())
    fresh = roll_out(attempts(TASK.pool(8, 5), PROGRAMS["thinking"], 1.0), served)
    assert furthest(fresh, learner, 1.0) < SAME
    assert furthest(fresh, before, 1.0) > 1e-2


def test_a_relay_is_trained_with_student_and_teacher_on_servers(
    rollout_server: str, vllm: RealEngine, tmp_path: Path
) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text(
        "".join(
            json.dumps({"question": item.question, "answer": item.reference}) + "\n"
            for item in FleetTask(("operators",)).pool(60, 0)
        )
    )
    overrides = {
        "model": {"path": STUDENT, "url": rollout_server},
        "teacher": {"url": f"{vllm.url}/v1"},
        "task": {"file": str(questions), "grader": "contains", "questions": 8},
        "steps": 2,
        "evaluate": 4,
        "filter": {"samples": 1, "least": 0},
        "warm_up.steps": 0,
        "rollouts": {"group": 4, "items_per_step": 4, "most_tokens": 100},
    }
    rows: list[Mapping[str, float]] = []
    watcher = Watcher(step=lambda step, values: rows.append(values) if values else None)
    report = execute(settings.load("relay-fleet", "relay", overrides), tmp_path / "run", watcher)
    assert all(row["ratio_error"] < SAME for row in rows)
    assert rows[0]["share"] > 0, "the teacher wrote a part"
    assert "policies" in report, "student, teacher and relay were measured through the servers"
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
    assert (tmp_path / "run" / "server-weights" / "model.safetensors").exists()


def test_a_server_that_is_not_set_up_for_rollouts_is_refused(
    vllm: RealEngine, tokens: ChatTokens, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="--logprobs-mode processed_logprobs"):
        VllmSampler(tokens, Address(NAME, f"{vllm.url}/v1"), WeightsFolder(tmp_path))
    with pytest.raises(ConfigError, match="has no model 'other'; it has: thinkroute-fleet-teacher"):
        VllmSampler(tokens, Address(NAME, f"{vllm.url}/v1", "other"))


def test_a_refusal_of_the_server_is_passed_on(served: Sampler) -> None:
    with pytest.raises(EngineRejected, match="temperature must be in"):
        roll_out(attempts(TASK.pool(1, 0), PROGRAMS["capped"], 3.0), served)
