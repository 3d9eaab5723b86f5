"""What a human writes to train: the shape of a training file. Imports nothing heavy; every default is visible here."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from thinkroute.errors import ConfigError
from thinkroute.fleet.shipped import all_names
from thinkroute.fleet.tasks import FamilyName

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
_Capped = TypeVar("_Capped", bound="AdaCoTConfig | RelayConfig")
_SCIENTIFIC = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


class Section(BaseModel):
    """A part of the file: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


_ABOUT_SERVERS = ("upstream_name", "request_timeout_s", "weights_folder")
_ABOUT_CHECKPOINTS = ("format", "device", "dtype", "gradient_checkpointing", "lora_rank")


def _none(value: object) -> bool:
    return value is None


def _usual_timeout(value: float) -> bool:
    return value == 600.0


def _token_mean(value: str) -> bool:
    return value == "token_mean"


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
        exclude_if=_none,
        pattern=r"^https?://",
        description="A vLLM server that generates, e.g. http://127.0.0.1:8000/v1. Beside `path`: rollouts of the "
        "checkpoint under training, whose weights it is given before every batch. Alone: a teacher that it holds.",
    )
    upstream_name: str | None = Field(
        default=None,
        exclude_if=_none,
        description="What the server calls the model; default: the only one it has.",
    )
    request_timeout_s: Positive = Field(
        default=600.0, exclude_if=_usual_timeout, description="Longest a request to the server may take."
    )
    weights_folder: Path | None = Field(
        default=None,
        exclude_if=_none,
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
    level_shares: tuple[float, float, float, float, float] = Field(
        default=(0.35, 0.30, 0.20, 0.10, 0.05), description="Shares of levels 1 – 5 among training questions."
    )
    file: Path | None = Field(
        default=None, description="JSONL with `question` and `answer` instead of the fleet's tasks."
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


class OptimiserSection(Section):
    """AdamW."""

    learning_rate: Positive = 4e-4
    betas: tuple[float, float] = (0.9, 0.95)
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
        default=128, description="Responses that the embedded engine, or a server, writes at once."
    )


class ReferenceSection(Section):
    """Samples of the initial model, drawn once."""

    samples: Count = 16
    temperature: Positive = 0.6
    top_p: Share = 0.95


class TrainingConfig(Section):
    """What every method's file has."""

    model: ModelSection
    task: TaskSection = TaskSection()
    optimiser: OptimiserSection = OptimiserSection()
    steps: Count = 150
    seed: int = 0
    checkpoint_every: Count = 50
    evaluate: Count = Field(
        default=100, description="Questions per level (of a file: in all) before and after."
    )

    @model_validator(mode="after")
    def _has_weights(self) -> Self:
        if self.model.fleet is None and self.model.path is None:
            raise ValueError(
                "model: weights behind a `url` cannot be trained: name their checkpoint in `path` too"
            )
        return self


def _without_direct_cap(config: _Capped) -> _Capped:
    if config.rollouts.most_tokens_direct is not None:
        raise ValueError(
            "rollouts.most_tokens_direct is AdaptThink's, which forces the mode; use most_tokens"
        )
    return config


class AdaptThinkConfig(TrainingConfig):
    """`thinkroute train adaptthink`."""

    method: Literal["adaptthink"] = "adaptthink"
    delta: NonNegative = Field(default=0.05, description="What an empty block is worth, in right answers.")
    ratio: Literal["sequence_mean", "token", "tis"] = Field(
        default="sequence_mean", description="sequence_mean: the published code; token: the paper's formula."
    )
    advantage: Literal["raw", "group_mean"] = Field(
        default="raw", description="group_mean is the ablation that cancels the constraint."
    )
    clip: Positive = 0.2
    forced: bool = Field(default=True, description="Off is the ablation: rollouts decide for themselves.")
    thinking: Literal["forced", "free"] = Field(
        default="forced",
        description="How the half that is not forced to answer at once begins; the paper: forced.",
    )
    rollouts: RolloutSection = RolloutSection()
    reference: ReferenceSection = ReferenceSection()

    @model_validator(mode="after")
    def _halves(self) -> Self:
        if self.forced and self.rollouts.group % 2:
            raise ValueError("rollouts.group must be even: half of it is made to answer at once")
        return self


class PenaltySection(Section):
    """AdaCoT's penalties, in right answers."""

    miss: NonNegative = 0.2
    over: NonNegative = 0.3
    malformed: NonNegative = 1.0


class WarmUpSection(Section):
    """Supervised warm-up before reinforcement; 0 steps skips it."""

    steps: Annotated[int, Field(ge=0)] = 200
    questions: Count = 1500
    examples_per_step: Count = 32
    optimiser: OptimiserSection = OptimiserSection(learning_rate=1e-3, schedule="linear")


class AdaCoTConfig(TrainingConfig):
    """`thinkroute train adacot`."""

    method: Literal["adacot"] = "adacot"
    penalties: PenaltySection = PenaltySection()
    label_margin: NonNegative = Field(
        default=0.1, description="A question is labelled `think` when thinking helps by more than this."
    )
    flipped_labels: Share = Field(default=0.0, description="Share of labels made wrong on purpose.")
    masks_decision: bool = Field(default=False, description="Selective loss masking.")
    reinforced_levels: tuple[int, ...] = Field(
        default=(),
        description="Levels that reinforcement draws from; empty: all. Hard ones alone are the paper's mathematical "
        "stage, where thinking is always right.",
    )
    rollouts: RolloutSection = RolloutSection(group=8, items_per_step=32)
    reference: ReferenceSection = ReferenceSection(samples=8)
    warm_up: WarmUpSection = WarmUpSection()
    trace: Share = Field(
        default=1.0,
        description="λ of the advantage estimate. Below 1 the decision to think gets hardly any of the reward that comes "
        "a hundred tokens later, and answering at once looks better than it is.",
    )
    entropy: NonNegative = 0.0

    @model_validator(mode="after")
    def _no_direct_cap(self) -> Self:
        return _without_direct_cap(self)


class FusionConfig(TrainingConfig):
    """`thinkroute train fusion`."""

    method: Literal["fusion"] = "fusion"
    thinking_share: Share = Field(
        default=0.5, description="Questions that thinking samples are drawn for; wrong ones are left out."
    )
    no_flag_share: Share = Field(default=0.3, description="Thinking samples without any flag.")
    several_flags_share: Share = 0.2
    empty_block: bool = Field(default=True, description="Off is the ablation.")
    attempts: Count = Field(default=2, description="Responses per question for rejection sampling.")
    temperature: Positive = 0.6
    examples_per_step: Count = 32
    direct_levels: tuple[int, ...] = Field(
        default=(), description="Levels the non-thinking samples are drawn from; empty: all."
    )
    most_tokens: Count | None = Field(
        default=None,
        exclude_if=_none,
        description="Cap of a response, sampled or measured; thoughts that are cut are not learned. A checkpoint needs one.",
    )

    @model_validator(mode="after")
    def _whole_thoughts(self) -> Self:
        if self.model.path is not None and self.most_tokens is None:
            raise ValueError("most_tokens: say how long a checkpoint's thoughts may get, e.g. 16384")
        return self


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


class RelayConfig(TrainingConfig):
    """`thinkroute train relay`."""

    method: Literal["relay"] = "relay"
    teacher: ModelSection
    effort: Literal["on", "off", "default"] = Field(default="on", description="Of student and teacher.")
    calls: bool = Field(default=True, description="Off is plain GRPO: the same student, without a teacher.")
    fixed_tokens: Count | None = Field(
        default=None, description="Every call hands over so many tokens, whatever number it names."
    )
    most_calls: Count = 8
    most_tokens_per_call: Count = 256
    reward: RelayRewardSection = RelayRewardSection()
    filter: RelayFilterSection = RelayFilterSection()
    warm_up: RelayWarmUpSection = RelayWarmUpSection()
    rollouts: RolloutSection = RolloutSection(group=8, items_per_step=32)
    advantage: Literal["group_norm_unbiased", "group_norm", "group_mean"] = "group_norm_unbiased"
    aggregation: Literal["token_mean", "sequence_mean", "constant_length"] = Field(
        default="token_mean",
        exclude_if=_token_mean,
        description="What the loss is averaged over. sequence_mean: GRPO as first published; constant_length: sums over "
        "rollouts.most_tokens, with advantage group_mean Dr. GRPO.",
    )
    clip: Positive = 0.2
    kl: NonNegative = Field(default=0.0, description="Weight of the divergence from the warmed-up student.")
    token_routers: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Evaluation questions on which CITER and R2R are judged beside it; fleet only."
    )

    @model_validator(mode="after")
    def _groups(self) -> Self:
        if self.rollouts.group < 2:
            raise ValueError("rollouts.group must be at least 2: advantages compare the responses of a group")
        if self.aggregation == "constant_length" and self.rollouts.most_tokens is None:
            raise ValueError("aggregation: constant_length divides by rollouts.most_tokens, which is not set")
        return _without_direct_cap(self)

    @model_validator(mode="after")
    def _one_teacher(self) -> Self:
        if self.teacher.url is None:
            for name in ("lora_rank", "gradient_checkpointing", "format"):
                if getattr(self.teacher, name) != ModelSection.model_fields[name].default:
                    raise ValueError(f"teacher: `{name}` does nothing for a teacher, which is not trained")
            return self
        for name, described in ModelSection.model_fields.items():
            used = name in ("url", "upstream_name", "request_timeout_s")
            if not used and getattr(self.teacher, name) != described.default:
                raise ValueError(f"teacher: `{name}` does nothing for a teacher behind a `url`: leave it out")
        return self


