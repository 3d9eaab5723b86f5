"""Training a student to call: the reward's golden vectors, the masks, the warm-up data, the judgement, a smoke run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thinkroute.engines.embedded.vocabulary import Vocabulary
from thinkroute.fleet import shipped
from thinkroute.programs.driver import Prompt, run_batch
from thinkroute.programs.protocol import Call, Segment, ThinkingFormat
from thinkroute.programs.relay import CALL, RelayLimits
from thinkroute.training import settings
from thinkroute.training.advantages import group_advantages
from thinkroute.training.assemble import Watcher, execute
from thinkroute.training.batch import Row, collate
from thinkroute.training.forward import score
from thinkroute.training.learner import FleetLearner
from thinkroute.training.methods.relay import Outcome, Relay, RelayReward, grade, reward_terms
from thinkroute.training.methods.relay_judge import BatchBench, places, steps_of, without_calls
from thinkroute.training.methods.relay_run import TEACHER, GradedAsRelay, Voice, limits_of
from thinkroute.training.methods.relay_warmup import PAPER_LENGTHS, Insertion, WarmUp, planned, with_commands
from thinkroute.training.methods.token_router import Pair, RouterName, answer_all, fit
from thinkroute.training.promises import judge_relay
from thinkroute.training.reference import ReferenceTable, Sampling
from thinkroute.training.relay_plot import draw_relay
from thinkroute.training.rollout import Attempt, roll_out
from thinkroute.training.samplers import EmbeddedSampler
from thinkroute.training.tasks import FleetTask, Item
from thinkroute.training.trajectory import Trajectory
from thinkroute.types import FORCED, Arm, Effort

ARM = Arm("relay", ("student", TEACHER), Effort("on"))
TASK = FleetTask(("arithmetic", "operators", "relations"))
STUDENT = shipped.directory("student")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def sampler() -> EmbeddedSampler:
    return EmbeddedSampler("student", STUDENT, others={TEACHER: shipped.directory("teacher")}, seats=32)


class Calling:
    """A student that calls for one token after every ` is`, as if it had learned to."""

    def __init__(self, sampler: EmbeddedSampler, command: str = "<call>1</call>") -> None:
        self.model = sampler.model
        self.seen: list[Call] = []
        self._sampler = sampler
        self._ids = tuple(sampler.encode(command))
        self._command = command

    def encode(self, text: str) -> list[int]:
        return self._sampler.encode(text)

    def prompt_ids(self, call: Call) -> list[int]:
        return self._sampler.prompt_ids(call)

    def load(self, weights: object) -> None:
        """Frozen."""

    def generate(self, calls: Sequence[Call]) -> list[Segment]:
        self.seen += calls
        return [
            self._called(call) if call.model == self.model else self._sampler.generate([call])[0]
            for call in calls
        ]

    def _called(self, call: Call) -> Segment:
        [made] = self._sampler.generate(
            [replace(call, until_text=" is" if call.until_text else None, without=CALL)]
        )
        if made.finish != "text_end" or made.token_ids is None:
            return made
        tokens = len(made.token_ids) + len(self._ids)
        return replace(
            made,
            text=made.text + self._command,
            token_ids=made.token_ids + self._ids,
            usage=replace(made.usage, completion_tokens=tokens),
        )


def method(**options: object) -> Relay:
    return replace(Relay(ARM, TASK, ThinkingFormat(), limits=RelayLimits(most_calls=16), group=2), **options)  # pyright: ignore[reportArgumentType]


def relayed(
    sampler: EmbeddedSampler, item: Item, command: str = "<call>1</call>"
) -> tuple[Calling, list[Trajectory]]:
    calling = Calling(sampler, command)
    attempts = [replace(each, options={"temperature": 0}) for each in method().attempts(item, 0)]
    return calling, roll_out(attempts, calling)


# The three scenarios, with a bonus of .5 and a cost of 1: rewards and advantages of the paper's reward worked out by hand.
RIGHT, WRONG = True, False
SCENARIOS = [
    (
        [(RIGHT, 0), (RIGHT, 0), (RIGHT, 0.1), (WRONG, 0), (WRONG, 0.2), (RIGHT, 0.05), (RIGHT, 0), (WRONG, 0)],
        [1.5, 1.5, 0.9, 0, 0, 0.95, 1.5, 0],
        [1.0101, 1.0101, 0.1520, -1.1352, -1.1352, 0.2235, 1.0101, -1.1352],
    ),
    (
        [(WRONG, 0), (RIGHT, 0.1), (WRONG, 0.3), (RIGHT, 0.02), (WRONG, 0), (WRONG, 0), (WRONG, 0.1), (RIGHT, 0.3)],
        [-1, 0.9, 0, 0.98, -1, -1, 0, 0.7],
        [-1.0953, 1.1011, 0.0607, 1.1936, -1.0953, -1.0953, 0.0607, 0.8699],
    ),
    (
        [(WRONG, share) for share in (0, 0.1, 0.2, 0, 0.05, 0.5, 0, 0.3)],
        [0, 0.1, 0.2, 0, 0.05, 0.5, 0, 0.3],
        [-0.7979, -0.2428, 0.3122, -0.7979, -0.5204, 1.9775, -0.7979, 0.8673],
    ),
]  # fmt: skip


def outcomes(rows: Sequence[tuple[bool, float]]) -> list[Outcome]:
    return [Outcome(right, share > 0, share) for right, share in rows]


@pytest.mark.parametrize(("rows", "rewards", "advantages"), SCENARIOS)
def test_the_three_scenarios_pay_and_rank_as_published(
    rows: Sequence[tuple[bool, float]], rewards: Sequence[float], advantages: Sequence[float]
) -> None:
    made = [sum(terms.values()) for terms in reward_terms(outcomes(rows), RelayReward())]
    assert made == pytest.approx(rewards)
    assert group_advantages(made, "group_norm_unbiased") == pytest.approx(advantages, abs=1e-4)


def test_the_simple_reward_is_right_minus_share_and_plain_grpo_s_is_right() -> None:
    rows = outcomes([(RIGHT, 0.2), (WRONG, 0.2), (RIGHT, 0)])
    simple = reward_terms(rows, RelayReward("simple"))
    assert [sum(terms.values()) for terms in simple] == pytest.approx([0.8, -0.2, 1.0])
    assert [sum(terms.values()) for terms in reward_terms(rows, RelayReward("right"))] == [1.0, 0.0, 1.0]


def test_each_ablation_takes_exactly_its_term_away() -> None:
    helped, lost = outcomes([(RIGHT, 0), (WRONG, 0.2)]), outcomes([(WRONG, 0.2), (WRONG, 0)])
    assert reward_terms(helped, RelayReward(bonus=0))[0]["bonus"] == 0
    assert [sum(t.values()) for t in reward_terms(lost, RelayReward(exploration=0))] == [0, 0]
    once = reward_terms(lost, RelayReward(exploration=0.3, explores="once"))
    assert [sum(t.values()) for t in once] == pytest.approx([0.3 * 0.8, 0])
    bad = [Outcome(RIGHT, True, 0.0, malformed=True)]
    assert sum(reward_terms(bad, RelayReward(malformed=0.5))[0].values()) == pytest.approx(0.5)


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.3])), min_size=1, max_size=8), st.randoms()
)
def test_the_reward_follows_any_permutation_of_its_group(rows: list[tuple[bool, float]], rng: Random) -> None:
    order = list(range(len(rows)))
    rng.shuffle(order)
    plain = reward_terms(outcomes(rows), RelayReward())
    assert reward_terms(outcomes([rows[place] for place in order]), RelayReward()) == [
        plain[p] for p in order
    ]


def test_commands_are_trained_and_the_teacher_s_tokens_are_not(sampler: EmbeddedSampler) -> None:
    _, [trajectory, _] = relayed(sampler, TASK.by_level(1, 0)[2])
    trained = trajectory.trained("student")
    place = commands = taught = 0
    for span in trajectory.spans:
        mask = trained[place : place + len(span.ids)]
        place += len(span.ids)
        assert all(mask) if span.owner == "student" else not any(mask)
        commands += span.ids[-1] == sampler.encode("</call>")[0]
        taught += span.owner == TEACHER
    assert commands == taught > 0


def test_the_loss_moves_for_commands_and_never_for_the_teacher_s_tokens(sampler: EmbeddedSampler) -> None:
    """Gradient with respect to each token's own log-probability: what the policy gradient multiplies."""
    _, [trajectory, _] = relayed(sampler, TASK.by_level(1, 0)[2])
    batch = collate([Row(trajectory, [1.0])], "student")
    logp_BT = score(FleetLearner("student", STUDENT), batch, where_BT=torch.ones_like(batch.mask_BT)).logp_BT
    logp_BT.retain_grad()
    (-(logp_BT * batch.advantages_BT) * batch.mask_BT).sum().backward()  # pyright: ignore[reportUnknownMemberType]
    assert logp_BT.grad is not None
    ids = cast("list[int]", batch.ids_BT[0, 1:].tolist())  # pyright: ignore[reportUnknownMemberType]
    call_id = sampler.encode("<call>")[0]
    begin = len(trajectory.prompt_ids) - 1
    owners = [span.owner for span in trajectory.spans for _ in span.ids]
    for offset, owner in enumerate(owners):
        gradient = float(logp_BT.grad[0, begin + offset])
        assert gradient == (0.0 if owner == TEACHER else -1.0)
        assert gradient or ids[begin + offset] != call_id


