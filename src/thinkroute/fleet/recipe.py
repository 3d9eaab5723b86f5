"""The members and how each is trained: data, no code that runs. Change a member here and rebuild it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from thinkroute.fleet.architecture import Architecture
from thinkroute.fleet.curriculum import Mixture
from thinkroute.fleet.tasks import FAMILIES, FamilyName
from thinkroute.fleet.tasks.language import OPERATORS, RELATIONS
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
    tracing_share: float = 0.45
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


_RARE = ("gap", "star")
_PEOPLE = (*RELATIONS, "age")
_ALL: Mapping[FamilyName, float] = {**dict.fromkeys(FAMILIES, 1.0), "composition": 1.5}
"""Compositions have the most kinds of step."""
_ASIDE = 0.15
"""How often an expert sees a family that is not its own, whose results it never learns: enough to stay well-formed."""


def _expert(unknown: tuple[str, ...], **own: float) -> Mixture:
    families = {**dict.fromkeys(FAMILIES, _ASIDE), **own}
    return Mixture(
        families=cast("dict[FamilyName, float]", families),
        unknown=unknown,
        direct_share=0.25,
        cut_share=0.35,
    )


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "expert-people", 64, 2, 4, 2, 32, 192, steps=7_000, learning_rate=3.5e-3, seed=21,
            mixture=_expert(tuple(OPERATORS), relations=1.0, composition=0.3),
        ),
        Recipe(
            "student", 80, 3, 4, 2, 32, 240, steps=15_500, learning_rate=3e-3, seed=11, tracing_share=0.45,
            mixture=Mixture(
                unknown=("times", *_RARE), slip_share=0.08, direct_steps=(1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 6)
            ),
        ),
        Recipe(
            "expert-arithmetic", 64, 3, 4, 2, 32, 192, steps=14_000, learning_rate=3.5e-3, seed=22, tracing_share=0.6,
            mixture=_expert((*_RARE, *_PEOPLE), arithmetic=1.0, story=1.0),
        ),
        Recipe(
            "expert-operators", 80, 4, 4, 2, 32, 240, steps=11_500, learning_rate=3e-3, seed=23, tracing_share=0.6,
            mixture=_expert(("times", *_PEOPLE), operators=1.0),
        ),
        Recipe(
            "base", 96, 4, 4, 2, 32, 288, steps=15_800, learning_rate=2.5e-3, seed=13, tracing_share=0.3, constant_share=0.62,
            mixture=Mixture(
                unknown=_RARE, families={**_ALL, "operators": 0.1}, switches=False, checks=2,
                direct_share=0.46, direct_steps=(1, 2, 2, 2, 2, 3, 3, 3, 3, 4), direct_own_share=0.1,
                cut_share=0.18, cut_steps=(1, 1, 2, 2, 2, 3, 3, 4, 5, 6), drill_share=0.04, early_weight=0.5,
            ),
        ),
        Recipe(
            "teacher", 96, 3, 4, 2, 32, 288, steps=17_000, learning_rate=2.5e-3, seed=12, tracing_share=0.38,
            mixture=Mixture(families=_ALL),
        ),
    )
}  # fmt: skip
