"""Every reward, advantage and ratio against numbers worked out by hand or printed in the papers."""

from __future__ import annotations

from functools import partial
from math import exp, log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thinkroute.training.advantages import generalised_advantages, group_advantages
from thinkroute.training.batch import Row
from thinkroute.training.losses import (
    PolicyOptions,
    RatioName,
    aggregate,
    denominator,
    policy_losses,
    probe_loss,
    ratio_losses,
)
from thinkroute.training.methods import adacot, adaptthink
from thinkroute.training.methods.adacot import Penalties, cells_at_optimum, thinks_at_optimum
from thinkroute.training.tasks import Item
from thinkroute.training.token_advantages import fill_advantages, whiten
from thinkroute.training.trajectory import Span, Trajectory

REWARDS = st.lists(st.floats(-2, 2, allow_nan=False), min_size=2, max_size=8)


@pytest.mark.parametrize(
    ("direct", "right", "advantage"),
    [(True, 1.0, 0.30), (True, 0.0, -0.70), (False, 1.0, 0.25), (False, 0.0, -0.75)],
)
def test_adaptthinks_advantage_is_the_published_one(direct: bool, right: float, advantage: float) -> None:
    terms = adaptthink.reward_terms(direct_answer=direct, right=right, reference=0.75, delta=0.05)
    assert sum(terms.values()) == pytest.approx(advantage)


@pytest.mark.parametrize(
    ("label", "reasons", "total"),
    [(True, False, 1 - 0.2), (True, True, 1.0), (False, True, 1 - 0.3), (False, False, 1.0)],
)
def test_adacots_four_cases(label: bool, reasons: bool, total: float) -> None:
    terms = adacot.reward_terms(
        right=1.0, reasons=reasons, label=label, well_formed=True, penalties=Penalties(0.2, 0.3)
    )
    assert sum(terms.values()) == pytest.approx(total)


def test_a_malformed_response_costs_gamma() -> None:
    terms = adacot.reward_terms(
        right=0.0, reasons=True, label=True, well_formed=False, penalties=Penalties(0.2, 0.3, 1.0)
    )
    assert sum(terms.values()) == pytest.approx(-1.0)


@given(
    p_think=st.floats(0, 1),
    p_direct=st.floats(0, 1),
    miss=st.floats(0, 1),
    over=st.floats(0, 1),
    label=st.booleans(),
)
def test_the_threshold_rule_maximises_the_expected_reward(
    p_think: float, p_direct: float, miss: float, over: float, label: bool
) -> None:
    penalties = Penalties(miss, over)
    expected = {
        reasons: sum(
            adacot.reward_terms(
                right=p_think if reasons else p_direct,
                reasons=reasons,
                label=label,
                well_formed=True,
                penalties=penalties,
            ).values()
        )
        for reasons in (True, False)
    }
    chosen = thinks_at_optimum(p_think=p_think, p_direct=p_direct, label=label, penalties=penalties)
    assert expected[chosen] >= max(expected.values()) - 1e-12


def test_the_rule_of_a_cell_is_the_question_s_rule_on_means() -> None:
    """Two families of two: alone, each question would go its own way; together, the better sum wins."""
    able = [(1.0, 0.0), (1.0, 1.0), (1.0, 0.95), (1.0, 0.95)]
    labels = [True, False, False, True]
    items = [Item("q", "a", 2, family) for family in ("story", "story", "people", "people")]
    decide = partial(cells_at_optimum, able=able, labels=labels)
    # Story: gains 1 and 0, fines .1 and -.3 or -1.5. People: gains .05 twice, fines -.3 and .1.
    assert decide(items, penalties=Penalties(0.1, 0.3)) == [True, True, False, False]
    assert decide(items, penalties=Penalties(0.1, 1.5)) == [False, False, False, False]
    apart = [Item("q", "a", place, "story") for place in range(4)]
    for penalties in (Penalties(0.1, 0.3), Penalties(0.0, 0.05)):
        assert decide(apart, penalties=penalties) == [
            thinks_at_optimum(p_think=p_think, p_direct=p_direct, label=label, penalties=penalties)
            for (p_think, p_direct), label in zip(able, labels, strict=True)
        ]


