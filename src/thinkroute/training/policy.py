"""The policy gradient: roll out, reward, learn; one update per batch of rollouts unless asked for more.

Owns the order of these, and nothing of any method: what is attempted, what is rewarded and what is left out come from a
`Method`. Rewards see whole groups, never single samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Protocol

import torch
from torch import Tensor, nn

from thinkroute.errors import DataError
from thinkroute.training.advantages import group_advantages
from thinkroute.training.batch import Batch, Row, collate, merge_equal, pack
from thinkroute.training.forward import ValueHead, score
from thinkroute.training.learner import Learner
from thinkroute.training.losses import PolicyOptions, aggregate, denominator, policy_losses, value_losses
from thinkroute.training.metrics import mean_terms
from thinkroute.training.optimise import (
    OptimiserOptions,
    apply_gradients,
    backward,
    learning_rate_at,
    make_optimizer,
)
from thinkroute.training.rollout import Attempt, roll_out
from thinkroute.training.samplers import Sampler
from thinkroute.training.tasks import Item, items_at
from thinkroute.training.token_advantages import fill_advantages, whiten
from thinkroute.training.trajectory import Group, RewardTerms, Trajectory


class Method(Protocol):
    """What a paper decides. No tensors."""

    def attempts(self, item: Item, seed: int) -> list[Attempt]:
        """The group of responses to make for one question."""
        ...

    def rewards(self, item: Item, group: Group) -> Sequence[RewardTerms]:
        """Terms of every trajectory's reward, equivariant under permutations of the group."""
        ...

    def excluded(self, trajectory: Trajectory) -> frozenset[int]:
        """Response positions that get no policy gradient."""
        ...

    def describe(self, item: Item, trajectory: Trajectory) -> Mapping[str, float]:
        """What to log about one trajectory."""
        ...

    def watched(self, item: Item, trajectory: Trajectory) -> str:
        """Name under which to log the learner's own probability of what was forced on it; empty for none."""
        ...


@dataclass(frozen=True, slots=True)
class RolloutOptions:
    """How much is sampled, and how it is learned from."""

    seed: int = 0
    """Of the order of the questions, and of all sampling."""
    items_per_step: int = 16
    temperature: float = 1.0
    """Also the temperature of the probabilities in the loss: they must be those of the distribution sampled from."""
    epochs: int = 1
    """Passes over each batch of rollouts."""
    updates: int = 1
    """Optimiser steps per pass."""
    tokens_per_batch: int = 16_384
    """Padded tokens that are worked on at once."""


