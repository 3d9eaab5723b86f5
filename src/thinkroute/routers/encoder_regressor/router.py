"""A fine-tuned encoder with one output per measure and arm; served by ONNX Runtime, as int8 by default.

The way ModernBERT and its kin are used as classifiers (Warner et al., arXiv 2412.13663), turned into a regressor over
arms: any Hugging Face encoder, mean or first-token pooling, one linear head. Quality is trained with cross-entropy on
graded scores, missing cells masked, instead of a class per "best arm" (the arg-max label throws ties and margins
away). Outputs are calibrated per column on the validation rows, *with the graph that serves*, so that what rounding
to int8 does to them is part of the calibration. Spread is that of the calibration (see `score_calibration`): one
network cannot say how another training run would have answered, so it is too small where queries are unlike all seen.

Texts longer than `most_tokens` lose their middle; the share is on the card (`cut_share`), and serving logs each one.
Needs the extra `train` to fit, and nothing beyond the base install to serve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import ClassVar, Final

import numpy as np

from thinkroute.errors import DataError
from thinkroute.routers.base import ArmStatistics, RouterKind, RouterState, TableRouter
from thinkroute.routers.encoder_regressor.settings import NAME, EncoderRegressorSettings, settings_of
from thinkroute.routers.encoder_regressor.text import TextGraph, TextModel
from thinkroute.routers.encoder_regressor.training import fine_tune
from thinkroute.routers.log_scales import Scales
from thinkroute.routers.score_calibration import Calibration, Columns, calibrate, flat
from thinkroute.routers.table import FloatArray, OutcomeTable
from thinkroute.routers.training_rows import TrainingRows
from thinkroute.signals.base import Array, Encoder, Scalar
from thinkroute.types import Query

_FOUND: Final = ("cut_share", "kept_epochs", "validation_loss")
"""On the card beside the settings: found by fitting, not to be set."""


class EncoderRegressorRouter(TableRouter):
    """See the module."""

    name: ClassVar[str] = NAME

    def __init__(
        self,
        statistics: ArmStatistics,
        settings: EncoderRegressorSettings,
        found: Mapping[str, Scalar],
        model: TextModel,
        scales: Scales,
        calibration: Calibration,
    ) -> None:
        super().__init__(statistics)
        self.settings = settings
        self.found = dict(found)
        """What fitting found: `cut_share`, `kept_epochs`, `validation_loss`."""
        self._model, self._scales, self._calibration = model, scales, calibration

    def state(self) -> RouterState:
        """What to save."""
        arrays: dict[str, Array] = {**self._model.parts.arrays(), **self._calibration.arrays()}
        arrays |= dict(vars(self._scales))
        return RouterState(self.name, {**asdict(self.settings), **self.found}, self.statistics, arrays)

    def _moments(self, query: Query) -> tuple[FloatArray, FloatArray]:
        mean_QMA, std_QMA = self._batch_moments((query,))
        return mean_QMA[0], std_QMA[0]

    def _batch_moments(self, queries: Sequence[Query]) -> tuple[FloatArray, FloatArray]:
        shape = (len(queries), *self.statistics.mean_MA.shape)
        output_QMA = self._model.encode_batch([query.text for query in queries]).reshape(shape)
        score_QMA = self._scales.scores(output_QMA.astype(np.float64))
        mean_QC, std_QC = self._calibration(flat(score_QMA)[:, :, None])
        return mean_QC.reshape(shape), std_QC.reshape(shape)


def fit(table: OutcomeTable, parameters: Mapping[str, Scalar], encoder: Encoder | None) -> TableRouter:
    """Fine-tune, export, and calibrate with the exported graph."""
    settings = settings_of(parameters)
    rows = TrainingRows.of(table)
    fold = rows.folds(1, settings.seed, share=settings.validation_share)[0]
    scales = Scales.of(rows.cells_RMA, rows.statistics.measures)
    trained = fine_tune(rows.texts, rows.cells_RMA, fold, scales, settings)
    model = TextModel(trained.graph, threads=settings.threads)
    held = fold.held_out
    cells_HMA = rows.cells_RMA[held]
    output_HMA = model.encode_batch([rows.texts[int(row)] for row in held]).reshape(cells_HMA.shape)
    calibration = calibrate(
        flat(scales.scores(output_HMA.astype(np.float64)))[:, :, None],
        flat(cells_HMA),
        Columns.of(rows.cells_RMA),
    )
    found: dict[str, Scalar] = {
        "cut_share": trained.cut_share,
        "kept_epochs": trained.epochs,
        "validation_loss": trained.validation_loss,
    }
    return EncoderRegressorRouter(rows.statistics, settings, found, model, scales, calibration)


def restore(state: RouterState) -> TableRouter:
    """Rebuild from saved state."""
    found = {name: state.parameters[name] for name in _FOUND if name in state.parameters}
    settings = settings_of({name: value for name, value in state.parameters.items() if name not in _FOUND})
    try:
        parts = TextGraph.of(state.arrays, settings.most_tokens)
        scales = Scales.restored(state.arrays, *state.statistics.mean_MA.shape)
        calibration = Calibration.of(state.arrays, state.statistics.mean_MA.size)
    except DataError as error:
        raise DataError(f"router {NAME}: {error}") from error
    model = TextModel(parts, threads=settings.threads)
    if model.width != state.statistics.mean_MA.size:
        raise DataError(
            f"router {NAME}: the graph gives {model.width} numbers, the card needs {state.statistics.mean_MA.size}"
        )
    return EncoderRegressorRouter(state.statistics, settings, found, model, scales, calibration)


KIND: Final = RouterKind(fit=fit, restore=restore, reads_text=False)