def test_the_teacher_never_sees_a_command_and_the_trajectory_keeps_it(sampler: EmbeddedSampler) -> None:
    calling, [trajectory, _] = relayed(sampler, TASK.by_level(1, 0)[2])
    tags = {sampler.encode(tag)[0] for tag in (CALL.open_tag, CALL.close_tag)}
    theirs = [call for call in calling.seen if call.model == TEACHER]
    assert theirs
    assert not any(tags & set(sampler.prompt_ids(call)) for call in theirs)
    assert tags <= set(trajectory.response_ids)


def test_an_outcome_counts_commands_share_and_what_was_malformed(sampler: EmbeddedSampler) -> None:
    item = next(item for item in TASK.by_level(3, 0) if item.family == "operators")
    made = method()
    _, [good, _] = relayed(sampler, item)
    outcome = made.outcome(item, good)
    assert (outcome.right, outcome.called, outcome.malformed) == (True, True, False)
    assert outcome.share == good.tokens_of(TEACHER) / good.tokens
    _, [bad, _] = relayed(sampler, item, "<call></call>")
    outcome = made.outcome(item, bad)
    assert (outcome.called, outcome.share, outcome.malformed) == (True, 0.0, True)
    assert made.describe(item, bad)["malformed"] == 1.0


def test_rollouts_run_the_program_that_serves_a_relay(sampler: EmbeddedSampler) -> None:
    """Same ids from the trainer's rollouts and from the bare program."""
    item = TASK.by_level(1, 0)[2]
    calling, [trajectory, _] = relayed(sampler, item)
    [(segments, _)] = run_batch(
        [method().program()], [Prompt(item.messages, {"temperature": 0}, stream=False)], calling.generate
    )
    ids = tuple(token_id for segment in segments for token_id in segment.token_ids or ())
    assert trajectory.response_ids == ids