AnyConfig = AdaptThinkConfig | AdaCoTConfig | FusionConfig | RelayConfig
KINDS: Mapping[str, type[AdaptThinkConfig | AdaCoTConfig | FusionConfig | RelayConfig]] = {
    "adaptthink": AdaptThinkConfig,
    "adacot": AdaCoTConfig,
    "fusion": FusionConfig,
    "relay": RelayConfig,
}


# A relay may be measured anew without being trained anew.
_NOT_OF_THE_WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "adaptthink": (),
    "adacot": (),
    "fusion": (),
    "relay": ("evaluate", "token_routers", "checkpoint_every"),
}


def read_overrides(texts: Sequence[str]) -> dict[str, object]:
    """`name=value` texts, the value as YAML: `[0.5, 0.5]` is a list. 5e-4 is a number, which YAML 1.1 would doubt.

    Raises:
        ConfigError: a text without `=`, or with a value that YAML cannot read.
    """
    overrides: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"setting {text!r} must have the form name=value")
        try:
            overrides[name] = float(value) if _SCIENTIFIC.fullmatch(value) else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"setting {text!r}: the value is no YAML: {error}", param=name) from error
    return overrides


def shipped() -> list[str]:
    """Names of the configurations that come with the package."""
    folder = files("thinkroute.training").joinpath("configs")
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def load(reference: str, method: str, overrides: Mapping[str, object] | None = None) -> AnyConfig:
    """Read a training file, or a shipped one by its name.

    Args:
        reference: A path, or a name out of `shipped()`.
        method: Which method's file it must be.
        overrides: Values by dotted path, e.g. `{"rollouts.group": 8}`; they win over the file.

    Raises:
        ConfigError: it cannot be read, or is wrong; the message names every wrong place.
    """
    text = _read(reference)
    try:
        raw: object = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{reference} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{reference} must hold a mapping")
    content = cast("dict[str, Any]", raw)
    if content.setdefault("method", method) != method:
        raise ConfigError(f"{reference} is for `thinkroute train {content['method']}`, not {method}")
    for path, value in (overrides or {}).items():
        _set(content, path, value)
    try:
        return KINDS[method].model_validate(content)
    except ValidationError as error:
        lines = [_described(problem, KINDS[method]) for problem in error.errors()]
        raise ConfigError(f"{reference} is wrong:\n" + "\n".join(lines)) from error


