"""The training loop: from a recipe to weights, resumable and deterministic for a seed on one thread.

Owns batching, the optimiser, the schedule and checkpoints. A run that was interrupted and resumed ends in the same
weights as one that was not, because the checkpoint holds the state of every random source.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from thinkroute.fleet.curriculum import Curriculum, Example
from thinkroute.fleet.model import Qwen3
from thinkroute.fleet.recipe import Recipe
from thinkroute.fleet.tokenizer import PAD, build_tokenizer, token_id

logger = logging.getLogger(__name__)

_POOL_EXAMPLES = 1024
_SAMPLE_EXAMPLES = 100
"""Examples of each kind of mixture by which changed training data are noticed."""
_CLIP_NORM = 1.0

Progress = Callable[[int, float], None]
"""Called now and then with the step reached and the recent mean loss."""


def learning_rate_at(step: int, recipe: Recipe) -> float:
    """Warm-up, constant part, then a linear fall to `final_share` of the peak."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    constant_steps = recipe.constant_share * recipe.steps
    fall = max(0.0, (step - constant_steps) / (recipe.steps - constant_steps))
    return recipe.learning_rate * warm * (1 - fall * (1 - recipe.final_share))


def pack(pool: list[Example], tokens_per_step: int) -> Iterator[list[Example]]:
    """Batches of about `tokens_per_step` tokens, padding included, of examples of similar length."""
    batch: list[Example] = []
    for example in sorted(pool, key=lambda example: len(example.ids)):
        if batch and (len(batch) + 1) * len(example.ids) > tokens_per_step:
            yield batch
            batch = []
        batch.append(example)
    if batch:
        yield batch


def loss_of(model: Qwen3, batch: list[Example], pad_id: int, early_weight: float = 0.0) -> Tensor:
    """Weighted mean cross-entropy over the tokens that carry weight, and over early results where they weigh."""
    length = max(len(example.ids) for example in batch)
    ids = torch.tensor([example.ids + [pad_id] * (length - len(example.ids)) for example in batch])
    weights = torch.tensor([example.weights + [0.0] * (length - len(example.weights)) for example in batch])
    chosen = weights[:, 1:] > 0
    after = model.after_layers(ids[:, :-1])
    hidden = model.model.norm(after[-1])[chosen]
    losses = functional.cross_entropy(model.logits(hidden), ids[:, 1:][chosen], reduction="none")
    chosen_weights = weights[:, 1:][chosen]
    loss = (losses * chosen_weights).sum() / chosen_weights.sum()
    if early_weight and (early := _early_loss(model, after, batch)) is not None:
        loss = loss + early_weight * early
    return loss


def _early_loss(model: Qwen3, after: list[Tensor], batch: list[Example]) -> Tensor | None:
    """Cross-entropy of the first results, each read after the first layer that can have worked it out.

    One layer gathers what a step is made of, each of the others can take one step: as deep supervision (Lee et al.
    2015, arXiv 1409.5185), with the output embedding as every layer's reader.
    """
    known = [
        (layer, row, place, token)
        for row, example in enumerate(batch)
        for layer, (place, token) in enumerate(example.early[: len(after) - 1], 1)
    ]
    if not known:
        return None
    layers, rows, places, tokens = torch.tensor(known).unbind(1)
    hidden = model.model.norm(torch.stack(after)[layers, rows, places])
    return functional.cross_entropy(model.logits(hidden), tokens)


def fingerprint(recipe: Recipe, tokenizer: Tokenizer) -> str:
    """What decides the weights: the recipe, the vocabulary, and what the task families tell, by a sample of it."""
    curriculum = Curriculum(tokenizer, Random(recipe.seed))  # noqa: S311 - reproducible data, not a secret
    mixtures = (recipe.mixture.tracing(), recipe.mixture)
    sample = [curriculum.draw(mixture) for mixture in mixtures for _ in range(_SAMPLE_EXAMPLES)]
    text = f"{recipe!r}\n{tokenizer.to_str()}\n{sample!r}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class Trainer:
    """One run of one recipe; `checkpoint` is read when it exists and written every `checkpoint_every` steps.

    A checkpoint is continued only where recipe, vocabulary and task families are the same: with others it would end in
    weights that no build from the beginning gives.
    """

    def __init__(self, recipe: Recipe, checkpoint: Path, *, checkpoint_every: int = 1000) -> None:
        self._recipe = recipe
        self._checkpoint = checkpoint
        self._checkpoint_every = checkpoint_every
        self._rng = Random(recipe.seed)  # noqa: S311 - reproducible data, not a secret
        tokenizer = build_tokenizer()
        self._pad_id: int = token_id(tokenizer, PAD)
        self._fingerprint = fingerprint(recipe, tokenizer)
        self._curriculum = Curriculum(tokenizer, self._rng)
        self.model = Qwen3(recipe.architecture(), seed=recipe.seed)
        matrices = [parameter for parameter in self.model.parameters() if parameter.ndim > 1]
        scales = [parameter for parameter in self.model.parameters() if parameter.ndim == 1]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": recipe.weight_decay},
                {"params": scales, "weight_decay": 0.0},
            ],
            lr=recipe.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        self._step = 0
        self._batches: list[list[Example]] = []

    def _next_batch(self) -> list[Example]:
        if not self._batches:
            mixture = self._recipe.mixture_at(self._step)
            pool = [self._curriculum.draw(mixture) for _ in range(_POOL_EXAMPLES)]
            self._batches = list(pack(pool, self._recipe.tokens_per_step))
            self._rng.shuffle(self._batches)
        return self._batches.pop()

    def run(self, progress: Progress, *, threads: int = 1) -> Qwen3:
        """Train to the end of the recipe and return the model; another number of threads rounds differently."""
        torch.set_num_threads(threads)
        self._resume()
        recent = 0.0
        while self._step < self._recipe.steps:
            loss = self._update()
            recent = loss if recent == 0.0 else 0.98 * recent + 0.02 * loss
            self._step += 1
            if self._step % 20 == 0:
                progress(self._step, recent)
            if self._step % self._checkpoint_every == 0:
                self._save()
        return self.model

    def _update(self) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate_at(self._step, self._recipe)
        batch = self._next_batch()
        loss = loss_of(self.model, batch, self._pad_id, self._recipe.mixture_at(self._step).early_weight)
        self._optimizer.zero_grad()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP_NORM)
        self._optimizer.step()  # pyright: ignore[reportUnknownMemberType]
        return loss.item()

    def _save(self) -> None:
        state: dict[str, Any] = {
            "fingerprint": self._fingerprint,
            "step": self._step,
            "rng": self._rng.getstate(),
            "batches": [
                [(example.ids, example.weights, example.early) for example in batch]
                for batch in self._batches
            ],
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        partial = self._checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self._checkpoint)

    def _resume(self) -> None:
        if not self._checkpoint.exists():
            return
        state = torch.load(self._checkpoint, weights_only=True)
        if state.get("fingerprint") != self._fingerprint:
            logger.warning(
                "checkpoint %s is of another recipe, vocabulary or task family: starting anew",
                self._checkpoint,
            )
            return
        self._step = state["step"]
        self._rng.setstate(state["rng"])
        self._batches = [[Example(*parts) for parts in batch] for batch in state["batches"]]
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