def test_plain_grpo_is_the_student_by_itself(sampler: EmbeddedSampler) -> None:
    group = roll_out(method(calls=False).attempts(TASK.by_level(1, 0)[0], 3), sampler)
    assert all({span.owner for span in each.spans} == {"student"} for each in group)


@given(st.integers(3, 80), st.integers(0, 10_000), st.sampled_from([0.0, 0.12, 0.5]))
def test_a_plan_s_hand_overs_lie_apart_and_inside_the_answer(length: int, seed: int, rate: float) -> None:
    plan = planned(length, Insertion(per_position=rate, clean_share=0.0), Random(seed))
    ends = [0, *(place + tokens for place, tokens in plan)]
    assert all(place >= max(end, 2) for (place, _), end in zip(plan, ends, strict=False))
    assert all(tokens >= 1 and place + tokens <= length for place, tokens in plan)
    assert rate or len(plan) <= 3


def test_the_papers_numbers_are_digits_times_powers_of_ten() -> None:
    assert PAPER_LENGTHS[:10] == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    assert (len(PAPER_LENGTHS), PAPER_LENGTHS[-1]) == (36, 9000)


def test_warm_up_text_is_the_student_s_own_with_commands_and_masks_what_follows_them(
    sampler: EmbeddedSampler,
) -> None:
    ids = sampler.encode("<think>\nfirst plus 3 from 4 is 7.")
    spans = with_commands(ids, [(4, 2), (8, 1)], sampler, TEACHER)
    assert [span.owner for span in spans] == ["student", TEACHER, "student", TEACHER, "student"]
    assert list(spans[0].ids) == [*ids[:4], *sampler.encode("<call>2</call>")]
    assert [token_id for span in spans for token_id in span.ids if span.owner == TEACHER] == [
        *ids[4:6],
        ids[8],
    ]
    builder = WarmUp(ARM, Insertion((1, 2), per_position=0.12, clean_share=0.25))
    made = list(builder.build(TASK.pool(40, 0), sampler, 0))
    commands = [len([span for span in each.spans if span.owner == TEACHER]) for each in made]
    assert 0.1 < sum(count == 0 for count in commands) / len(commands) < 0.5
    assert 3 < sum(commands) / len(commands) < 9


