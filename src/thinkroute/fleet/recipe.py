"""The members and how each is trained: data, no code that runs. Change a member here and rebuild it."""

from __future__ import annotations

from dataclasses import dataclass, field

from thinkroute.fleet.architecture import Architecture
from thinkroute.fleet.curriculum import Mixture
from thinkroute.fleet.tokenizer import MAX_POSITIONS, build_tokenizer, vocabulary_size


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a member's weights, given the task family and the tokenizer."""

    name: str
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    ff_width: int
    steps: int
    """Optimiser steps. The learning rate is constant for `constant_share` of them, then falls linearly."""
    learning_rate: float
    seed: int
    tokens_per_step: int = 1024
    warmup_steps: int = 100
    constant_share: float = 2 / 3
    final_share: float = 0.02
    """Learning rate at the end, as a share of its peak."""
    weight_decay: float = 0.05
    mixture: Mixture = field(default_factory=Mixture)
    tracing_share: float = 0.6
    """Share of the steps at the beginning that use `mixture.tracing()`."""

    def mixture_at(self, step: int) -> Mixture:
        """What the member is shown at an optimiser step."""
        return self.mixture.tracing() if step < self.tracing_share * self.steps else self.mixture

    def architecture(self) -> Architecture:
        """The member's sizes; the vocabulary comes from the tokenizer."""
        return Architecture(
            self.width,
            self.layers,
            self.heads,
            self.kv_heads,
            self.head_width,
            self.ff_width,
            vocabulary_size(build_tokenizer()),
            MAX_POSITIONS,
        )


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "student", 64, 3, 4, 2, 16, 192,
            steps=10_000, learning_rate=4e-3, seed=11, tokens_per_step=2048, constant_share=0.5, tracing_share=0.0,
            mixture=Mixture(
                direct_share=0.40, cut_share=0.20, cut_weight=1.5, cut_steps=None, broken_times=True,
            ),
        ),
        Recipe("teacher", 96, 3, 4, 2, 24, 288, steps=12_000, learning_rate=2.5e-3, seed=12),
    )
}  # fmt: skip
