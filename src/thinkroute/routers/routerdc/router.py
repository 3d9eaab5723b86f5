"""RouterDC: queries and arms in one space, trained by two contrastive losses; the nearest arm is the best.

Chen et al. (arXiv 2409.19886); the losses are in `routerdc.losses`. A query's vector is either a trained linear map of
any encoder's frozen vector (numpy alone serves it), or the vector of a Hugging Face encoder that was fine-tuned end
to end (ONNX Runtime serves it). An arm is a vector; the score is their cosine.

What a cosine does not say, and how it is added:
- A probability. Each of `folds` models is trained without one part of the queries and scores it; one logistic map per
  arm is fitted on those scores (`score_calibration`). A prediction is the average over models of the mapped cosines,
  its spread that of the map and that between models. A fine-tuned encoder is one model and one held-out part.
- Tokens, seconds and dollars. The paper has none of them (a variant subtracts dollars from the score, which ties a
  router to one price); here they are ridge regressions on the encoder's vectors, and the policy weighs them.

Faults of the code published with the paper, and what is done instead:
1. Its script saves as best the checkpoint of best *test* average. Here no test row is in sight of the training.
2. The in-cluster partner may be the query itself. Here it is another one, unless there is no other.
3. The temperature is ignored in the second loss. Here both obey it.
4. Rows whose arms are all equal are trained on without a gradient. Here they are left out.
5. Ties among arms are broken by column, so that one of several equally good arms is always preferred. Here they take
   turns. `preset=paper` breaks them by column, balances data sets and uses one map for all arms, which keeps the
   order of the cosines.
Deviations: clusters are k-means on the encoder's vectors rather than on their t-SNE picture (no loss term looks at
distances in it); a long text keeps its head and tail, not its tail alone; the learning rate falls to zero.
Golden facts: a query equally far from p and n costs log 2; L2 with H equally far others costs log(1 + H).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar, Final

import numpy as np

from thinkroute.errors import ConfigError, DataError
from thinkroute.routers import ridge
from thinkroute.routers.base import ArmStatistics, RouterKind, RouterState, TableRouter
from thinkroute.routers.encoder_regressor.text import TextGraph, TextModel
from thinkroute.routers.routerdc.settings import NAME, RouterDcSettings, settings_of
from thinkroute.routers.routerdc.training import Examples, Member, fine_tune, train_projection
from thinkroute.routers.score_calibration import Calibration, Columns, average, calibrate
from thinkroute.routers.table import FloatArray, OutcomeTable
from thinkroute.routers.training_rows import TrainingRows
from thinkroute.signals import restore_encoder
from thinkroute.signals.base import Array, Encoder, Matrix, Scalar
from thinkroute.types import Query

_FROZEN_FOLDS: Final = 5


@dataclass(frozen=True)
class Space:
    """The trained maps and arms of all models; the names are those of the artefact. Shape letter K: models."""

    projection_KDE: FloatArray
    shift_KE: FloatArray
    arm_KAE: FloatArray

    @classmethod
    def of(cls, members: Sequence[Member]) -> Space:
        """Models side by side."""
        return cls(
            np.stack([member.projection_DE for member in members]),
            np.stack([member.shift_E for member in members]),
            np.stack([member.arm_AE for member in members]),
        )

    @classmethod
    def restored(cls, arrays: Mapping[str, Array], size: int, arms: int) -> Space:
        """What was saved.

        Raises:
            DataError: an array is missing or misshapen.
        """
        projection = arrays.get("projection_KDE")
        if projection is None or projection.ndim != 3 or projection.shape[1] != size:
            raise DataError(
                f"array projection_KDE is missing or does not read vectors of length {size}: fit again"
            )
        models, _, width = projection.shape
        found: list[FloatArray] = []
        for name, shape in (
            ("projection_KDE", projection.shape),
            ("shift_KE", (models, width)),
            ("arm_KAE", (models, arms, width)),
        ):
            array = arrays.get(name)
            if array is None or array.shape != shape:
                raise DataError(f"array {name} is missing or not of shape {shape}: fit again")
            found.append(array.astype(np.float64))
        return cls(*found)

    def cosines(self, vector_QD: Matrix) -> FloatArray:
        """Similarity of every query and arm under every model, shape (K, Q, A)."""
        place_KQE = vector_QD.astype(np.float64) @ self.projection_KDE + self.shift_KE[:, None]
        length_KQ1 = np.maximum(np.linalg.norm(place_KQE, axis=2, keepdims=True), 1e-12)
        return (place_KQE / length_KQ1) @ self.arm_KAE.transpose(0, 2, 1)


class RouterDcRouter(TableRouter):
    """See the module."""

    name: ClassVar[str] = NAME

    def __init__(
        self,
        statistics: ArmStatistics,
        settings: RouterDcSettings,
        encoder: Encoder,
        space: Space,
        calibration: Calibration,
        measures: ridge.RidgeRouter,
        *,
        text_model: TextModel | None,
    ) -> None:
        super().__init__(statistics)
        self.settings = settings
        self._encoder, self._text_model = encoder, text_model
        self._space, self._calibration, self._measures = space, calibration, measures

    def state(self) -> RouterState:
        """What to save."""
        arrays: dict[str, Array] = {
            **vars(self._space),
            **self._calibration.arrays(),
            **self._measures.saved(),
        }
        if self._text_model is not None:
            arrays |= self._text_model.parts.arrays()
        return RouterState(self.name, asdict(self.settings), self.statistics, arrays, self._encoder.state())

    def similarities(self, queries: Sequence[Query]) -> FloatArray:
        """Cosine of every query and arm, averaged over models, shape (Q, A)."""
        return self._space.cosines(self._vectors(queries)[1]).mean(axis=0)

    def _vectors(self, queries: Sequence[Query]) -> tuple[Matrix, Matrix]:
        """Vectors for the regressions, and vectors for the space."""
        texts = [query.text for query in queries]
        plain_QD = self._encoder.encode_batch(texts)
        return plain_QD, plain_QD if self._text_model is None else self._text_model.encode_batch(texts)

    def _moments(self, query: Query) -> tuple[FloatArray, FloatArray]:
        mean_QMA, std_QMA = self._batch_moments((query,))
        return mean_QMA[0], std_QMA[0]

    def _batch_moments(self, queries: Sequence[Query]) -> tuple[FloatArray, FloatArray]:
        plain_QD, vector_QD = self._vectors(queries)
        mean_QMA, std_QMA = self._measures.of_vectors(plain_QD)
        cosine_KQA = self._space.cosines(vector_QD)
        mapped = [self._calibration(_scores(cosine_QA, self.settings.maps)) for cosine_QA in cosine_KQA]
        mean_QMA[:, 0], std_QMA[:, 0] = average(mapped)
        return mean_QMA, std_QMA


def fit(table: OutcomeTable, parameters: Mapping[str, Scalar], encoder: Encoder | None) -> TableRouter:
    """Train the models, each without its part of the queries, and calibrate on what they did not see."""
    if encoder is None:
        raise ConfigError(f"router {NAME} needs an encoder")
    settings = settings_of(parameters)
    rows = TrainingRows.of(table)
    if settings.model:
        space, cosine_RA, text_model = _fine_tuned(rows, settings, encoder)
    else:
        space, cosine_RA = _projected(rows, settings, encoder)
        text_model = None
    calibration = calibrate(
        _scores(cosine_RA, settings.maps),
        rows.quality_RA,
        Columns.of(rows.cells_RMA[:, :1]),
        one_map=settings.maps == "one",
    )
    measures = ridge.fit(table.select_arms(rows.statistics.arms), {}, encoder)
    return RouterDcRouter(
        rows.statistics, settings, encoder, space, calibration, measures, text_model=text_model
    )


def restore(state: RouterState) -> TableRouter:
    """Rebuild from saved state."""
    settings = settings_of(state.parameters)
    if state.encoder is None:
        raise DataError(f"router {NAME}: the artefact lacks its encoder: fit it again")
    encoder = restore_encoder(state.encoder)
    try:
        text_model = TextModel(TextGraph.of(state.arrays, settings.most_tokens)) if settings.model else None
        size = encoder.dimension if text_model is None else text_model.width
        space = Space.restored(state.arrays, size, len(state.statistics.arms))
        arms = len(state.statistics.arms)
        calibration = Calibration.of(state.arrays, arms, arms if settings.maps == "all" else 1)
        measures = ridge.companion(state)
    except DataError as error:
        raise DataError(f"router {NAME}: {error}") from error
    return RouterDcRouter(
        state.statistics, settings, encoder, space, calibration, measures, text_model=text_model
    )


KIND: Final = RouterKind(fit=fit, restore=restore, reads_text=True)


def _scores(cosine_QA: FloatArray, maps: str) -> FloatArray:
    """What each arm's map reads: its own cosine, or those of all arms."""
    if maps != "all":
        return cosine_QA[:, :, None]
    return np.repeat(cosine_QA[:, None, :], cosine_QA.shape[1], axis=1)