def test_banned_commands_leave_the_student_s_own_words(sampler: EmbeddedSampler) -> None:
    """A student that never calls is not changed by the ban; one that would call writes its next likeliest token."""
    items = TASK.by_level(2, 0)
    bench = BatchBench(ARM, sampler, TASK, items, ThinkingFormat())
    assert list(bench.banned("banned").quality_Q) == list(bench.alone("student")[0].quality_Q)
    prompt = Prompt(items[0].messages, {"temperature": 0, "logprobs": True, "top_logprobs": 5}, stream=False)
    [(segments, _)] = run_batch(
        [without_calls("student", Effort("on"), None)], [prompt], _Begins(sampler).generate
    )
    begun, closed, instead, rest = segments
    assert (begun.text, closed.text, instead.text, instead.owner) == ("<call>", "</call>", "<think>", FORCED)
    [(plain, _)] = run_batch([method(calls=False).program()], [prompt], sampler.generate)
    assert instead.text + rest.text == plain[0].text


class _Begins:
    """A student that begins a command at once, once."""

    def __init__(self, sampler: EmbeddedSampler) -> None:
        self._sampler = sampler

    def generate(self, calls: Sequence[Call]) -> list[Segment]:
        [call] = calls
        if call.prefix:
            return self._sampler.generate(calls)
        [own] = self._sampler.generate([replace(call, max_tokens=1)])
        assert own.logprobs is not None
        top = (("<call>", -0.1), *own.logprobs[0].top)
        entry = replace(own.logprobs[0], token="<call>", top=top)
        ids = tuple(self._sampler.encode("<call>"))
        return [replace(own, text="<call>", finish="text_end", token_ids=ids, logprobs=(entry,))]