@pytest.mark.parametrize(("trace", "thinking_wins"), [(0.95, False), (1.0, True)])
def test_lambda_below_1_hides_the_reward_of_a_long_thought_from_the_decision(
    trace: float, thinking_wins: bool
) -> None:
    """A thought of 90 tokens that is right against 18 tokens that are right in 15 %, as valued by an untrained head."""

    def decision(tokens: int, reward: float) -> float:
        rewards_T = [0.0] * (tokens - 1) + [reward]
        return generalised_advantages(rewards_T, [0.0] * tokens, trace=trace)[0][0]

    assert (decision(90, 1.0) > decision(18, 0.15)) == thinking_wins


def test_group_norm_by_hand() -> None:
    assert group_advantages([1.0, 0.0, 0.0, 1.0], "group_norm") == pytest.approx([1.0, -1.0, -1.0, 1.0])
    assert group_advantages([1.0, 0.0, 0.0, 0.0], "group_mean") == pytest.approx([0.75, -0.25, -0.25, -0.25])
    assert group_advantages([1.0, 0.0], "raw") == [1.0, 0.0]


@given(REWARDS, st.randoms(use_true_random=False))
def test_group_advantages_follow_any_permutation(rewards: list[float], rng: object) -> None:
    order = list(range(len(rewards)))
    rng.shuffle(order)  # type: ignore[attr-defined]
    for name in ("raw", "group_mean", "group_norm"):
        plain = group_advantages(rewards, name)
        assert group_advantages([rewards[i] for i in order], name) == pytest.approx(
            [plain[i] for i in order], abs=1e-6
        )


@given(st.floats(-2, 2), st.integers(2, 8))
def test_a_group_of_equal_rewards_teaches_nothing_unless_raw(reward: float, size: int) -> None:
    assert group_advantages([reward] * size, "group_norm") == [0.0] * size
    assert group_advantages([reward] * size, "group_mean") == [0.0] * size
    assert group_advantages([reward] * size, "raw") == [reward] * size


def test_generalised_advantages_by_hand() -> None:
    """γ = 1, λ = ½: δ = (0.3, −0.1, 0.4); A₂ = .4, A₁ = −.1 + .2, A₀ = .3 + .05."""
    advantages, returns = generalised_advantages([0, 0, 1], [0.4, 0.7, 0.6], trace=0.5)
    assert advantages == pytest.approx([0.35, 0.1, 0.4])
    assert returns == pytest.approx([0.75, 0.8, 1.0])


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=6), st.floats(-1, 1))
def test_with_full_traces_the_advantage_is_the_return_minus_the_value(
    values: list[float], reward: float
) -> None:
    rewards = [0.0] * (len(values) - 1) + [reward]
    advantages, _ = generalised_advantages(rewards, values, trace=1.0)
    assert advantages == pytest.approx([reward - value for value in values], abs=1e-9)


def decision_gradients(log_p: float, tokens: int, advantage: float, ratio: RatioName) -> list[float]:
    """The loss's gradient on each token of a response whose first was drawn with ½ at log p, the rest on-policy.

    Two positions that are no choice stand in front, as a prompt and `<think>` do: they count for nothing.
    """
    log_p_T = [-9.0, -9.0, log_p, *[log(0.9)] * (tokens - 1)]
    logp_BT = torch.tensor([log_p_T], dtype=torch.float64, requires_grad=True)
    behaviour_BT = torch.tensor([[-1.0, -2.0, log(0.5), *log_p_T[3:]]], dtype=torch.float64)
    mask_BT = torch.tensor([[0.0, 0.0, *[1.0] * tokens]], dtype=torch.float64)
    advantages_BT = torch.full_like(mask_BT, advantage)
    losses_BT = policy_losses(logp_BT, behaviour_BT, advantages_BT, mask_BT, PolicyOptions(ratio=ratio))
    weights_B = torch.ones(1, dtype=torch.float64)
    loss = aggregate(losses_BT, mask_BT, weights_B, "sequence_mean")
    (loss / denominator(mask_BT, weights_B, "sequence_mean")).backward()  # type: ignore[no-untyped-call]
    assert logp_BT.grad is not None
    before, first, *gradients = map(float, logp_BT.grad[0])
    assert (before, first) == (0, 0)
    return gradients


def last_moving(tokens: int, advantage: float, *, inside: float, outside: float) -> float:
    """The log-probability of the decision at which its gradient vanishes, found between two."""
    for _ in range(60):
        middle = (inside + outside) / 2
        moves = decision_gradients(middle, tokens, advantage, "sequence_mean")[0] != 0
        inside, outside = (middle, outside) if moves else (inside, middle)
    return inside


