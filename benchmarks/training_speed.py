"""The training core beside TRL's GRPOTrainer: rollout and training speed on the same member, prompts and group sizes.

    python benchmarks/training_speed.py --steps 6 --out docs/results/training-speed.json

Needs the `train` extra and the `trl` dependency group. Both do the same work: plain GRPO (group-normalised advantages,
clipped token ratio, no KL), one update per batch of rollouts, AdamW, one thread. Speed is counted in response tokens per
second, over all responses of a step. The core merges equal responses of a group into one weighted row; it is timed a
second time with that switched off. CPU seconds are kept beside wall seconds, because they do not notice neighbours.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from harness import machine

MEMBER = "base"
GROUP, ITEMS_PER_STEP = 8, 16
MOST_TOKENS = 128
TOKENS_PER_BATCH = 2048  # of the core: little padding, and what is worked on stays in the cache
LEARNING_RATE = 1e-5
WARM_UP_STEPS = 1


@dataclass
class Clock:
    """Seconds and CPU seconds inside one kind of work."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    @contextmanager
    def running(self) -> Any:
        """Count what happens inside."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall_s += time.perf_counter() - wall
            self.cpu_s += time.process_time() - cpu


@dataclass
class Measured:
    """What a trainer did after its warm-up."""

    whole: Clock = field(default_factory=Clock)
    rollouts: Clock = field(default_factory=Clock)
    tokens: int = 0
    responses: int = 0
    right: float = 0.0
    distinct: list[float] = field(default_factory=list[float])

    def as_json(self) -> dict[str, Any]:
        """Tokens per second of rollouts, of training on them, and of both."""

        def speeds(rollout_s: float, whole_s: float) -> dict[str, float]:
            return {
                "rollout_tokens_per_s": round(self.tokens / rollout_s, 1),
                "training_tokens_per_s": round(self.tokens / (whole_s - rollout_s), 1),
                "tokens_per_s": round(self.tokens / whole_s, 1),
            }

        return {
            "responses": self.responses,
            "tokens": self.tokens,
            "mean_reward": round(self.right / max(self.responses, 1), 4),
            "distinct_rows": round(sum(self.distinct) / len(self.distinct), 4) if self.distinct else 1.0,
            "seconds": round(self.whole.wall_s, 2),
            "cpu_seconds": round(self.whole.cpu_s, 2),
            "wall": speeds(self.rollouts.wall_s, self.whole.wall_s),
            "cpu": speeds(self.rollouts.cpu_s, self.whole.cpu_s),
        }


class Timed:
    """A function whose time and results are noted once the warm-up is over."""

    def __init__(self, function: Callable[..., Any], clock: Callable[[], Clock | None]) -> None:
        self._function, self._clock = function, clock

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call it."""
        clock = self._clock()
        if clock is None:
            return self._function(*arguments, **named)
        with clock.running():
            return self._function(*arguments, **named)


def own_core(steps: int, questions: int, *, merge: bool) -> Measured:
    """Plain GRPO on the training core."""
    from thinkroute.fleet import shipped
    from thinkroute.programs.direct import direct
    from thinkroute.training import policy
    from thinkroute.training.learner import FleetLearner
    from thinkroute.training.losses import PolicyOptions
    from thinkroute.training.optimise import OptimiserOptions
    from thinkroute.training.rollout import Attempt
    from thinkroute.training.samplers import EmbeddedSampler
    from thinkroute.training.tasks import Item
    from thinkroute.training.trajectory import Trajectory
    from thinkroute.types import Effort

    task, pool = _questions(questions)
    measured = Measured()
    recording = False

    class Grpo:
        def attempts(self, item: Any, seed: int) -> list[Attempt]:
            options = {"temperature": 1.0, "logprobs": True}
            return [
                Attempt(
                    item.messages,
                    direct(MEMBER, Effort("default"), MOST_TOKENS),
                    None,
                    {**options, "seed": seed + i},
                )
                for i in range(GROUP)
            ]

        def rewards(self, item: Any, group: Sequence[Any]) -> list[dict[str, float]]:
            found = [{"right": task.grade(item, each.text)} for each in group]
            if recording:
                measured.tokens += sum(each.tokens for each in group)
                measured.responses += len(group)
                measured.right += sum(each["right"] for each in found)
            return found

        def excluded(self, trajectory: Any) -> frozenset[int]:
            return frozenset()

        def describe(self, item: Any, trajectory: Any) -> Mapping[str, float]:
            return {}

    class Timing(policy.PolicyTrainer):
        def _roll_out(self, items: Sequence[Item], step: int) -> list[list[Trajectory]]:
            with measured.rollouts.running() if recording else Clock().running():
                return super()._roll_out(items, step)

    learner = FleetLearner(MEMBER, shipped.directory(MEMBER))
    sampler = EmbeddedSampler(MEMBER, shipped.directory(MEMBER), seats=GROUP * ITEMS_PER_STEP)
    merging = policy.merge_equal
    if not merge:
        policy.merge_equal = list
    trainer = Timing(
        learner, sampler, Grpo(), pool,
        options=PolicyOptions(advantage="group_norm", ratio="token", aggregation="token_mean"),
        rollouts=policy.RolloutOptions(items_per_step=ITEMS_PER_STEP, tokens_per_batch=TOKENS_PER_BATCH),
        optimiser=OptimiserOptions(learning_rate=LEARNING_RATE, steps=steps),
    )  # fmt: skip
    try:
        for step in range(steps + WARM_UP_STEPS):
            recording = step >= WARM_UP_STEPS
            with measured.whole.running() if recording else Clock().running():
                values = trainer.update(step)
            if recording:
                measured.distinct.append(values["distinct"])
    finally:
        policy.merge_equal = merging
    return measured