def test_a_hand_over_is_attributed_to_the_step_whose_result_it_wrote() -> None:
    segments = [
        Segment("<think>\nfirst star 3 from 4 is<call>1</call>", "student"),
        Segment(" 1", TEACHER),
        Segment(". monday she triples them from 1 is 5. second plus 2 from 1 is 3. now check the last step. second"
                " plus 2 from 1 is", "student"),
        Segment(" 3", TEACHER),
    ]  # fmt: skip
    steps = steps_of(segments, TEACHER)
    assert [(step.operator, step.by_teacher) for step in steps] == [
        ("star", True),
        ("times", False),
        ("plus", False),
    ]


def test_places_tells_questions_that_need_help_from_those_that_do_not(sampler: EmbeddedSampler) -> None:
    items = TASK.by_level(6, 0)
    bench = BatchBench(ARM, Calling(sampler), TASK, items, ThinkingFormat())
    answers, written = bench.relay("relay", RelayLimits(most_calls=16))
    found = places(items, written, answers, TEACHER, ("times", "gap", "star"))
    assert found["unknown_steps_by_teacher"] == found["known_steps_by_teacher"] == 1.0
    assert found["easy_questions"] + found["hard_questions"] == len(items)
    assert found["easy_questions_that_call"] == found["hard_questions_that_call"] == 1.0
    alone, silent = BatchBench(ARM, sampler, TASK, items, ThinkingFormat()).relay("relay", RelayLimits())
    none = places(items, silent, alone, TEACHER, ("times", "gap", "star"))
    assert (none["unknown_steps"], none["unknown_steps_by_teacher"]) == (found["unknown_steps"], 0.0)
    assert none["easy_questions_that_call"] == 0.0
    assert none["easy_accuracy"] > 0.9 > none["hard_accuracy"]
    assert answers.quality_Q.mean() > bench.alone("student")[0].quality_Q.mean()
    assert all(
        log.teacher_tokens == tokens
        for log, tokens in zip(answers.logs, answers.teacher_tokens_Q, strict=True)
    )


def test_a_message_is_graded_without_its_commands_whether_or_not_it_holds_the_block() -> None:
    task = FleetTask(("relations",))
    item = task.by_level(1, 0)[0]
    sentence = f"after all the steps the person we are looking for is<call>1</call> {item.reference}."
    assert grade(task, item, f"<think>\n</think>\n\n{sentence}") == grade(task, item, sentence) == 1.0


def test_the_papers_hyper_parameters_are_the_shipped_ones() -> None:
    for name in ("relay-qwen3-0.6b", "relay-qwen3-1.7b"):
        config = settings.load(name, "relay")
        assert isinstance(config, settings.RelayConfig)
        reward = config.reward
        assert (reward.bonus, reward.alone, reward.cost, reward.exploration, reward.explores) == (
            0.5,
            1,
            1,
            1,
            "share",
        )
        assert (config.filter.samples, config.filter.least) == (10, 0.5)
        assert (config.kl, config.clip, config.rollouts.group, config.rollouts.temperature) == (
            0.01,
            0.2,
            8,
            1.0,
        )
        assert config.rollouts.items_per_step // config.rollouts.updates == 32
        assert (config.optimiser.learning_rate, config.optimiser.weight_decay) == (1e-6, 0.01)
        assert config.warm_up.lengths == PAPER_LENGTHS
        assert limits_of(config).most_calls == 4


def test_pass_rates_are_those_of_the_effort_the_teacher_is_called_with(
    sampler: EmbeddedSampler, tmp_path: Path
) -> None:
    """Without thinking the prompt holds the block, so that the message is graded without one; tables are kept apart."""
    task = FleetTask(("relations",), (1, 0, 0, 0, 0))
    [item] = task.pool(1, 0)

    def table(effort: str) -> ReferenceTable:
        made = ReferenceTable(
            tmp_path / "table.json",
            model="teacher",
            opening="",
            sampling=Sampling(2, temperature=0.1),
            effort=Effort.parse(effort),
        )
        made.fill([item], Voice(sampler, TEACHER), GradedAsRelay(task))
        return made

    thought, direct = table("default"), table("off")
    assert thought[item].reward == direct[item].reward == 1.0
    assert direct[item].tokens < thought[item].tokens


