"""The parts that training files are made of: models, tasks, amounts, rewards. Imports nothing heavy; every default is visible."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from thinkroute.fleet.shipped import all_names
from thinkroute.fleet.tasks import FamilyName
from thinkroute.training.thinking import ALWAYS, NEVER

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Level = Annotated[int, Field(ge=1, le=5)]


class Section(BaseModel):
    """A part of the file: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


_ABOUT_SERVERS = ("upstream_name", "request_timeout_s", "weights_folder")
_ABOUT_CHECKPOINTS = ("format", "device", "dtype", "gradient_checkpointing", "lora_rank")


def usual(default: object) -> Callable[[object], bool]:
    """For `exclude_if`: settings that came later leave files that lack them known by the same text as ever."""
    return lambda value: value == default


class ModelSection(Section):
    """What is trained, and what generates for it; or a teacher."""

    fleet: str | None = Field(default=None, description="A member of the embedded fleet, e.g. base.")
    directory: Path | None = Field(
        default=None,
        description="A member's folder written by an earlier run; `fleet` names what it descends from.",
    )
    path: str | None = Field(default=None, description="A Hugging Face checkpoint: folder or name.")
    format: Literal["qwen3", "r1"] = Field(
        default="qwen3",
        description="How the model opens its thinking block: itself (qwen3) or its template (r1).",
    )
    device: str = Field(default="cpu", description="Where a checkpoint is trained, e.g. cuda.")
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    lora_rank: Annotated[int, Field(ge=0)] = Field(
        default=0, description="0 trains all weights; else needs peft."
    )
    # Files without a server are known by the same text as ever: it is what checkpoints and tables are kept under.
    url: str | None = Field(
        default=None,
        exclude_if=usual(None),
        pattern=r"^https?://",
        description="A vLLM server that generates, e.g. http://127.0.0.1:8000/v1. Beside `path`: rollouts of the "
        "checkpoint under training, whose weights it is given before every batch. Alone: a teacher that it holds.",
    )
    upstream_name: str | None = Field(
        default=None,
        exclude_if=usual(None),
        description="What the server calls the model; default: the only one it has.",
    )
    request_timeout_s: Positive = Field(
        default=600.0, exclude_if=usual(600.0), description="Longest a request to the server may take."
    )
    weights_folder: Path | None = Field(
        default=None,
        exclude_if=usual(None),
        description="Where the weights are put for the server, which must see it under the same path, e.g. in /dev/shm; "
        "default: `server-weights` in the run's folder.",
    )

    @field_validator("fleet")
    @classmethod
    def _known_member(cls, name: str | None) -> str | None:
        if name is not None and name not in all_names():
            close = difflib.get_close_matches(name, all_names(), n=1)
            hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(all_names())}"
            raise ValueError(f"the fleet has no member {name!r}; {hint}")
        return name

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if self.url is None:
            if (self.fleet is None) == (self.path is None):
                raise ValueError("name exactly one of `fleet` (an embedded member) and `path` (a checkpoint)")
            self._refuse(_ABOUT_SERVERS, "is about a server: it needs `url`")
        elif self.fleet is not None:
            raise ValueError("the embedded engine generates for members: `url` goes with `path`, or alone")
        if self.fleet is not None:
            self._refuse(_ABOUT_CHECKPOINTS, "is about checkpoints: a member trains on the CPU, in float32")
        else:
            self._refuse(
                ("directory",), "is the folder of a member: it needs `fleet`; a checkpoint's is `path`"
            )
        if self.directory is not None and not (self.directory / "model.safetensors").is_file():
            raise ValueError(
                f"`directory` {self.directory} holds no model.safetensors: name a run's `model` folder"
            )
        return self

    def _refuse(self, names: Sequence[str], why: str) -> None:
        """No setting may be there that does nothing."""
        for name in names:
            if getattr(self, name) != ModelSection.model_fields[name].default:
                raise ValueError(f"`{name}` {why}")


