"""Every method on the fleet, in smoke versions: what it attempts, masks, builds, and that it learns."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from thinkroute.engines.embedded.prompt import last_turn
from thinkroute.errors import DataError
from thinkroute.evaluation.graders import GRADERS
from thinkroute.fleet import shipped
from thinkroute.programs.direct import direct
from thinkroute.programs.protocol import ThinkingFormat
from thinkroute.training import settings
from thinkroute.training.assemble import Watcher, execute
from thinkroute.training.learner import FleetLearner, HuggingFaceLearner
from thinkroute.training.methods.adacot import AdaCoT, Labels, Orders, Penalties
from thinkroute.training.methods.adaptthink import AdaptThink
from thinkroute.training.methods.fusion import NO_THINK, THINK, Flags, Fusion, flagged
from thinkroute.training.optimise import OptimiserOptions
from thinkroute.training.reference import ReferenceTable, Sampling
from thinkroute.training.rollout import Attempt, roll_out
from thinkroute.training.samplers import EmbeddedSampler
from thinkroute.training.supervised import SupervisedOptions, SupervisedTrainer
from thinkroute.training.tasks import FileTask, FleetTask, Item, items_at
from thinkroute.training.thinking import QWEN3, has_reasoning
from thinkroute.types import FORCED, Effort

DIRECTORY = shipped.directory("base")
TASK = FleetTask(("relations", "arithmetic"))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def sampler() -> EmbeddedSampler:
    return EmbeddedSampler("base", DIRECTORY, seats=64)


def empty_table() -> ReferenceTable:
    return ReferenceTable(None, model="base", opening=QWEN3.think, sampling=Sampling(2))


@pytest.mark.parametrize("name", settings.shipped())
def test_every_shipped_configuration_loads(name: str) -> None:
    method = name.partition("-")[0]
    assert settings.load(name, method).method == method


def test_the_papers_hyper_parameters_are_the_shipped_ones() -> None:
    config = settings.load("adaptthink-r1-distill-1.5b", "adaptthink")
    assert isinstance(config, settings.AdaptThinkConfig)
    assert (config.delta, config.ratio, config.clip, config.steps) == (0.05, "sequence_mean", 0.2, 314)
    assert (config.rollouts.items_per_step, config.rollouts.group) == (128, 16)
    assert (config.rollouts.most_tokens, config.rollouts.most_tokens_direct) == (16_384, 4_096)
    assert config.reference.samples == 16
    assert (config.optimiser.learning_rate, config.optimiser.weight_decay) == (2e-6, 0.01)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"delt": 1}, "delt: unknown key; did you mean delta"),
        ({"rollouts.group": 0}, r"rollouts\.group"),
        ({"model.path": "x"}, "exactly one"),
        ({"task.level_shares": [0, 0, 0, 0, 0]}, "level_shares: one level"),
        ({"task.level_shares": [1, -1, 0, 0, 0]}, r"level_shares\.1"),
        ({"optimiser.betas": [2, 3]}, r"betas\.0"),
        ({"task.grader": "exact"}, "`grader` is about `file`, which is not set"),
        ({"forced": False}, "thinking: free says"),
        ({"model": {"path": "x"}, "rollouts.most_tokens": None}, "how long a checkpoint's responses may get"),
    ],
)
def test_a_wrong_value_is_named(overrides: Mapping[str, object], message: str) -> None:
    with pytest.raises(settings.ConfigError, match=message):
        settings.load("adaptthink-fleet", "adaptthink", overrides)


@pytest.mark.parametrize(
    ("method", "overrides", "message"),
    [
        ("adacot", {"reinforced_levels": [9]}, r"reinforced_levels\.0"),
        ("adacot", {"reinforced_levels": [1], "task.level_shares": [0, 1, 1, 1, 1]}, "has none of"),
        ("adacot", {"orders.always": "Think!", "orders.share": 0.1}, "members read only /think"),
        ("fusion", {"cut_tokens": [1, 9]}, "does nothing without cut_share"),
        ("fusion", {"cut_share": 0.2, "cut_tokens": [9, 1]}, "least before most"),
        ("fusion", {"cut_share": 0.7}, "add up to at most 1"),
        ("fusion", {"cut_share": 0.2, "most_tokens": 90}, "below most_tokens"),
    ],
)
def test_settings_that_cannot_work_together_are_refused(
    method: str, overrides: Mapping[str, object], message: str
) -> None:
    with pytest.raises(settings.ConfigError, match=message):
        settings.load(f"{method}-fleet", method, overrides)


def test_questions_to_measure_on_may_come_from_a_file_of_their_own(tmp_path: Path) -> None:
    rows = [json.dumps({"question": str(number), "answer": "1"}) + "\n" for number in range(20)]
    (tmp_path / "train.jsonl").write_text("".join(rows))
    (tmp_path / "eval.jsonl").write_text("".join(rows[:3]))
    split = FileTask(tmp_path / "train.jsonl", GRADERS["number"])
    own = FileTask(tmp_path / "train.jsonl", GRADERS["number"], tmp_path / "eval.jsonl")
    assert [len(split.pool(99, 0, name)) for name in ("train", "filter", "eval")] == [16, 2, 2]
    assert [len(own.pool(99, 0, name)) for name in ("train", "filter", "eval")] == [18, 2, 3]


def test_adaptthink_forces_half_of_a_group_each_way_with_log_one_half(sampler: EmbeddedSampler) -> None:
    item = TASK.pool(1, 0)[0]
    group = roll_out(AdaptThink("base", TASK, QWEN3, empty_table(), group=8).attempts(item, 7), sampler)
    assert [has_reasoning(each.text) for each in group] == [False, True] * 4
    assert all(
        each.behaviour_logprobs()[QWEN3.decision] == pytest.approx(-0.6931, abs=1e-4) for each in group
    )
    assert all(each.trained("base")[: QWEN3.decision + 1] == [False, True] for each in group)


def test_a_free_thinking_half_carries_its_own_probabilities(sampler: EmbeddedSampler) -> None:
    item = TASK.pool(1, 0)[0]
    method = AdaptThink("base", TASK, QWEN3, empty_table(), group=4, thinking="free")
    forced, free, *_ = roll_out(method.attempts(item, 7), sampler)
    assert [span.owner for span in forced.spans] == [FORCED, "base"]
    assert [span.owner for span in free.spans] == ["base"]
    assert all(free.trained("base"))
    assert None not in free.behaviour_logprobs()


def test_rewards_follow_any_permutation_of_the_group(sampler: EmbeddedSampler) -> None:
    item = TASK.pool(1, 0)[0]
    table = empty_table()
    table.fill([item], sampler, TASK)
    for method in (
        AdaptThink("base", TASK, QWEN3, table, group=6),
        AdaCoT("base", TASK, QWEN3, Labels(table, table), group=6),
    ):
        group = roll_out(method.attempts(item, 1), sampler)
        plain = list(method.rewards(item, group))
        assert list(method.rewards(item, group[::-1])) == plain[::-1]


def test_selective_loss_masking_leaves_out_exactly_the_token_after_the_open_tag(
    sampler: EmbeddedSampler,
) -> None:
    item = TASK.pool(1, 0)[0]
    table = empty_table()
    method = AdaCoT("base", TASK, QWEN3, Labels(table, table), masks_decision=True, group=2)
    unmasked = AdaCoT("base", TASK, QWEN3, Labels(table, table))
    for each in roll_out(method.attempts(item, 1), sampler):
        assert not unmasked.excluded(each)
        [position] = method.excluded(each)
        before = sampler.encode("<think>")
        assert list(each.response_ids[:position]) == before
        assert each.response_ids[position] in (sampler.encode("\n")[0], sampler.encode("\n\n")[0])


@pytest.mark.parametrize("thinks", [True, False])
def test_the_last_flag_asks_for_the_sample_s_mode(thinks: bool) -> None:
    rng = Random(0)
    flags = Flags(none_share=0.3, several_share=0.5, front_share=0.3)
    counts = {"": 0, THINK: 0, NO_THINK: 0}
    for _ in range(300):
        turn = last_turn([{"role": "user", "content": flagged("who is x", thinks, flags, rng)}])
        assert turn.question == "who is x"
        counts[turn.switch] += 1
    assert counts[NO_THINK if thinks else THINK] == 0
    assert counts[""] == 0 if not thinks else 60 < counts[""] < 120


def test_a_share_of_the_flags_stands_in_a_system_message() -> None:
    rng, item = Random(0), Item("who is x", "")
    asked = [Flags(system_share=0.5).address(item, thinks, rng) for thinks in (True, False) * 100]
    alone = [messages for messages in asked if len(messages) == 2]
    assert 70 < len(alone) < 130
    assert {(messages[0]["content"], messages[1]["content"]) for messages in alone} == {
        (THINK, "who is x"),
        (NO_THINK, "who is x"),
    }
    assert all(last_turn(messages).switch == NO_THINK for messages in asked[1::2])


def test_fusion_keeps_only_right_thoughts_of_the_model_itself(sampler: EmbeddedSampler) -> None:
    builder = Fusion(TASK, QWEN3, "<|im_end|>")
    items = TASK.pool(20, 3)
    thoughts = list(builder.thinking(items, sampler, 0))
    assert 0 < len(thoughts) <= 20
    for each in thoughts:
        assert has_reasoning(each.text)
        assert all(each.trained("base")), "all of it is the learner's, the opening too"
        assert each.response_ids[-1] == sampler.encode("<|im_end|>")[0]


def test_fusions_answers_stand_behind_an_empty_block_unless_that_is_ablated(sampler: EmbeddedSampler) -> None:
    items = TASK.pool(5, 3)
    for empty_block in (True, False):
        builder = Fusion(TASK, QWEN3, "<|im_end|>", empty_block=empty_block)
        for item, each in zip(items, builder.direct(items, sampler, 0), strict=True):
            text = f"{QWEN3.empty_block if empty_block else ''}{item.direct}<|im_end|>"
            assert list(each.response_ids) == sampler.encode(text)


THINKING = ThinkingFormat("<think>\n", "\n</think>\n\n", "")


def test_behind_a_thought_that_a_budget_cut_only_the_answer_is_learned(sampler: EmbeddedSampler) -> None:
    items = FleetTask(("relations", "arithmetic"), (0, 0, 0, 0, 1)).pool(20, 3)
    builder = Fusion(TASK, QWEN3, "<|im_end|>")
    cut = list(builder.cut(items, sampler, 0, THINKING, (4, 12)))
    assert len(cut) == 20, "no thought ends so early"
    for item, each in zip(items, cut, strict=True):
        thought, forced, answer = each.spans
        assert len(thought.ids) <= 12
        assert forced.owner == FORCED
        assert list(answer.ids) == sampler.encode(f"{item.direct}<|im_end|>")
        trained = each.trained("base")
        assert not any(trained[: -len(answer.ids)])
        assert all(trained[-len(answer.ids) :])
        assert each.text.endswith(f"</think>\n\n{item.direct}")
    assert not list(builder.cut(items, sampler, 0, THINKING, (400, 400))), "nothing was cut"
    capped = Fusion(TASK, QWEN3, "<|im_end|>", most_tokens=8)
    assert not list(capped.cut(items, sampler, 0, THINKING, (8, 12))), "the cap left no room for an answer"


def test_without_written_answers_the_model_s_own_are_kept_where_they_are_right(
    sampler: EmbeddedSampler,
) -> None:
    items = [replace(item, direct="") for item in FleetTask(("relations",), (0, 1, 0, 0, 0)).pool(20, 3)]
    cut = list(Fusion(TASK, QWEN3, "<|im_end|>").cut(items, sampler, 0, THINKING, (4, 30)))
    assert 0 < len(cut) < 20
    assert all(each.response_ids[-1] == sampler.encode("<|im_end|>")[0] for each in cut)


def test_an_order_overrules_the_label_and_disobeying_it_is_never_worth_it(sampler: EmbeddedSampler) -> None:
    table = empty_table()
    orders = Orders("/think", "/no_think")
    asked = orders.given(TASK.pool(200, 0), 0.5, 1)
    assert asked == orders.given(TASK.pool(200, 0), 0.5, 1)
    counts = Counter(item.system for item in asked)
    assert 30 < counts["/think"] < 70
    assert 30 < counts["/no_think"] < 70
    item = replace(asked[0], system="/no_think")
    table.fill([item], sampler, TASK)
    method = AdaCoT("base", TASK, QWEN3, Labels(table, table, orders=orders), Penalties(0.3, 0.1))
    assert not method.labels[item]
    assert method.labels[replace(item, system="/think")]
    group = roll_out([Attempt(item.messages, direct("base", Effort("on"), None))], sampler)
    [thought] = method.rewards(item, group)
    [ordered] = method.rewards(replace(item, system="/think"), group)
    assert has_reasoning(group[0].text)
    assert sum(thought.values()) == pytest.approx(-1.1), "right, but nobody asked for a thought"
    assert sum(ordered.values()) == pytest.approx(1.0)


def test_every_pass_over_the_questions_is_a_permutation() -> None:
    pool = [Item(str(number), "") for number in range(10)]
    steps = [items_at(pool, step, 4, seed=1) for step in range(5)]
    flat = [item.question for step in steps for item in step]
    assert sorted(flat[:10]) == sorted(flat[10:]) == sorted(item.question for item in pool)
    assert flat[:10] != flat[10:]


@pytest.mark.parametrize(
    ("response", "quality"),
    [
        ("<think>\nso\n</think>\n\n42", 1.0),
        ("so\n</think>\n\n42", 1.0),
        ("</think>\n\n41", 0.0),
        ("42", 0.0),
        ("<think>\nmaybe 42", 0.0),
        ("</think><think>\nmaybe 42", 0.0),
        ("</think></think>42", 0.0),
        ("<think>a<think>b</think>42", 0.0),
    ],
)
def test_an_answer_counts_behind_exactly_one_block(response: str, quality: float) -> None:
    """AdaptThink's rule for R; a thought that was cut is no answer, whatever number it ends with."""
    task = FileTask(Path("unread"), GRADERS["number"])
    assert task.grade(Item("6 * 7", "42"), response) == quality