RATIO_TABLE = pytest.mark.parametrize(
    ("tokens", "at_one_percent", "floor", "ceiling"),
    [
        (3, 0.2714, 0.256, 0.864),
        (8, 0.6132, 0.0839, 1),
        (20, 0.822, 0.0058, 1),
        (50, 0.9247, 7e-6, 1),
        (300, 0.9870, 0, 1),
    ],
)


@RATIO_TABLE
@pytest.mark.parametrize("advantage", [0.3, 0.25])
def test_adaptthinks_gradient_on_the_decision_is_the_tables_ratio_times_the_advantage_by_the_length(
    tokens: int, at_one_percent: float, floor: float, ceiling: float, advantage: float
) -> None:
    """One ratio for the sequence: every token of the response is moved as the decision is."""
    gradients = decision_gradients(log(0.01), tokens, advantage, "sequence_mean")
    assert -gradients[0] * tokens / advantage == pytest.approx(at_one_percent, abs=5e-4)
    for log_p in (log(1e-6), log(0.01), log(0.4)):
        ratio = exp((log_p - log(0.5)) / tokens)
        gradients = decision_gradients(log_p, tokens, advantage, "sequence_mean")
        assert gradients == pytest.approx([-ratio * advantage / tokens] * tokens)


@RATIO_TABLE
def test_adaptthinks_decision_moves_up_to_the_tables_floor_and_ceiling(
    tokens: int, at_one_percent: float, floor: float, ceiling: float
) -> None:
    """Below the floor a bad, above the ceiling a good direct answer moves nothing; up to there by r A / L."""
    lowest = last_moving(tokens, -0.7, inside=log(0.5), outside=-100.0)
    assert exp(lowest) == pytest.approx(floor, rel=0.01, abs=2e-7)
    assert decision_gradients(lowest + 1e-9, tokens, -0.7, "sequence_mean")[0] == pytest.approx(
        0.8 * 0.7 / tokens
    )
    assert decision_gradients(lowest - 0.01, tokens, -0.7, "sequence_mean") == [0] * tokens
    highest = last_moving(tokens, 0.3, inside=log(0.5), outside=0.0)
    assert exp(highest) == pytest.approx(ceiling)
    if ceiling < 1:
        assert decision_gradients(highest + 0.01, tokens, 0.3, "sequence_mean") == [0] * tokens


@pytest.mark.parametrize("tokens", [3, 20, 300])
def test_the_papers_formula_weighs_by_p_over_one_half_and_stops_between_two_and_three_fifths(
    tokens: int,
) -> None:
    """A ratio of the token's own: elsewhere it is 1."""
    for p, advantage in ((1e-6, 0.3), (0.01, 0.3), (0.5, 0.3), (0.59, 0.3), (0.41, -0.7), (0.99, -0.7)):
        first, *rest = decision_gradients(log(p), tokens, advantage, "token")
        assert first == pytest.approx(-(p / 0.5) * advantage / tokens)
        assert rest == pytest.approx([-advantage / tokens] * (tokens - 1))
    for p, advantage in ((0.61, 0.3), (0.39, -0.7)):
        assert decision_gradients(log(p), tokens, advantage, "token")[0] == 0


@pytest.mark.parametrize(
    ("ratio", "tokens", "easy", "hard"),
    [
        ("token", 3, 0.6, 0.4),
        ("token", 20, 0.6, 0.4),
        ("sequence_mean", 3, 0.864, 0.256),
        ("sequence_mean", 8, 1.0, 0.0839),
        ("sequence_mean", 20, 1.0, 0.0058),
    ],
)
def test_a_policy_of_one_logit_trained_by_either_ratio_ends_where_the_tables_say(
    ratio: RatioName, tokens: int, easy: float, hard: float
) -> None:
    """Half of the responses are forced each way. Easy: direct answers are right, worth delta. Hard: they are wrong."""
    options = PolicyOptions(advantage="raw", ratio=ratio, aggregation="sequence_mean")
    behaviour_BT = torch.zeros(2, tokens)
    behaviour_BT[:, 0] = log(0.5)
    for direct_advantage, end in ((0.05, easy), (-0.95, hard)):
        logit = torch.zeros((), requires_grad=True)
        advantages_BT = torch.tensor([[direct_advantage], [0.0]]).expand(2, tokens)
        for _ in range(600):
            decided = torch.stack(
                [torch.nn.functional.logsigmoid(logit), torch.nn.functional.logsigmoid(-logit)]
            )
            # Later tokens are as likely as when they were drawn.
            logp_BT = torch.cat([decided[:, None], torch.zeros(2, tokens - 1)], dim=1)
            mask_BT = torch.ones(2, tokens)
            losses_BT = policy_losses(logp_BT, behaviour_BT, advantages_BT, mask_BT, options)
            loss = aggregate(losses_BT, mask_BT, torch.ones(2), "sequence_mean")
            [gradient] = torch.autograd.grad(loss, [logit])
            with torch.no_grad():
                logit -= (
                    0.02 * gradient.sign()
                )  # no momentum that would carry it past where the gradient ends
        assert float(torch.sigmoid(logit.detach())) == pytest.approx(end, abs=0.01)


