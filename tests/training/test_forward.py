"""Scoring in parts: the same numbers as at once, and no logits kept for the backward pass."""

from __future__ import annotations

import pytest
import torch

from thinkroute.fleet import shipped
from thinkroute.training import forward
from thinkroute.training.batch import Batch, Row, collate
from thinkroute.training.forward import score
from thinkroute.training.learner import FleetLearner, HuggingFaceLearner, Learner
from thinkroute.training.trajectory import Span, Trajectory

BASE = shipped.directory("base")
FLEET = FleetLearner("base", BASE)


def batch() -> Batch:
    rows = [
        Row(Trajectory(tuple(range(20, 30)), (Span(tuple(range(40, 60 + 7 * place)), "base"),), ""))
        for place in range(3)
    ]
    return collate(rows, "base")


def scored(learner: Learner, coefficient: float) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Loss, entropies, and every gradient."""
    data = batch()
    learner.module.zero_grad()
    scores = score(learner, data, where_BT=data.mask_BT, temperature=0.7, entropy_moves=coefficient != 0)
    weights_BT = torch.linspace(-1, 1, scores.logp_BT.numel()).view_as(scores.logp_BT)
    loss = (weights_BT * scores.logp_BT).sum() - coefficient * scores.entropy_BT.sum()
    loss.backward()  # pyright: ignore[reportUnknownMemberType]
    gradients = [p.grad.clone() for p in learner.module.parameters() if p.grad is not None]
    return loss.detach(), scores.entropy_BT.detach(), gradients


@pytest.mark.parametrize("coefficient", [0.0, 0.5])
@pytest.mark.parametrize("learner", [FLEET, HuggingFaceLearner(str(BASE))], ids=["fleet", "transformers"])
def test_parts_give_the_loss_and_the_gradients_of_the_whole(
    learner: Learner, coefficient: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scored(learner, coefficient)
    monkeypatch.setattr(
        forward, "MOST_LOGITS", learner.vocabulary * 13
    )  # 81 positions: seven parts, the last of 3
    parts = scored(learner, coefficient)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
    assert whole[0] != 0
    assert len(whole[2]) > 40


def kept_for_backward(data: Batch) -> list[tuple[int, ...]]:
    """Shapes of the pieces of memory that scoring holds until its gradient is known."""
    shapes: dict[int, tuple[int, ...]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        shapes[tensor.data_ptr()] = tuple(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        score(FLEET, data, where_BT=data.mask_BT)
    return list(shapes.values())


def test_logits_are_kept_for_the_backward_pass_once_or_where_they_are_many_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = batch()
    positions = int(data.mask_BT.sum())
    assert kept_for_backward(data).count((positions, FLEET.vocabulary)) == 1, "the entropy keeps none"
    monkeypatch.setattr(forward, "MOST_LOGITS", FLEET.vocabulary * 13)
    assert not [shape for shape in kept_for_backward(data) if shape in ((positions, 432), (13, 432))]


def test_the_entropy_has_a_gradient_only_where_it_is_wanted() -> None:
    data = batch()
    for moves in (True, False):
        scores = score(FLEET, data, where_BT=data.mask_BT, entropy_moves=moves)
        assert scores.entropy_BT.requires_grad == moves
    assert scores.entropy_BT[data.mask_BT > 0].min() > 0


def test_a_member_s_batches_are_never_scored_in_parts() -> None:
    """Computing twice would cost time that its small vocabulary has no reason to spend."""
    assert forward.MOST_LOGITS // FLEET.vocabulary > 16_384