def _projected(rows: TrainingRows, settings: RouterDcSettings, encoder: Encoder) -> tuple[Space, FloatArray]:
    """Linear maps of frozen vectors, and the cosine of every row under the model that did not see it."""
    examples = Examples(rows.quality_RA, encoder.encode_batch(rows.texts), rows.tasks)
    cosine_RA = np.full(rows.quality_RA.shape, np.nan)
    members: list[Member] = []
    for number, fold in enumerate(rows.folds(settings.folds or _FROZEN_FOLDS, settings.seed)):
        member = train_projection(examples.take(fold.train), settings, settings.seed + number)
        cosine_RA[fold.held_out] = Space.of([member]).cosines(examples.vector_RD[fold.held_out])[0]
        members.append(member)
    return Space.of(members), cosine_RA


def _fine_tuned(
    rows: TrainingRows, settings: RouterDcSettings, encoder: Encoder
) -> tuple[Space, FloatArray, TextModel]:
    """One fine-tuned encoder, and the cosines of the rows it did not see, by the graph that serves."""
    fold = rows.folds(1, settings.seed)[0]
    examples = Examples(rows.quality_RA, encoder.encode_batch(rows.texts), rows.tasks).take(fold.train)
    member, graph = fine_tune([rows.texts[int(row)] for row in fold.train], examples, settings, settings.seed)
    text_model, space = TextModel(graph), Space.of([member])
    cosine_RA = np.full(rows.quality_RA.shape, np.nan)
    held_HD = text_model.encode_batch([rows.texts[int(row)] for row in fold.held_out])
    cosine_RA[fold.held_out] = space.cosines(held_HD)[0]
    return space, cosine_RA, text_model