class PolicyTrainer:
    """One method's policy gradient.

    Args:
        learner: What is trained.
        sampler: What generates; takes the learner's weights before every batch of rollouts.
        method: What is attempted and rewarded.
        pool: The training questions.
        options: The four choices of the loss.
        rollouts: Amounts.
        optimiser: AdamW and its schedule.
        reference: A frozen learner for `kl_coefficient`.

    Raises:
        DataError: there are no questions.
    """

    def __init__(
        self,
        learner: Learner,
        sampler: Sampler,
        method: Method,
        pool: Sequence[Item],
        *,
        options: PolicyOptions,
        rollouts: RolloutOptions,
        optimiser: OptimiserOptions,
        reference: Learner | None = None,
    ) -> None:
        if not pool:
            raise DataError("no questions to learn from")
        self._learner, self._sampler, self._method, self._pool = learner, sampler, method, pool
        self._options, self._rollouts, self._optimiser = options, rollouts, optimiser
        self._reference = reference
        self._head: ValueHead | None = None
        self.modules: list[nn.Module] = [learner.module]
        if options.advantage == "gae":
            torch.manual_seed(rollouts.seed)  # pyright: ignore[reportUnknownMemberType]
            self._head = ValueHead(learner.width).to(self._device)
            self.modules.append(self._head)
        self.optimizer: torch.optim.Optimizer = make_optimizer(self.modules, optimiser, self._head)

    @property
    def _device(self) -> torch.device:
        return next(self._learner.module.parameters()).device

    def update(self, step: int) -> Mapping[str, float]:
        """One batch of rollouts and what is learned from it."""
        items = items_at(self._pool, step, self._rollouts.items_per_step, self._rollouts.seed)
        groups = self._roll_out(items, step)
        terms = [self._method.rewards(item, group) for item, group in zip(items, groups, strict=True)]
        rows = self._rows(items, groups, terms)
        losses = self._learn(rows, step)
        flat = [entry for group in terms for entry in group]
        described = [
            self._method.describe(item, trajectory)
            for item, group in zip(items, groups, strict=True)
            for trajectory in group
        ]
        return {
            "reward": fmean(sum(entry.values()) for entry in flat),
            **mean_terms(flat, "reward/"),
            **{key: value for entry in [_conditional_means(described)] for key, value in entry.items()},
            "tokens": fmean(trajectory.tokens for group in groups for trajectory in group),
            "distinct": len(rows) / len(flat),
            **losses,
        }

    def _roll_out(self, items: Sequence[Item], step: int) -> list[list[Trajectory]]:
        self._sampler.load(self._learner.weights())
        attempts: list[Attempt] = []
        sizes: list[int] = []
        for place, item in enumerate(items):
            group = self._method.attempts(item, _mix(self._rollouts.seed, step, place))
            sizes.append(len(group))
            attempts += group
        trajectories = roll_out(attempts, self._sampler)
        groups: list[list[Trajectory]] = []
        for size in sizes:
            group, trajectories = trajectories[:size], trajectories[size:]
            groups.append([replace(each, excluded=self._method.excluded(each)) for each in group])
        return groups

    def _rows(
        self, items: Sequence[Item], groups: Sequence[Group], terms: Sequence[Sequence[RewardTerms]]
    ) -> list[Row]:
        rows: list[Row] = []
        for item, group, group_terms in zip(items, groups, terms, strict=True):
            rewards_G = [sum(entry.values()) for entry in group_terms]
            if self._head is None:
                advantages_G = group_advantages(rewards_G, self._options.advantage)
            else:
                advantages_G = rewards_G  # replaced token by token once values are known
            rows += [
                Row(trajectory, [advantage], watched=self._method.watched(item, trajectory))
                for trajectory, advantage in zip(group, advantages_G, strict=True)
            ]
        return merge_equal(rows)

    def _learn(self, rows: list[Row], step: int) -> dict[str, float]:
        if self._head is not None:
            self._estimate(rows, self._head)
        learning_rate = learning_rate_at(step, self._optimiser)
        parts = [rows[start :: self._rollouts.updates] for start in range(self._rollouts.updates)]
        prepared = [
            (
                [
                    (packed, *self._prepare(packed))
                    for packed in pack(teaching, self._rollouts.tokens_per_batch)
                ],
                sum(self._denominator_of(row) for row in idle),
            )
            for part in parts
            if part
            for teaching, idle in (self._without_idle(part),)
        ]
        totals: dict[str, float] = {}
        for _ in range(self._rollouts.epochs):
            for batches, idle_denominator in prepared:
                totals = self._step(batches, idle_denominator)
                totals["gradient_norm"] = apply_gradients(self, learning_rate, self._optimiser.clip_norm)
        return totals

    def _without_idle(self, rows: list[Row]) -> tuple[list[Row], list[Row]]:
        """Rows that teach something, and those whose advantage is zero: without a regulariser their gradient is too.

        One row is always kept, so that the optimiser's moments decay as they would have.
        """
        options = self._options
        if self._head is not None or options.kl_coefficient or options.entropy_coefficient:
            return rows, []
        teaching = [row for row in rows if any(row.advantages)]
        kept = {id(row) for row in teaching or rows[:1]}
        return [row for row in rows if id(row) in kept], [row for row in rows if id(row) not in kept]

    def _denominator_of(self, row: Row) -> float:
        """What a row that is left out would have added to its step's denominator."""
        if self._options.aggregation != "token_mean":
            return row.weight
        return row.weight * sum(row.trajectory.trained(self._learner.name))

    def _estimate(self, rows: Sequence[Row], head: ValueHead) -> None:
        """Replace every row's reward by token-wise advantages and returns."""
        self._learner.module.eval()
        for packed in pack(rows, self._rollouts.tokens_per_batch):
            batch = collate(packed, self._learner.name).to(self._device)
            with torch.no_grad():
                hidden = self._learner.hidden(batch.ids_BT[:, :-1], batch.real_BT)
                values_BT = head(hidden).cpu()
            for row, values_T in zip(packed, values_BT, strict=True):
                fill_advantages(row, values_T, self._learner.name, self._options)
        if self._options.whiten:
            whiten(rows, self._learner.name)

    def _prepare(self, rows: Sequence[Row]) -> tuple[Batch, Tensor | None]:
        """A batch with every action's behaviour known, and the reference model's log-probabilities where wanted."""
        batch = collate(rows, self._learner.name).to(self._device)
        unknown_BT = batch.behaviour_BT.isnan()
        if bool(unknown_BT.any()):
            with torch.no_grad():
                logp_BT = score(
                    self._learner, batch, where_BT=batch.actions_BT, temperature=self._rollouts.temperature
                ).logp_BT
            batch = replace(batch, behaviour_BT=torch.where(unknown_BT, logp_BT, batch.behaviour_BT))
        if self._reference is None or not self._options.kl_coefficient:
            return batch, None
        with torch.no_grad():
            scores = score(
                self._reference, batch, where_BT=batch.mask_BT, temperature=self._rollouts.temperature
            )
        return batch, scores.logp_BT

    def _step(
        self, batches: Sequence[tuple[list[Row], Batch, Tensor | None]], idle_denominator: float
    ) -> dict[str, float]:
        """Accumulate the gradients of one optimiser step."""
        options = self._options
        total = idle_denominator + sum(
            denominator(b.mask_BT, b.weights_B, options.aggregation) for _, b, _ in batches
        )
        actions = sum(denominator(b.actions_BT, b.weights_B, "token_mean") for _, b, _ in batches)
        sums: dict[str, float] = dict.fromkeys(("loss", "entropy", "value_loss", "ratio_error"), 0.0)
        watched: dict[str, list[float]] = {}
        self._learner.module.train()
        for rows, batch, reference_BT in batches:
            scores = score(
                self._learner,
                batch,
                where_BT=batch.mask_BT,
                temperature=self._rollouts.temperature,
                head=self._head,
                entropy_moves=options.entropy_coefficient != 0,
            )
            for name, probability in _watched(rows, scores.logp_BT):
                watched.setdefault(name, []).append(probability)
            losses_BT = policy_losses(
                scores.logp_BT,
                batch.behaviour_BT,
                batch.advantages_BT,
                batch.mask_BT,
                options,
                reference_BT=reference_BT,
                entropy_BT=scores.entropy_BT,
            )
            loss = (
                aggregate(
                    losses_BT, batch.mask_BT, batch.weights_B, options.aggregation, options.constant_tokens
                )
                / total
            )
            if scores.values_BT is not None:
                errors_BT = value_losses(scores.values_BT, batch.returns_BT)
                value_loss = aggregate(errors_BT, batch.actions_BT, batch.weights_B, "token_mean") / actions
                sums["value_loss"] += value_loss.item()
                backward(loss + options.value_coefficient * value_loss, self.optimizer)
            else:
                backward(loss, self.optimizer)
            sums["loss"] += loss.item()
            weighted_BT = batch.mask_BT * batch.weights_B[:, None]
            sums["entropy"] += float((scores.entropy_BT.detach() * weighted_BT).sum()) / max(actions, 1)
            off_BT = (scores.logp_BT.detach() - batch.behaviour_BT).abs() * weighted_BT
            sums["ratio_error"] += float(off_BT.sum()) / max(actions, 1)
        return sums | {name: fmean(values) for name, values in watched.items()}


def _watched(rows: Sequence[Row], logp_BT: Tensor) -> Iterator[tuple[str, float]]:
    """The learner's own probability of what was forced on it; equal rows, merged, count once."""
    for row, logp_T in zip(rows, logp_BT.detach(), strict=True):
        place = row.trajectory.forced_action
        if row.watched and place is not None:
            yield row.watched, float(logp_T[len(row.trajectory.prompt_ids) + place - 1].exp())


def _mix(*parts: int) -> int:
    """A seed of its own for every combination."""
    mixed = 0
    for part in parts:
        mixed = (mixed * 1_000_003 + part + 1) % (2**61 - 1)
    return mixed


def _conditional_means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every key over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: fmean(row[name] for row in rows if name in row) for name in names}
