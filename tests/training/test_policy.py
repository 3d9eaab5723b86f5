"""Work that is left out because it could not change anything."""

from __future__ import annotations

import math

import pytest
import torch
from tests.training.test_resuming import policy_trainer, state

from thinkroute.training.batch import Row, collate
from thinkroute.training.forward import score
from thinkroute.training.losses import AggregationName, PolicyOptions
from thinkroute.training.policy import PolicyTrainer, _watched  # pyright: ignore[reportPrivateUsage]


class Thorough(PolicyTrainer):
    """Works on every row."""

    def _without_idle(self, rows: list[Row]) -> tuple[list[Row], list[Row]]:
        return rows, []


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant_length"])
def test_rows_without_advantage_are_left_out_and_the_step_is_the_same(aggregation: AggregationName) -> None:
    """A group of right answers has no advantage over itself; its rows count in the mean and nowhere else."""
    torch.set_num_threads(1)
    found: list[list[torch.Tensor]] = []
    for kind in (PolicyTrainer, Thorough):
        trainer = policy_trainer("adaptthink")
        trainer.__class__ = kind
        trainer._options = PolicyOptions("group_mean", "token", aggregation)  # pyright: ignore[reportPrivateUsage]
        # Plain steps show the gradient itself: AdamW would blow up what is rounding in a gradient of zero.
        parameters = [p for module in trainer.modules for p in module.parameters()]
        trainer.optimizer = torch.optim.SGD(parameters, lr=1.0)
        values = trainer.update(0)
        assert values["gradient_norm"] > 0
        found.append(state(trainer))
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-6)


def test_where_nothing_teaches_the_optimiser_still_takes_its_step() -> None:
    torch.set_num_threads(1)
    trainer = policy_trainer("adaptthink")
    trainer._options = PolicyOptions("group_mean", "token", "token_mean")  # pyright: ignore[reportPrivateUsage]
    groups = trainer._roll_out(trainer._pool[:3], 0)  # pyright: ignore[reportPrivateUsage]
    equal = [[{"right": 1.0} for _ in group] for group in groups]
    rows = trainer._rows(trainer._pool[:3], groups, equal)  # pyright: ignore[reportPrivateUsage]
    teaching, idle = trainer._without_idle(rows)  # pyright: ignore[reportPrivateUsage]
    assert (len(teaching), len(idle)) == (1, len(rows) - 1)


def test_the_policy_s_own_probability_of_what_is_forced_on_it_is_logged_by_level() -> None:
    """Half of the responses answer at once whatever the policy thinks of it: their share says nothing."""
    trainer = policy_trainer("adaptthink")
    groups = trainer._roll_out(trainer._pool[:2], 0)  # pyright: ignore[reportPrivateUsage]
    forced = next(each for each in groups[0] if each.forced_action is not None)
    place = forced.forced_action
    assert place is not None
    assert forced.behaviour_logprobs()[place] == pytest.approx(math.log(0.5))
    ids = torch.tensor([[*forced.prompt_ids, *forced.response_ids[: place + 1]]])
    learner = trainer._learner  # pyright: ignore[reportPrivateUsage]
    with torch.no_grad():
        hidden = learner.hidden(ids[:, :-1], torch.ones_like(ids[:, :-1], dtype=torch.bool))
        temperature = trainer._rollouts.temperature  # pyright: ignore[reportPrivateUsage]
        own = (learner.logits(hidden[0, -1]) / temperature).softmax(-1)[ids[0, -1]]
    row = Row(forced, [1.0], watched="p")
    batch = collate([row], learner.name)
    logp_BT = score(learner, batch, where_BT=batch.mask_BT, temperature=temperature).logp_BT
    assert dict(_watched([row], logp_BT))["p"] == pytest.approx(float(own), rel=1e-4)
    values = trainer.update(0)
    assert any(name.startswith("p_direct/level-") and 0 <= value <= 1 for name, value in values.items())
