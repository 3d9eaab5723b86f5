"""Small worlds with a known truth, for the tests of routers: places instead of texts, chances instead of opinions."""

from collections.abc import Callable, Sequence

import numpy as np

from thinkroute.routers import OutcomeTable, TableRouter
from thinkroute.routers.table import FloatArray
from thinkroute.signals.base import Encoder, EncoderState, Matrix, Vector
from thinkroute.types import Query


class Coordinates:
    """An encoder whose vector is the numbers written in the text."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension

    @property
    def dimension(self) -> int:
        return self._dimension

    def encode(self, text: str) -> Vector:
        return np.array([float(word) for word in text.split()], dtype=np.float32)

    def encode_batch(self, texts: Sequence[str]) -> Matrix:
        return np.stack([self.encode(text) for text in texts])

    def state(self) -> EncoderState:
        return EncoderState("coordinates", {})


def coordinates(dimension: int) -> Encoder:
    return Coordinates(dimension)


def place(point: FloatArray) -> str:
    return " ".join(f"{value:.6f}" for value in point)


def table_at(
    points: FloatArray,
    quality_QA: FloatArray,
    tasks: Sequence[str] = (),
    **extra: FloatArray,
) -> OutcomeTable:
    """Outcomes of queries that lie at points."""
    return OutcomeTable(
        query_ids=tuple(map(str, range(len(points)))),
        texts=tuple(place(point) for point in points),
        arms=tuple("abcdefgh"[: quality_QA.shape[1]]),
        measured={"quality": quality_QA, **extra},  # pyright: ignore[reportArgumentType]
        tasks=tuple(tasks),
    )


def drawn(chance_QA: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Right or wrong, by chance."""
    return (rng.uniform(size=chance_QA.shape) < chance_QA).astype(np.float64)


def smooth(points: FloatArray) -> FloatArray:
    """Chances of three arms that change slowly over the plane."""
    turns = np.array([[4.0, 1.0, -3.0], [0.5, -4.0, 2.0]])
    return 0.5 + 0.35 * np.sin(points @ turns + np.array([0.0, 1.0, 2.5]))


def halves(points: FloatArray) -> FloatArray:
    """Chances of two arms that know one half of the plane each."""
    left = (points[:, 0] < 0.5).astype(np.float64)
    return np.stack([0.2 + 0.7 * left, 0.9 - 0.7 * left], axis=1)


def predicted(router: TableRouter, points: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Means and deviations of quality at points."""
    found = router.predict_batch([Query(place(point)) for point in points], router.arms).quality
    return found.mean_QA, found.std_QA


Chances = Callable[[FloatArray], FloatArray]