def test_thoughts_that_the_cap_cuts_are_not_learned_from(sampler: EmbeddedSampler) -> None:
    items = TASK.pool(6, 3)
    assert not list(Fusion(TASK, QWEN3, "<|im_end|>", most_tokens=6).thinking(items, sampler, 0))
    with pytest.raises(settings.ConfigError, match="most_tokens"):
        settings.load("fusion-qwen3-1.7b", "fusion", {"most_tokens": None})


def test_nothing_to_learn_from_is_said_so() -> None:
    learner = FleetLearner("base", DIRECTORY)
    with pytest.raises(DataError, match="no examples"):
        SupervisedTrainer(learner, [], options=SupervisedOptions(), optimiser=OptimiserOptions())


SMOKE: Mapping[str, Mapping[str, object]] = {
    "adaptthink": {
        "reference.samples": 2,
        "steps": 10,
        "optimiser.learning_rate": 2e-3,
        "delta": 0.5,
        "rollouts.group": 8,
    },
    "adacot": {"reference.samples": 2, "steps": 2, "warm_up.steps": 12},
    "fusion": {"steps": 25, "optimiser.schedule": "constant"},
}


@pytest.mark.parametrize("method", SMOKE)
def test_a_smoke_run_learns_and_leaves_a_whole_folder(method: str, tmp_path: Path) -> None:
    """Minutes become seconds; what must hold is only the direction."""
    common = {
        "task.questions": 40,
        "evaluate": 2,
        "task.families": ["relations"],
        "task.level_shares": [1, 0, 0, 0, 0],
    }
    config = settings.load(f"{method}-fleet", method, {**common, **SMOKE[method]})
    seen: list[Mapping[str, float]] = []
    report = execute(
        config, tmp_path, Watcher(step=lambda step, values: seen.append(values) if values else None)
    )
    for name in ("config.json", "report.json", "model/model.safetensors", "model/tokenizer.json"):
        assert (tmp_path / name).exists()
    assert report["schema"] == "thinkroute.training.report/1"
    if method == "adaptthink":
        assert sum(row["reward"] for row in seen[-3:]) > sum(row["reward"] for row in seen[:3])
    else:
        losses = [row["loss"] for row in seen if "reward" not in row]
        assert losses[-1] < losses[0]


def test_any_hugging_face_model_trains_through_the_same_core(tmp_path: Path) -> None:
    """The fleet's base as Transformers loads it, trained and sampled by Transformers alone."""
    questions = tmp_path / "questions.jsonl"
    items = FleetTask(("relations",)).pool(40, 0)
    questions.write_text(
        "".join(json.dumps({"question": i.question, "answer": i.reference}) + "\n" for i in items)
    )
    overrides = {
        "model": {"path": str(DIRECTORY)},
        "task.file": str(questions),
        "task.grader": "contains",
        "task.questions": 4,
        "steps": 1,
        "evaluate": 2,
        "reference.samples": 2,
        "rollouts": {"group": 4, "items_per_step": 2, "most_tokens": 80},
    }
    config = settings.load("adaptthink-fleet", "adaptthink", overrides)
    rows: list[Mapping[str, float]] = []
    execute(
        config, tmp_path / "run", Watcher(step=lambda step, values: rows.append(values) if values else None)
    )
    assert 0 < rows[0]["ratio_error"] < 1, "behaviour log-probabilities are those of the sampled tokens"
    assert isinstance(HuggingFaceLearner(str(tmp_path / "run" / "model")).width, int)
