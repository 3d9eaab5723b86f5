"""What a human writes to train: the shape of a training file. Imports nothing heavy; every default is visible here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, cast

import yaml
from pydantic import Field, ValidationError, model_validator

from thinkroute.errors import ConfigError
from thinkroute.training.sections import (
    Count,
    Level,
    ModelSection,
    NonNegative,
    OptimiserSection,
    OrderSection,
    PenaltySection,
    Positive,
    ReferenceSection,
    RelayFilterSection,
    RelayRewardSection,
    RelayWarmUpSection,
    RolloutSection,
    Section,
    Share,
    TaskSection,
    WarmUpSection,
    described_problem,
    usual,
)
from thinkroute.wire.soft_switch import NO_THINK, THINK

_Capped = TypeVar("_Capped", bound="AdaCoTConfig | RelayConfig")
_Sampled = TypeVar("_Sampled", bound="AdaptThinkConfig | AdaCoTConfig")
_SCIENTIFIC = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


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


def _with_cap(config: _Sampled) -> _Sampled:
    if config.model.path is not None and config.rollouts.most_tokens is None:
        raise ValueError("rollouts.most_tokens: say how long a checkpoint's responses may get, e.g. 16384")
    return config


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
    kl: NonNegative = Field(
        default=0.0,
        exclude_if=usual(0.0),
        description="Weight of the divergence from the initial model; the paper: none.",
    )
    rollouts: RolloutSection = RolloutSection()
    reference: ReferenceSection = ReferenceSection()

    @model_validator(mode="after")
    def _halves(self) -> Self:
        if self.forced and self.rollouts.group % 2:
            raise ValueError("rollouts.group must be even: half of it is made to answer at once")
        if not self.forced and self.thinking == "free":
            raise ValueError(
                "thinking: free says how a half begins that is not forced; with forced: false none is"
            )
        if not self.forced and self.rollouts.most_tokens_direct is not None:
            raise ValueError(
                "rollouts.most_tokens_direct caps forced answers; with forced: false use most_tokens"
            )
        return _with_cap(self)


class AdaCoTConfig(TrainingConfig):
    """`thinkroute train adacot`."""

    method: Literal["adacot"] = "adacot"
    penalties: PenaltySection = PenaltySection()
    label_margin: NonNegative = Field(
        default=0.1, description="A question is labelled `think` when thinking helps by more than this."
    )
    flipped_labels: Share = Field(default=0.0, description="Share of labels made wrong on purpose.")
    orders: OrderSection = Field(default=OrderSection(), exclude_if=usual(OrderSection()))
    masks_decision: bool = Field(default=False, description="Selective loss masking.")
    reinforced_levels: tuple[Level, ...] = Field(
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
    value_learning_rate: Positive | None = Field(
        default=None,
        exclude_if=usual(None),
        description="Of the critic, clipped apart then; default: the optimiser's. At a checkpoint's 1e-6 it learns nothing.",
    )

    @model_validator(mode="after")
    def _no_direct_cap(self) -> Self:
        return _with_cap(_without_direct_cap(self))

    @model_validator(mode="after")
    def _readable_orders(self) -> Self:
        texts = (self.orders.always, self.orders.never)
        if self.orders.share and self.model.fleet is not None and texts != (THINK, NO_THINK):
            raise ValueError(
                f"orders: members read only {THINK} (always) and {NO_THINK} (never) in a system message"
            )
        return self

    @model_validator(mode="after")
    def _levels_that_occur(self) -> Self:
        occurring = [
            share > 0 and level in self.reinforced_levels
            for level, share in enumerate(self.task.level_shares, 1)
        ]
        if self.reinforced_levels and self.task.file is None and not any(occurring):
            raise ValueError(
                f"reinforced_levels: task.level_shares has none of {list(self.reinforced_levels)}"
            )
        return self


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
    cut_share: Share = Field(
        default=0.0,
        exclude_if=usual(0.0),
        description="Questions whose thought a budget cuts, for the answer behind it; the published recipe has none.",
    )
    cut_tokens: tuple[Count, Count] = Field(
        default=(1, 96),
        exclude_if=usual((1, 96)),
        description="Least and most tokens of those thoughts.",
    )
    examples_per_step: Count = 32
    seats: Count = Field(
        default=128,
        exclude_if=usual(128),
        description="Responses that are written at once, as rollouts.seats.",
    )
    direct_levels: tuple[Level, ...] = Field(
        default=(), description="Levels the non-thinking samples are drawn from; empty: all."
    )
    most_tokens: Count | None = Field(
        default=None,
        exclude_if=usual(None),
        description="Cap of a response, sampled or measured; thoughts that are cut are not learned. A checkpoint needs one.",
    )

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.thinking_share + self.cut_share > 1:
            raise ValueError(
                "thinking_share and cut_share must add up to at most 1: the rest answers at once"
            )
        if self.cut_tokens[0] > self.cut_tokens[1]:
            raise ValueError(f"cut_tokens: least before most, not {list(self.cut_tokens)}")
        if not self.cut_share and self.cut_tokens != type(self).model_fields["cut_tokens"].default:
            raise ValueError("cut_tokens does nothing without cut_share")
        if self.cut_share and self.most_tokens is not None and self.cut_tokens[1] >= self.most_tokens:
            raise ValueError("cut_tokens must stay below most_tokens, or no room is left for the answer")
        return self

    @model_validator(mode="after")
    def _whole_thoughts(self) -> Self:
        if self.model.path is not None and self.most_tokens is None:
            raise ValueError("most_tokens: say how long a checkpoint's thoughts may get, e.g. 16384")
        return self


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
        exclude_if=usual("token_mean"),
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
        lines = [described_problem(problem, KINDS[method]) for problem in error.errors()]
        raise ConfigError(f"{reference} is wrong:\n" + "\n".join(lines)) from error


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