def test_truncated_importance_sampling_never_clips_and_caps_its_weight() -> None:
    tokens = 4
    low, *_ = decision_gradients(log(0.05), tokens, 1.0, "tis")
    assert low == pytest.approx(-0.1 / tokens)
    logp = torch.tensor([[0.0]], requires_grad=True)
    options = PolicyOptions(ratio="tis", ratio_cap=2.0)
    ratio_losses(logp, torch.tensor([[-5.0]]), torch.ones(1, 1), torch.ones(1, 1), options).sum().backward()  # type: ignore[no-untyped-call]
    assert logp.grad is not None
    assert float(logp.grad) == pytest.approx(-2.0)


def test_the_divergence_is_zero_on_equal_models_and_k3_otherwise() -> None:
    logp = torch.tensor([[-1.0, -2.0]])
    mask, zero = torch.ones(1, 2), torch.zeros(1, 2)
    options = PolicyOptions(ratio="none", kl_coefficient=0.5)
    same = policy_losses(logp, logp, zero, mask, options, reference_BT=logp)
    assert same.abs().max() == 0
    other = policy_losses(logp, logp, zero, mask, options, reference_BT=logp + 0.1)
    assert float(other[0, 0]) == pytest.approx(0.5 * (exp(0.1) - 0.1 - 1), rel=1e-4)


def test_generalised_advantages_step_over_what_a_teacher_wrote() -> None:
    """Student, two tokens of a teacher, student: γ = 1, λ = ½, reward 1; A₁ = 1 − .25, A₀ = .25 − .5 + .75 / 2."""
    trajectory = Trajectory(
        (7, 8), (Span((1,), "student"), Span((2, 3), "teacher"), Span((4,), "student")), ""
    )
    row = Row(trajectory, [1.0])
    values_T = torch.tensor([9.0, 0.5, 9.0, 9.0, 0.25])  # one per prediction; the first is a prompt token's
    fill_advantages(row, values_T, "student", PolicyOptions("gae", trace=0.5))
    assert row.advantages == pytest.approx([0.125, 0, 0, 0.75])
    assert row.returns == pytest.approx([0.625, 0, 0, 1.0])


def test_whitened_advantages_have_mean_0_and_spread_1_over_trained_tokens_and_their_weights() -> None:
    spans = (Span((1, 2), "student"), Span((3,), "teacher"))
    often = Row(Trajectory((7,), spans, "", excluded=frozenset({1})), [1.0, 50.0, 50.0], weight=3.0)
    once = Row(Trajectory((7,), spans, ""), [5.0, 5.0, 50.0])
    whiten([often, once], "student")
    # Trained: 1 three times, 5 twice. Mean 2.6, variance 3.84.
    assert often.advantages == pytest.approx([-1.6 / 3.84**0.5, 50.0, 50.0], abs=1e-4)
    assert once.advantages == pytest.approx([2.4 / 3.84**0.5] * 2 + [50.0], abs=1e-4)


def test_the_three_aggregations_by_hand() -> None:
    losses = torch.tensor([[1.0, 1.0, 1.0, 1.0], [4.0, 9.0, 9.0, 9.0]])
    mask = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    weights = torch.tensor([1.0, 2.0])
    means = {
        name: float(aggregate(losses, mask, weights, name, 8)) / denominator(mask, weights, name)
        for name in ("token_mean", "sequence_mean", "constant_length")
    }
    assert means["token_mean"] == pytest.approx((4 + 2 * 4) / 6)
    assert means["sequence_mean"] == pytest.approx((1 + 2 * 4) / 3)
    assert means["constant_length"] == pytest.approx((4 / 8 + 2 * 4 / 8) / 3)


def test_the_probes_loss_weighs_positives() -> None:
    logits, labels = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0])
    assert float(probe_loss(logits, labels, 3.0)) == pytest.approx((3 * log(2) + log(2)) / 2)