class TaskSection(Section):
    """The questions."""

    families: tuple[FamilyName, ...] = Field(
        default=("arithmetic", "story", "relations", "composition"),
        description="Families of the fleet's tasks.",
    )
    level_shares: tuple[NonNegative, NonNegative, NonNegative, NonNegative, NonNegative] = Field(
        default=(0.35, 0.30, 0.20, 0.10, 0.05), description="Shares of levels 1 – 5 among training questions."
    )
    file: Path | None = Field(
        default=None, description="JSONL with `question` and `answer` instead of the fleet's tasks."
    )
    eval_file: Path | None = Field(
        default=None,
        exclude_if=usual(None),
        description="Questions to measure on, all of them; default: every tenth of `file`.",
    )
    grader: str = Field(default="number", description="Grader of the file: number, exact, contains, …")
    questions: Count = Field(default=2000, description="Training questions; few are learned by heart.")
    split: Literal["train", "filter"] = Field(
        default="train",
        description="filter: questions the fleet's members never saw. Reinforcement needs them: an answer known by "
        "heart says nothing about what the model can do at once.",
    )
    seed: int = Field(
        default=0, description="Of the choice of questions; runs that differ in `seed` alone share them."
    )

    @model_validator(mode="after")
    def _questions(self) -> Self:
        for name in ("grader", "eval_file"):
            if self.file is None and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` is about `file`, which is not set")
        if not any(self.level_shares):
            raise ValueError("level_shares: one level at least needs a share above 0")
        return self


class OptimiserSection(Section):
    """AdamW."""

    learning_rate: Positive = 4e-4
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    weight_decay: NonNegative = 0.0
    clip_norm: Positive = 1.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["constant", "linear"] = "constant"


class RolloutSection(Section):
    """How much is sampled per step, and how."""

    items_per_step: Count = Field(default=16, description="Questions per step.")
    group: Count = Field(default=16, description="Responses per question.")
    temperature: Positive = 1.0
    most_tokens: Count | None = Field(default=None, description="Cap of a response.")
    most_tokens_direct: Count | None = Field(
        default=None, description="Cap of a response behind an empty block."
    )
    epochs: Count = Field(default=1, description="Passes over each batch of rollouts.")
    updates: Count = Field(default=1, description="Optimiser steps per pass.")
    tokens_per_batch: Count = 16_384
    seats: Count = Field(
        default=128,
        description="Responses that the embedded engine, Transformers or a server writes at once. With Transformers their "
        "keys and values must fit in memory.",
    )


class ReferenceSection(Section):
    """Samples of the initial model, drawn once."""

    samples: Count = 16
    temperature: Positive = 0.6
    top_p: Share = 0.95


class PenaltySection(Section):
    """AdaCoT's penalties, in right answers."""

    miss: NonNegative = 0.2
    over: NonNegative = 0.3
    malformed: NonNegative = 1.0


class OrderSection(Section):
    """AdaCoT's system messages that order to always or never think."""

    share: Share = Field(
        default=0.0, description="Of reinforcement's questions; 0: none anywhere, not in the warm-up either."
    )
    warm_up_questions: Count = Field(
        default=1000, description="More questions for the warm-up, all with an order; they need no label."
    )
    always: Annotated[str, Field(min_length=1)] = ALWAYS
    never: Annotated[str, Field(min_length=1)] = NEVER

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if self.always == self.never:
            raise ValueError(f"`always` and `never` must differ, not both be {self.never!r}")
        return self


class WarmUpSection(Section):
    """Supervised warm-up before reinforcement; 0 steps skips it."""

    steps: Annotated[int, Field(ge=0)] = 200
    questions: Count = 1500
    examples_per_step: Count = 32
    optimiser: OptimiserSection = OptimiserSection(learning_rate=1e-3, schedule="linear")


class RelayRewardSection(Section):
    """RelayLLM's reward."""

    kind: Literal["difficulty", "simple", "right"] = Field(
        default="difficulty", description="simple: right minus cost; right: plain GRPO's."
    )
    bonus: NonNegative = Field(default=0.5, description="For being right without a call; 0 is an ablation.")
    alone: NonNegative = Field(
        default=1.0, description="Taken from a wrong response without a call where only calls were right."
    )
    cost: NonNegative = Field(
        default=1.0, description="Price of a response that is the teacher's throughout."
    )
    exploration: NonNegative = Field(
        default=1.0, description="For calling where nobody was right; 0 is an ablation."
    )
    explores: Literal["share", "once"] = Field(
        default="share",
        description="share: in proportion to the teacher's tokens (the paper); once: for any call.",
    )
    malformed: NonNegative = Field(default=0.0, description="Taken for a command that calls nobody.")


class RelayFilterSection(Section):
    """Which questions the teacher can help with; 0 samples keep all."""

    samples: Annotated[int, Field(ge=0)] = 10
    least: Share = Field(default=0.5, description="Smallest pass rate of the teacher.")
    temperature: Positive = 0.7
    top_p: Share = 0.95


class RelayWarmUpSection(Section):
    """Commands put into the student's own answers; 0 steps skip it."""

    steps: Annotated[int, Field(ge=0)] = 200
    questions: Count = 1500
    samples: Count = Field(default=1, description="Answers per question.")
    temperature: Positive = 0.3
    lengths: tuple[Count, ...] = Field(
        default=tuple(digit * 10**power for power in range(4) for digit in range(1, 10)),
        description="What the numbers in the commands are drawn from.",
    )
    per_position: Share = Field(
        default=0.0,
        description="Probability of a command in front of every token; 0: `most_commands` decides.",
    )
    most_commands: Count = Field(default=3, description="Commands per answer, uniformly from 0.")
    clean_share: Share = Field(default=0.25, description="Answers without any command.")
    examples_per_step: Count = 32
    optimiser: OptimiserSection = OptimiserSection(learning_rate=1e-3, schedule="linear")


def described_problem(problem: ErrorDetails, kind: type[BaseModel]) -> str:
    """One line about one wrong place: where, what is wrong with which value, what was probably meant."""
    place = ".".join(map(str, problem["loc"])) or "the file"
    value = problem["input"]
    if problem["type"] == "extra_forbidden":
        *parents, last = map(str, problem["loc"])
        for name in parents:
            section = kind.model_fields[name].annotation
            kind = section if isinstance(section, type) and issubclass(section, BaseModel) else BaseModel
        close = difflib.get_close_matches(last, kind.model_fields, n=1)
        return f"  {place}: unknown key; " + (
            f"did you mean {close[0]}?" if close else f"known: {', '.join(kind.model_fields)}"
        )
    got = f", not {value!r}" if isinstance(value, (str, int, float)) else ""
    return f"  {place}: {problem['msg'].removeprefix('Value error, ')}{got}"
