"""What a frozen model achieves on every training question, sampled once and kept. Never imports torch.

The table is AdaptThink's baseline, AdaCoT's audit of labels and any filter by difficulty. It is keyed by the model's
fingerprint, the sampling settings and how is graded: statistics of other weights or grades are never reused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from thinkroute.programs.direct import direct
from thinkroute.training.rollout import Attempt, Opening, roll_out
from thinkroute.training.samplers import Sampler
from thinkroute.training.tasks import Item, Task
from thinkroute.training.trajectory import Trajectory
from thinkroute.types import Effort

_RESPONSES_PER_ROUND = 512


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the samples are drawn."""

    samples: int = 16
    temperature: float = 0.6
    top_p: float = 0.95
    max_tokens: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Statistic:
    """One question's samples in two numbers."""

    reward: float
    """Mean grade."""
    tokens: float
    """Mean response length, opening included."""
    samples: int


def key_of(item: Item) -> str:
    """What a question, with the answer it is graded by, is stored under."""
    return _hashed(f"{item.question}\0{item.reference}")


def _hashed(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


Progress = Callable[[int, int], None]


class ReferenceTable:
    """Statistics of one model under one way of sampling.

    Args:
        path: Where the table is kept; None keeps it in memory.
        model: Fingerprint of the weights.
        opening: What every sample begins with: how a mode is forced. Empty lets the model decide.
        sampling: How samples are drawn.
        effort: What the model is asked for; `default` leaves the choice to it, or to the opening.
        grader: Name of what grades.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        model: str,
        opening: str,
        sampling: Sampling,
        effort: Effort = Effort("default"),
        grader: str = "",
    ) -> None:
        self._path = path
        self._opening = opening
        self._sampling = sampling
        self._effort = effort
        key = {"model": model, "opening": opening, **asdict(sampling)}
        if grader:
            key["grader"] = grader
        if effort.level != "default":
            key["effort"] = str(effort)
        self._key = json.dumps(key, sort_keys=True)
        self._statistics: dict[str, Statistic] = {}
        if path and path.exists():
            stored = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
            if stored["key"] == self._key:
                self._statistics = {name: Statistic(*row) for name, row in stored["statistics"].items()}

    def __getitem__(self, item: Item) -> Statistic:
        return self._statistics[key_of(item)]

    def fill(
        self,
        items: Sequence[Item],
        sampler: Sampler,
        task: Task,
        progress: Progress = lambda done, total: None,
    ) -> None:
        """Sample every question that is not known yet, with the weights the sampler holds now.

        What was sampled before an interruption is kept.
        """
        unknown = {key_of(item): item for item in items}
        missing = [item for key, item in unknown.items() if key not in self._statistics]
        per_round = max(1, _RESPONSES_PER_ROUND // self._sampling.samples)
        for start in range(0, len(missing), per_round):
            chosen = missing[start : start + per_round]
            for item, responses in zip(chosen, self._sample(chosen, sampler), strict=True):
                self._statistics[key_of(item)] = Statistic(
                    fmean(task.grade(item, response.text) for response in responses),
                    fmean(response.tokens for response in responses),
                    len(responses),
                )
            self._save()  # on a real checkpoint the table is hours of work
            progress(start + len(chosen), len(missing))

    def _sample(self, items: Sequence[Item], sampler: Sampler) -> list[list[Trajectory]]:
        count = self._sampling.samples
        attempts = [
            Attempt(
                item.messages,
                direct(sampler.model, self._effort, self._sampling.max_tokens),
                self._forced(sampler),
                {
                    "temperature": self._sampling.temperature,
                    "top_p": self._sampling.top_p,
                    "seed": int(_hashed(item.question), 16) % 2**40
                    + 1_000_003 * self._sampling.seed
                    + sample,
                },
            )
            for item in items
            for sample in range(count)
        ]
        responses = roll_out(attempts, sampler)
        return [responses[start : start + count] for start in range(0, len(responses), count)]

    def _forced(self, sampler: Sampler) -> Opening | None:
        if not self._opening:
            return None
        return Opening(self._opening, (None,) * len(sampler.encode(self._opening)))

    def _save(self) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        rows = {name: (row.reward, row.tokens, row.samples) for name, row in self._statistics.items()}
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps({"key": self._key, "statistics": rows}), encoding="utf-8")
        partial.replace(self._path)


def solvable(
    items: Iterable[Item], table: ReferenceTable, *, least: float = 0.0, most: float = 1.0
) -> list[Item]:
    """The curriculum filter: questions whose mean grade lies between two bounds."""
    return [item for item in items if least <= table[item].reward <= most]


def natural_first_token(items: Sequence[Item], sampler: Sampler) -> str:
    """The model's most frequent first token: what a thinking rollout of a distilled R1 model is made to begin with."""
    attempts = [Attempt(item.messages, direct(sampler.model, Effort("default"), 1)) for item in items]
    texts = [response.text for response in roll_out(attempts, sampler)]
    return max(sorted(set(texts)), key=texts.count)
