"""What GraphRouter knows of nodes before any edge: arms by description, size and price, queries by vector and task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from thinkroute.errors import DataError
from thinkroute.routers.table import ArmInfo, FloatArray
from thinkroute.signals.base import Array, Encoder, Matrix


@dataclass(frozen=True)
class NodeScales:
    """Centres and spreads that arms were seen with in training, so that an arm added later is seen the same way."""

    number_centre_3: FloatArray
    number_scale_3: FloatArray
    text_centre_D: FloatArray

    @classmethod
    def of(cls, arms: Sequence[str], info: Mapping[str, ArmInfo], encoder: Encoder) -> NodeScales:
        """Of the arms trained on."""
        number_A3 = np.array([_numbers(info.get(arm, ArmInfo())) for arm in arms])
        count_3 = np.maximum((~np.isnan(number_A3)).sum(axis=0), 1)
        centre_3 = np.nansum(number_A3, axis=0) / count_3
        scale_3 = np.sqrt(np.nansum((number_A3 - centre_3) ** 2, axis=0) / count_3)
        text_AD = encoder.encode_batch([_words(arm, info) for arm in arms]).astype(np.float64)
        return cls(centre_3, np.where(scale_3 > 1e-9, scale_3, 1.0), text_AD.mean(axis=0))

    @classmethod
    def restored(cls, arrays: Mapping[str, Array], dimension: int) -> NodeScales:
        """What was saved.

        Raises:
            DataError: an array is missing or misshapen.
        """
        found: list[FloatArray] = []
        for name, size in (("number_centre_3", 3), ("number_scale_3", 3), ("text_centre_D", dimension)):
            array = arrays.get(name)
            if array is None or array.shape != (size,):
                raise DataError(f"array {name} is missing or not of shape {(size,)}: fit again")
            found.append(array.astype(np.float64))
        return cls(*found)

    def nodes(self, arms: Sequence[str], info: Mapping[str, ArmInfo], encoder: Encoder) -> FloatArray:
        """Description nodes, shape (A, N): centred vector of the words, then numbers; unknown ones are average."""
        text_AD = encoder.encode_batch([_words(arm, info) for arm in arms]).astype(np.float64)
        number_A3 = np.array([_numbers(info.get(arm, ArmInfo())) for arm in arms])
        scaled_A3 = (number_A3 - self.number_centre_3) / self.number_scale_3
        return np.concatenate([text_AD - self.text_centre_D, np.nan_to_num(scaled_A3)], axis=1)


@dataclass(frozen=True)
class Tasks:
    """Task nodes: where each task's queries lie from the middle of all, as a unit vector. Empty where not used."""

    names: tuple[str, ...]
    vector_TD: FloatArray

    @classmethod
    def of(cls, tasks: Sequence[str | None], vector_RD: Matrix, *, used: bool) -> Tasks:
        """Of the training queries."""
        names = tuple(sorted({task for task in tasks if task})) if used else ()
        vector_TD = np.zeros((len(names), vector_RD.shape[1]))
        for row, name in enumerate(names):
            away_D = vector_RD[[task == name for task in tasks]].mean(axis=0) - vector_RD.mean(axis=0)
            vector_TD[row] = away_D / max(float(np.linalg.norm(away_D)), 1e-12)
        return cls(names, vector_TD)

    def beside(self, vector_QD: Matrix, tasks: Sequence[str | None], centre_D: FloatArray) -> FloatArray:
        """Centred query vectors; where tasks are used, each is followed by its task's, zeros for a task not known."""
        centred_QD = vector_QD.astype(np.float64) - centre_D
        if not self.names:
            return centred_QD
        task_QD = np.zeros_like(centred_QD)
        place = {name: number for number, name in enumerate(self.names)}
        for row, task in enumerate(tasks):
            if task in place:
                task_QD[row] = self.vector_TD[place[task]]
        return np.concatenate([centred_QD, task_QD], axis=1)


def _words(arm: str, info: Mapping[str, ArmInfo]) -> str:
    """An arm's description, after its name: names tell families apart where descriptions are missing."""
    return f"{arm}. {info.get(arm, ArmInfo()).description}"


def _numbers(info: ArmInfo) -> tuple[float, float, float]:
    prices = (
        (np.nan, np.nan)
        if info.price is None
        else (info.price.input_usd_per_mtok, info.price.output_usd_per_mtok)
    )
    size = np.nan if info.parameters_b is None else info.parameters_b
    # A free model has a price too; a millionth of a cent keeps its logarithm finite.
    log_3 = np.log(np.maximum(np.array([size, *prices]), 1e-8))
    return float(log_3[0]), float(log_3[1]), float(log_3[2])