def test_an_aggregation_beside_the_default_is_the_only_one_a_run_is_known_by() -> None:
    """Runs begun before there was a choice are continued."""
    plain = settings.load("relay-fleet", "relay")
    assert "aggregation" not in plain.model_dump_json()
    doctor = settings.load(
        "relay-fleet", "relay", {"aggregation": "constant_length", "advantage": "group_mean"}
    )
    assert isinstance(doctor, settings.RelayConfig)
    assert doctor.aggregation == "constant_length"
    with pytest.raises(settings.ConfigError, match=r"divides by rollouts\.most_tokens"):
        settings.load(
            "relay-fleet", "relay", {"aggregation": "constant_length", "rollouts.most_tokens": None}
        )


SMOKE: Mapping[str, object] = {
    "task.questions": 40,
    "task.families": ["operators"],
    "task.level_shares": [1, 0, 0, 0, 0],
    "most_calls": 4,
    "filter.samples": 1,
    "warm_up.questions": 40,
    "warm_up.steps": 70,
    "warm_up.examples_per_step": 8,
    "warm_up.per_position": 0.15,
    "warm_up.optimiser": {"learning_rate": 2e-3, "betas": [0.9, 0.98]},
    "rollouts": {"items_per_step": 4, "group": 6, "most_tokens": 80},
    "steps": 8,
    "optimiser.learning_rate": 1e-3,
    "evaluate": 1,
}


def test_a_smoke_run_learns_and_leaves_a_whole_folder(tmp_path: Path) -> None:
    """A tiny world with a known optimum: one step, whose result mostly only the teacher knows. Calls everywhere are pruned."""
    seen: list[Mapping[str, float]] = []
    config = settings.load("relay-fleet", "relay", {**SMOKE, "kl": 0.001})
    report = execute(
        config, tmp_path, Watcher(step=lambda step, values: seen.append(values) if values else None)
    )
    losses = [row["loss"] for row in seen if "reward" not in row]
    reinforced = [row for row in seen if "reward" in row]
    assert losses[-1] < 0.5 * losses[0]
    assert reinforced[0]["calls"] > 2, "the warm-up taught it to call"
    assert all(row["ratio_error"] < 1e-3 for row in reinforced), "rollouts are on-policy"
    rewards = [row["reward"] for row in reinforced]
    assert sum(rewards[-3:]) > sum(rewards[:3])
    assert (tmp_path / "model/model.safetensors").exists()
    stored: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())
    assert stored["where"] == report["where"]
    assert {"unknown_steps_by_teacher", "easy_questions_that_call"} <= set(stored["where"])
    policies = [line["policy"] for line in stored["policies"]]
    assert policies[:3] == ["student", "teacher", "relay"]
    assert {"relay, calls banned", "relay, no teacher"} <= set(policies)
    assert stored["questions"]["kept"] <= stored["questions"]["pool"] == 40


def test_any_hugging_face_pair_relays_through_the_same_core(tmp_path: Path) -> None:
    """Student and teacher as Transformers loads them, commands put in front of the teacher's tokens by the warm-up."""
    questions = tmp_path / "questions.jsonl"
    items = TASK.pool(40, 0)
    questions.write_text(
        "".join(json.dumps({"question": i.question, "answer": i.reference}) + "\n" for i in items)
    )
    overrides = {
        **SMOKE,
        "model": {"path": str(STUDENT)},
        "teacher": {"path": str(shipped.directory("teacher"))},
        "task.file": str(questions),
        "task.grader": "contains",
        "task.questions": 4,
        "warm_up.questions": 4,
        "steps": 1,
        "rollouts": {"group": 4, "items_per_step": 2, "most_tokens": 80},
    }
    rows: list[Mapping[str, float]] = []
    config = settings.load("relay-fleet", "relay", overrides)
    execute(
        config,
        tmp_path / "run",
        Watcher(step=lambda step, values: rows.append(values) if "reward" in values else None),
    )
    assert rows[0]["calls"] > 0
    assert (tmp_path / "run/model/model.safetensors").exists()


