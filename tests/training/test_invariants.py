"""What must hold whatever the method: exact ids, exact masks, exact ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import log
from random import Random

import pytest
import torch

from thinkroute import programs
from thinkroute.catalog import family_named
from thinkroute.fleet import shipped
from thinkroute.fleet.tasks import generate
from thinkroute.programs.protocol import Call, ThinkingFormat
from thinkroute.training.batch import Batch, Row, collate, merge_equal
from thinkroute.training.forward import score
from thinkroute.training.learner import FleetLearner
from thinkroute.training.losses import PolicyOptions, aggregate, ratio_losses
from thinkroute.training.rollout import Attempt, Opening, roll_out
from thinkroute.training.samplers import EmbeddedSampler
from thinkroute.training.thinking import QWEN3, has_reasoning, is_well_formed
from thinkroute.training.trajectory import ENVIRONMENT, Span, Trajectory
from thinkroute.types import FORCED, Arm, Effort

MODEL = "base"
DIRECTORY = shipped.directory(MODEL)
HALF = log(0.5)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def sampler() -> EmbeddedSampler:
    return EmbeddedSampler(MODEL, DIRECTORY)


@pytest.fixture(scope="module")
def learner() -> FleetLearner:
    return FleetLearner(MODEL, DIRECTORY)


def questions(count: int) -> list[str]:
    rng = Random(3)
    return [generate(rng, "arithmetic", 1 + place % 3, "eval").question for place in range(count)]


def program_of(arm: Arm) -> programs.Program:
    family = family_named("thinkroute-fleet")
    return programs.build(
        arm, ThinkingFormat(family.open_text, family.close_text, family.stop_text), None, 16
    )


def sampled(sampler: EmbeddedSampler, *, opening: Opening | None = None) -> list[Trajectory]:
    attempts = [
        Attempt(
            [{"role": "user", "content": question}],
            program_of(Arm("direct", (MODEL,), Effort("default"))),
            opening,
            {"temperature": 1.0, "seed": seed, "logprobs": True},
        )
        for seed, question in enumerate(questions(4))
    ]
    return roll_out(attempts, sampler)


def test_a_budget_is_never_exceeded_and_its_text_is_nobodys_action(sampler: EmbeddedSampler) -> None:
    arm = Arm("budgeted", (MODEL,), Effort("on", 8))
    [trajectory] = roll_out(
        [Attempt([{"role": "user", "content": questions(1)[0]}], program_of(arm))], sampler
    )
    thought, forced, answer = trajectory.spans
    assert len(thought.ids) <= 8
    assert forced.owner == FORCED
    chosen = trajectory.actions(MODEL)
    assert chosen == [True] * len(thought.ids) + [False] * len(forced.ids) + [True] * len(answer.ids)


def test_the_ids_trained_on_are_the_ids_the_engine_saw(sampler: EmbeddedSampler) -> None:
    for trajectory in sampled(sampler, opening=Opening(QWEN3.no_think, (None, HALF))):
        row = collate([Row(trajectory, [1.0])], MODEL)
        assert tuple(map(int, row.ids_BT[0])) == (*trajectory.prompt_ids, *trajectory.response_ids)


def test_an_engine_that_saw_other_ids_is_found_out(
    sampler: EmbeddedSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = Arm("budgeted", (MODEL,), Effort("on", 8))
    true = sampler.prompt_ids

    def shifted(call: Call) -> list[int]:
        return [*true(call)[:-1], 0] if call.prefix else true(call)

    monkeypatch.setattr(sampler, "prompt_ids", shifted)
    with pytest.raises(ValueError, match="other ids"):
        roll_out([Attempt([{"role": "user", "content": questions(1)[0]}], program_of(arm))], sampler)


def test_on_policy_the_ratio_is_one_except_where_the_sampler_decided(
    sampler: EmbeddedSampler, learner: FleetLearner
) -> None:
    sampler.load(learner.weights())
    for opening in (None, Opening(QWEN3.no_think, (None, HALF)), Opening(QWEN3.think, (None, HALF))):
        for trajectory in sampled(sampler, opening=opening):
            batch = collate([Row(trajectory, [1.0])], MODEL)
            logp = score(learner, batch, where_BT=batch.mask_BT).logp_BT
            off = ((logp.detach() - batch.behaviour_BT).abs() * batch.mask_BT)[
                0, len(trajectory.prompt_ids) - 1 :
            ]
            if opening:
                assert float(off[QWEN3.decision]) > 0.1
                off[QWEN3.decision] = 0
            assert float(off.max()) < 1e-4


def test_on_policy_the_clipped_loss_has_reinforces_gradient(
    sampler: EmbeddedSampler, learner: FleetLearner
) -> None:
    sampler.load(learner.weights())
    batch = collate([Row(trajectory, [0.7]) for trajectory in sampled(sampler)], MODEL)

    def gradient(ratio: str) -> torch.Tensor:
        learner.module.zero_grad()
        logp = score(learner, batch, where_BT=batch.mask_BT).logp_BT
        losses = ratio_losses(
            logp,
            logp.detach() if ratio == "token" else batch.behaviour_BT,
            batch.advantages_BT,
            batch.mask_BT,
            PolicyOptions(ratio=ratio),  # type: ignore[arg-type]
        )
        aggregate(losses, batch.mask_BT, batch.weights_B, "token_mean").backward()  # type: ignore[no-untyped-call]
        return torch.cat([p.grad.flatten() for p in learner.module.parameters() if p.grad is not None])

    assert torch.allclose(gradient("token"), gradient("none"), rtol=1e-4, atol=1e-5)


def mixed_trajectory(sampler: EmbeddedSampler) -> Trajectory:
    def ids(text: str) -> tuple[int, ...]:
        return tuple(sampler.encode(text))

    return Trajectory(
        ids("<|im_start|>user\nstart with 4. first plus 3<|im_end|>\n<|im_start|>assistant\n"),
        (
            Span(ids("<think>\n"), FORCED, (None, HALF)),
            Span(ids(" first plus 3"), MODEL, (-0.1,) * len(ids(" first plus 3"))),
            Span(ids(" is 7."), ENVIRONMENT),
            Span(ids(" now"), "teacher", (-0.2,)),
            Span(ids("\n</think>\n\n"), FORCED),
            Span(ids("after all"), MODEL, (-0.1, -0.1)),
        ),
        "",
    )


def test_external_tokens_have_a_gradient_of_exactly_zero_and_own_ones_do_not(
    sampler: EmbeddedSampler, learner: FleetLearner
) -> None:
    trajectory = mixed_trajectory(sampler)
    batch = collate([Row(trajectory, [1.0])], MODEL)
    logp = torch.randn(batch.mask_BT.shape).requires_grad_()
    losses = ratio_losses(
        logp, batch.behaviour_BT, batch.advantages_BT, batch.mask_BT, PolicyOptions(ratio="none")
    )
    aggregate(losses, batch.mask_BT, batch.weights_B, "token_mean").backward()  # type: ignore[no-untyped-call]
    assert logp.grad is not None
    response = logp.grad[0, len(trajectory.prompt_ids) - 1 :]
    assert (logp.grad[0, : len(trajectory.prompt_ids) - 1] == 0).all()
    assert [bool(value != 0) for value in response] == trajectory.trained(MODEL)
    owners = [span.owner for span in trajectory.spans for _ in span.ids]
    decision = [place == 1 for place in range(trajectory.tokens)]
    assert trajectory.trained(MODEL) == [
        owner == MODEL or chosen for owner, chosen in zip(owners, decision, strict=True)
    ]


def test_nothing_said_about_external_tokens_moves_a_single_weight(
    sampler: EmbeddedSampler, learner: FleetLearner
) -> None:
    """Parameter gradients, bit for bit: absurd advantages and probabilities on prompt, teacher and environment."""
    batch = collate([Row(mixed_trajectory(sampler), [1.0])], MODEL)
    external_BT = (batch.mask_BT == 0) & batch.real_BT

    def gradient(seen: Batch, ratio: str) -> torch.Tensor:
        learner.module.zero_grad()
        logp_BT = score(learner, seen, where_BT=seen.mask_BT).logp_BT
        options = PolicyOptions(ratio=ratio)  # type: ignore[arg-type]
        losses = ratio_losses(logp_BT, seen.behaviour_BT, seen.advantages_BT, seen.mask_BT, options)
        aggregate(losses, seen.mask_BT, seen.weights_B, "token_mean").backward()  # type: ignore[no-untyped-call]
        return torch.cat([p.grad.flatten() for p in learner.module.parameters() if p.grad is not None])

    for ratio in ("token", "sequence_mean", "tis", "none"):
        plain = gradient(batch, ratio)
        assert plain.any()
        absurd = replace(
            batch,
            advantages_BT=batch.advantages_BT.masked_fill(external_BT, -1e6),
            behaviour_BT=batch.behaviour_BT.masked_fill(external_BT, -50.0),
        )
        assert torch.equal(gradient(absurd, ratio), plain)
    own = replace(batch, advantages_BT=batch.advantages_BT.masked_fill(batch.mask_BT > 0, 2.0))
    assert not torch.equal(gradient(own, "none"), gradient(batch, "none"))


def test_an_excluded_token_stays_an_action_but_gives_no_gradient(sampler: EmbeddedSampler) -> None:
    trajectory = replace(mixed_trajectory(sampler), excluded=frozenset({1}))
    assert trajectory.actions(MODEL)[1]
    assert not trajectory.trained(MODEL)[1]
    assert sum(trajectory.trained(MODEL)) == sum(mixed_trajectory(sampler).trained(MODEL)) - 1


def test_merging_equal_trajectories_changes_no_loss(sampler: EmbeddedSampler, learner: FleetLearner) -> None:
    first, second, *_ = sampled(sampler)

    def loss(rows: Sequence[Row]) -> float:
        batch = collate(rows, MODEL)
        logp = score(learner, batch, where_BT=batch.mask_BT).logp_BT
        losses = ratio_losses(
            logp, batch.behaviour_BT, batch.advantages_BT, batch.mask_BT, PolicyOptions(ratio="sequence_mean")
        )
        return float(aggregate(losses, batch.mask_BT, batch.weights_B, "sequence_mean").detach())

    rows = [Row(each, [0.3]) for each in (first, second, first, first)]
    merged = merge_equal(rows)
    assert [row.weight for row in merged] == [3.0, 1.0]
    assert loss(merged) == pytest.approx(loss(rows), rel=1e-5)
    assert len(merge_equal([Row(first, [0.3]), Row(first, [0.4])])) == 2


@pytest.mark.parametrize(
    ("response", "reasons", "well_formed"),
    [
        ("<think>\n\n</think>\n\nyes", False, True),
        ("<think>\nso\n</think>\n\nyes", True, True),
        ("so\n</think>\n\nyes", True, True),
        ("</think>\n\nyes", False, True),
        ("<think>\nso", True, False),
        ("<think>\nso</think>", True, False),
        ("<think>\nso</think></think>yes", True, False),
        ("<think>a<think>b</think>yes", True, False),
        ("yes", True, False),
    ],
)
def test_what_counts_as_reasoning_and_as_well_formed(response: str, reasons: bool, well_formed: bool) -> None:
    assert has_reasoning(response) == reasons
    assert is_well_formed(response) == well_formed