def trl_trainer(steps: int, questions: int) -> Measured:
    """The same with TRL."""
    import torch

    # Untyped, and none of them is needed to measure the core alone.
    transformers, datasets, trl = (import_module(name) for name in ("transformers", "datasets", "trl"))
    from thinkroute.fleet import shipped
    from thinkroute.wire.fleet_prompt import last_turn, render

    task, pool = _questions(questions)
    directory = shipped.directory(MEMBER)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    prompts = [render(last_turn(item.messages)) for item in pool]
    by_prompt = dict(zip(prompts, pool, strict=True))
    measured = Measured()
    steps_done = {"step": 0}

    def reward(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        texts = [tokenizer.decode(ids, skip_special_tokens=False) for ids in completion_ids]
        found = [
            task.grade(by_prompt[prompt], text.replace(tokenizer.eos_token, ""))
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        if steps_done["step"] >= WARM_UP_STEPS:
            measured.tokens += sum(map(len, completion_ids))
            measured.responses += len(completion_ids)
            measured.right += sum(found)
        return found

    class Steps(transformers.TrainerCallback):  # pyright: ignore[reportUntypedBaseClass]
        """A step from its beginning to the optimiser's; fetching its questions is left out."""

        running: Any = None

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            steps_done["step"] = state.global_step
            if state.global_step >= WARM_UP_STEPS:
                self.running = measured.whole.running()
                self.running.__enter__()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.running is not None:
                self.running.__exit__(None, None, None)

    with tempfile.TemporaryDirectory() as folder:
        config = trl.GRPOConfig(
            output_dir=folder, use_cpu=True, bf16=False, fp16=False, gradient_checkpointing=False, report_to=[],
            per_device_train_batch_size=GROUP * ITEMS_PER_STEP, num_generations=GROUP, max_completion_length=MOST_TOKENS,
            temperature=1.0, beta=0.0, learning_rate=LEARNING_RATE, lr_scheduler_type="constant",
            max_steps=steps + WARM_UP_STEPS, logging_strategy="no", save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = trl.GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=config,
            train_dataset=datasets.Dataset.from_dict({"prompt": prompts}),
            processing_class=tokenizer,
            callbacks=[Steps()],
        )

        trainer._generate_and_score_completions = Timed(  # noqa: SLF001
            trainer._generate_and_score_completions,  # noqa: SLF001
            lambda: measured.rollouts if steps_done["step"] >= WARM_UP_STEPS else None,
        )
        trainer.train()
    return measured


def _questions(count: int) -> tuple[Any, list[Any]]:
    from thinkroute.training.tasks import FleetTask

    task = FleetTask(("arithmetic", "story", "relations", "composition"), (0.2,) * 5)
    drawn = task.pool(2 * count, 0, "filter")
    return task, list({item.question: item for item in drawn}.values())[:count]


def ratio(own: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
    """How many times as fast, by CPU seconds."""
    return {name: round(own["cpu"][name] / other["cpu"][name], 2) for name in own["cpu"]}


def main() -> None:
    """Measure all three in one process, one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=6, help="timed steps of each")
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    import torch

    torch.set_num_threads(1)
    own = own_core(given.steps, given.questions, merge=True).as_json()
    unmerged = own_core(given.steps, given.questions, merge=False).as_json()
    trl = trl_trainer(given.steps, given.questions).as_json()
    record = {
        "schema": "thinkroute.benchmark.training-speed/1",
        "command": f"python benchmarks/training_speed.py --steps {given.steps} --questions {given.questions}",
        "machine": msgspec.to_builtins(machine.machine()),
        "commit": machine.commit(),
        "load_average": machine.load_average(),
        "versions": {
            name: version(name) for name in ("torch", "transformers", "trl", "onnxruntime", "numpy")
        },
        "work": {
            "member": MEMBER,
            "group": GROUP,
            "questions_per_step": ITEMS_PER_STEP,
            "most_tokens": MOST_TOKENS,
        },
        "thinkroute": own,
        "thinkroute_without_merging": unmerged,
        "trl": trl,
        "times_as_fast": {"with_merging": ratio(own, trl), "without_merging": ratio(unmerged, trl)},
    }
    text = json.dumps(record, indent=1) + "\n"
    if given.out:
        given.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
