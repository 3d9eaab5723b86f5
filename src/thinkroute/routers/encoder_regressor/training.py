"""Fine-tuning an encoder to predict every measure of every arm: targets, loss, and the loop with early stopping.

Quality: binary cross-entropy on the graded scores as they are (soft labels). Other measures: squared error on
log(1 + y), standardised per column. Both are averages over measured cells, so a missing one teaches nothing. After
every epoch the loss on the validation rows is taken; the weights of the best epoch are kept, and `patience` epochs
without a better one end the training. Shape letters: R rows, M measures, A arms, B batch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thinkroute.routers.encoder_regressor.network import Network, load_network
from thinkroute.routers.encoder_regressor.settings import EncoderRegressorSettings
from thinkroute.routers.encoder_regressor.text import TextGraph
from thinkroute.routers.log_scales import Scales
from thinkroute.routers.table import FloatArray
from thinkroute.routers.training_rows import Fold, IntArray
from thinkroute.signals.extras import optional

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """What fine-tuning leaves."""

    graph: TextGraph
    cut_share: float
    """Share of all texts that were longer than what is read."""
    epochs: int
    """After how many the kept weights were reached; 0 means that training never helped."""
    validation_loss: float


def fine_tune(
    texts: Sequence[str],
    cells_RMA: FloatArray,
    fold: Fold,
    scales: Scales,
    settings: EncoderRegressorSettings,
) -> Trained:
    """Train, stop by the rows held out, and write the graph."""
    torch = optional("torch", extra="train")
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        network = load_network(
            settings.model,
            pooling=settings.pooling,
            most_tokens=settings.most_tokens,
            revision=settings.revision,
        )
        network.add_head(cells_RMA.shape[1] * cells_RMA.shape[2])
        loop = _Loop(torch, network, texts, scales.targets(cells_RMA), scales, settings)
        epochs, loss = loop.run(fold)
        cut_share = network.cut_share(texts)
        if cut_share:
            _log.warning(
                "%.1f %% of the texts are longer than %d tokens and were cut",
                100 * cut_share,
                settings.most_tokens,
            )
        return Trained(network.export(settings.precision), cut_share, epochs, loss)


class _Loop:
    """Epochs over batches of texts."""

    def __init__(
        self,
        torch: Any,
        network: Network,
        texts: Sequence[str],
        target_RMA: FloatArray,
        scales: Scales,
        settings: EncoderRegressorSettings,
    ) -> None:
        self._torch, self._network, self._texts, self._settings = torch, network, texts, settings
        self._target_RMA = torch.from_numpy(target_RMA.astype(np.float32)).to(network.device)
        self._centre_A = torch.from_numpy(scales.centre_MA[0].astype(np.float32)).to(network.device)
        self._rng = np.random.default_rng(settings.seed)
        self._tokens_R = np.array([len(text) for text in texts])

    def run(self, fold: Fold) -> tuple[int, float]:
        """Train; gives the epoch whose weights were kept and its validation loss."""
        settings, network, train_rows = self._settings, self._network, fold.train
        # With too few rows to hold any out, the training rows have to tell when to stop.
        validation_rows = fold.held_out if fold.held_out.size else fold.train
        optimiser, schedule = self._optimiser(len(train_rows))
        best, best_epoch, kept = self._validation_loss(validation_rows), 0, network.weights()
        for epoch in range(1, settings.epochs + 1):
            self._epoch(train_rows, optimiser, schedule)
            loss = self._validation_loss(validation_rows)
            _log.info("epoch %d: validation loss %.5f", epoch, loss)
            if loss < best:
                best, best_epoch, kept = loss, epoch, network.weights()
            elif epoch - best_epoch >= settings.patience:
                break
        network.restore(kept)
        return best_epoch, best

    def _optimiser(self, rows: int) -> tuple[Any, Any]:
        settings, network, torch = self._settings, self._network, self._torch
        optimiser = torch.optim.AdamW(
            [
                {"params": network.parameters(), "lr": settings.learning_rate},
                {"params": network.head_parameters(), "lr": settings.head_learning_rate},
            ],
            weight_decay=settings.weight_decay,
        )
        steps = settings.epochs * -(-rows // (settings.batch_size * settings.accumulation))
        warm = max(round(0.1 * steps), 1)

        def rate(step: int) -> float:
            return min((step + 1) / warm, max((steps - step) / max(steps - warm, 1), 0.0))

        return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, rate)

    def _epoch(self, rows: IntArray, optimiser: Any, schedule: Any) -> None:
        self._network.train()
        batches = self._batches(rows)
        for start in range(0, len(batches), self._settings.accumulation):
            group = batches[start : start + self._settings.accumulation]
            optimiser.zero_grad()
            for batch in group:
                (self._loss(batch) / len(group)).backward()
            optimiser.step()
            schedule.step()

    def _batches(self, rows: IntArray) -> list[IntArray]:
        """Rows in random order, but texts of like length together: padding costs as much as text."""
        size, near = self._settings.batch_size, 20
        shuffled = self._rng.permutation(rows)
        batches: list[IntArray] = []
        for start in range(0, len(shuffled), size * near):
            pool = shuffled[start : start + size * near]
            pool = pool[np.argsort(self._tokens_R[pool], kind="stable")]
            batches += [pool[place : place + size] for place in range(0, len(pool), size)]
        return [batches[int(place)] for place in self._rng.permutation(len(batches))]

    def _loss(self, rows: IntArray) -> Any:
        """Mean over measured cells of quality plus mean over measured cells of the rest."""
        torch, settings = self._torch, self._settings
        target_BMA = self._target_RMA[torch.from_numpy(rows).to(self._network.device)]
        output_BMA = self._network.outputs([self._texts[int(row)] for row in rows]).reshape(target_BMA.shape)
        seen_BMA = ~target_BMA.isnan()
        wanted_BMA = target_BMA.nan_to_num()
        quality_BA = torch.nn.functional.binary_cross_entropy_with_logits(
            output_BMA[:, 0] + self._centre_A, wanted_BMA[:, 0], reduction="none"
        )
        loss = (quality_BA * seen_BMA[:, 0]).sum() / seen_BMA[:, 0].sum().clamp(min=1)
        if target_BMA.shape[1] == 1:
            return loss
        error_B = (output_BMA[:, 1:] - wanted_BMA[:, 1:]) ** 2 * seen_BMA[:, 1:]
        return loss + settings.other_weight * error_B.sum() / seen_BMA[:, 1:].sum().clamp(min=1)

    def _validation_loss(self, rows: IntArray) -> float:
        self._network.eval()
        total, size = 0.0, self._settings.batch_size
        ordered = rows[np.argsort(self._tokens_R[rows], kind="stable")]
        with self._torch.no_grad():
            for start in range(0, len(ordered), size):
                batch = ordered[start : start + size]
                total += float(self._loss(batch)) * len(batch)
        return total / max(len(ordered), 1)