def _described(problem: ErrorDetails, kind: type[BaseModel]) -> str:
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


def check_run(folder: Path, config: AnyConfig) -> None:
    """A run's folder is new, or holds a run of the same configuration.

    Raises:
        ConfigError: another configuration was run in it, which this run would write over; the message names what differs.
    """
    stored = folder / "config.json"
    begun = (folder / "report.json").exists() or any(folder.glob("checkpoint-*.pt"))
    if not begun or not stored.exists():
        return
    before = _flat(json.loads(stored.read_text(encoding="utf-8")))
    now = _flat(config.model_dump(mode="json"))
    after_training = _NOT_OF_THE_WEIGHTS[config.method]
    names = [
        name for name in (*now, *before) if before.get(name) != now.get(name) and name not in after_training
    ]
    if names:
        changes = ", ".join(f"{name} {before.get(name)} → {now.get(name)}" for name in dict.fromkeys(names))
        raise ConfigError(
            f"{folder} holds a run of another configuration ({changes}): choose another --out, or delete the folder",
            param="--out",
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted paths."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(cast("dict[str, Any]", value), f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _read(reference: str) -> str:
    path = Path(reference)
    try:
        if path.suffix in (".yaml", ".yml"):
            return path.read_text(encoding="utf-8")
        return (
            files("thinkroute.training").joinpath("configs", f"{reference}.yaml").read_text(encoding="utf-8")
        )
    except (OSError, UnicodeDecodeError) as error:
        close = difflib.get_close_matches(reference, shipped(), n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; shipped: {', '.join(shipped())}"
        raise ConfigError(f"cannot read training file {reference!r}{hint}") from error


def _set(content: dict[str, Any], path: str, value: object) -> None:
    *parents, last = path.split(".")
    for place, name in enumerate(parents, start=1):
        below = content.setdefault(name, {})
        if not isinstance(below, dict):
            whole = ".".join(parents[:place])
            raise ConfigError(f"setting {path!r}: {whole} is {below!r}, which has no parts", param=path)
        content = cast("dict[str, Any]", below)
    content[last] = value