def test_attempts_of_one_group_differ_in_their_seed_alone() -> None:
    first, second = method().attempts(Item("q", "a"), 5)
    assert isinstance(first, Attempt)
    assert {**first.options, "seed": 0} == {**second.options, "seed": 0}
    assert first.options["seed"] != second.options["seed"]


@pytest.mark.parametrize("name", ["CITER", "R2R"])
def test_a_token_router_asks_where_the_student_does_not_know(
    name: RouterName, sampler: EmbeddedSampler
) -> None:
    task = FleetTask(("operators",), shares=(1, 0, 0, 0, 0))
    pair = Pair(
        ARM,
        FleetLearner("student", STUDENT),
        FleetLearner(TEACHER, shipped.directory("teacher")),
        sampler,
        task,
        Vocabulary(STUDENT / "tokenizer.json"),
    )
    router = fit(name, pair, task.pool(60, 0, "filter"), share=0.05)
    assert 0 < router.positives < 0.1
    items = task.by_level(2, 0)[:2]
    routed = answer_all(router, pair, items)
    alone = BatchBench(ARM, sampler, task, items, ThinkingFormat()).alone("student")[0]
    assert sum(routed.quality) >= alone.quality_Q.sum()
    assert 0 < sum(routed.teacher_tokens) < 0.2 * sum(routed.student_tokens)
    silent = answer_all(replace(router, threshold=1e9), pair, items)
    assert silent.quality == list(alone.quality_Q), "without the teacher it is the student, token for token"
    assert silent.student_tokens == list(alone.student_tokens_Q)


def report_of(accuracy: float, share: float, unknown: float, easy: float) -> dict[str, Any]:
    def line(policy: str, right: float, teacher_share: float) -> dict[str, Any]:
        recovered = (right - 0.5) / 0.5
        return {
            "policy": policy,
            "accuracy": right,
            "teacher_share": teacher_share,
            "gap_recovered": recovered,
        }

    return {
        "config": {"calls": True},
        "policies": [
            line("student", 0.5, 0),
            line("teacher", 1.0, 1),
            line("relay", accuracy, share),
            line("random tokens", 0.51, share),
            line("random tokens, 4 times the share", 0.53, 4 * share),
            line("random queries", 0.5 + share / 2, share),
            line("cascade", 0.53, share),
        ],
        "where": {
            "unknown_steps_by_teacher": unknown,
            "known_steps_by_teacher": 0.0,
            "easy_questions_that_call": easy,
        },
    }


def test_the_gates_hold_a_relay_to_gap_share_baselines_and_places(tmp_path: Path) -> None:
    good, bad = report_of(0.9, 0.02, 0.9, 0.0), report_of(0.6, 0.05, 0.3, 0.2)
    plain = {
        **good,
        "config": {"calls": False},
        "policies": [{**good["policies"][0], "policy": "plain GRPO"}],
    }
    assert all(verdict.met for verdict in judge_relay({"relay": {0: good}, "plain GRPO": {0: plain}}, {}))
    missed = {verdict.promise for verdict in judge_relay({"relay": {0: bad}}, {}) if not verdict.met}
    assert missed == {
        "part of the gap from student to teacher",
        "teacher's share of the tokens",
        "unknown operators whose result the teacher wrote",
        "questions without unknown operators that call",
    }
    picture = tmp_path / "relay.svg"
    draw_relay({"runs": {"relay": {"0": good}, "simple reward": {"0": bad}}}, picture)
    assert "teacher" in picture.read_text(encoding="utf-8")
