"""Training: the schedule, determinism, resuming, and that it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from thinkroute.fleet import tokenizer
from thinkroute.fleet.curriculum import Example
from thinkroute.fleet.recipe import RECIPES, Recipe
from thinkroute.fleet.tasks import language
from thinkroute.fleet.tokenizer import build_tokenizer
from thinkroute.fleet.train import Trainer, fingerprint, learning_rate_at, pack

SMALL = Recipe(
    "small", 16, 1, 2, 1, 8, 32, steps=60, learning_rate=1e-2, seed=3, tokens_per_step=256, warmup_steps=10
)


class Interrupted(Exception):
    pass


def weights(recipe: Recipe, checkpoint: Path, *, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    def progress(step: int, loss: float) -> None:
        if step == stop_at:
            raise Interrupted

    return Trainer(recipe, checkpoint, checkpoint_every=20).run(progress).state_dict()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_an_interrupted_run_ends_in_the_same_weights_as_an_undisturbed_one(tmp_path: Path) -> None:
    whole = weights(SMALL, tmp_path / "whole")
    with pytest.raises(Interrupted):
        weights(SMALL, tmp_path / "broken", stop_at=40)
    assert same(whole, weights(SMALL, tmp_path / "broken"))


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    assert not same(weights(SMALL, tmp_path / "a"), weights(replace(SMALL, seed=4), tmp_path / "b"))


def test_a_checkpoint_of_another_recipe_is_not_continued(tmp_path: Path) -> None:
    other = replace(SMALL, learning_rate=1e-3)
    expected = weights(other, tmp_path / "fresh")
    weights(SMALL, tmp_path / "used")
    assert same(expected, weights(other, tmp_path / "used"))


def test_a_checkpoint_made_with_other_words_or_facts_is_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Finished or not: whoever changes a task and builds again must get the new member."""
    weights(SMALL, tmp_path / "used")
    with monkeypatch.context() as patched:
        patched.setitem(language.FACTS["boss"], "ann", "fay")
        expected = weights(SMALL, tmp_path / "fresh")
        assert same(expected, weights(SMALL, tmp_path / "used"))
    assert "starting anew" in caplog.text
    before = fingerprint(SMALL, build_tokenizer())
    monkeypatch.setattr(tokenizer, "_RESERVED_WORDS", ["something"])
    assert fingerprint(SMALL, build_tokenizer()) != before


def test_the_loss_falls(tmp_path: Path) -> None:
    losses: list[float] = []
    Trainer(SMALL, tmp_path / "run").run(lambda step, loss: losses.append(loss))
    assert losses[-1] < 0.85 * losses[0]


def test_the_learning_rate_rises_stays_and_falls() -> None:
    recipe = RECIPES["teacher"]
    rates = [learning_rate_at(step, recipe) for step in range(recipe.steps)]
    assert rates[0] == pytest.approx(recipe.learning_rate / recipe.warmup_steps)
    assert rates[recipe.warmup_steps] == max(rates) == pytest.approx(recipe.learning_rate)
    assert rates[-1] == pytest.approx(recipe.learning_rate * recipe.final_share, rel=0.05)


def test_batches_hold_every_example_once_and_keep_to_their_size() -> None:
    pool = [Example([0] * length, [1.0] * length) for length in (5, 40, 7, 12, 33, 40, 6)]
    batches = list(pack(pool, 80))
    assert sorted(len(example.ids) for batch in batches for example in batch) == [5, 6, 7, 12, 33, 40, 40]
    assert all(len(batch) * max(len(example.ids) for example in batch) <= 80 for batch in batches)
