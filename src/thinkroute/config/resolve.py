"""From the file to complete types: families recognised, automatic arms listed, names checked against each other.

After `resolve` nothing is `auto` or None that a request would need; what stays None is truly unknown (a price).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from thinkroute.catalog import Model, family_named, family_of
from thinkroute.config.schema import ArmSection, Config, ModelSection
from thinkroute.errors import ConfigError
from thinkroute.types import Arm, Effort, Price, arm_by_id, relay_names, stage_names

AUTO = "auto"
CASCADE = "cascade"
"""Name that stands for the cascades among the arms, where there are any and nothing else is called so."""
_MODEL_NAME_BANS = ("@", "(", ")")


@dataclass(frozen=True, slots=True)
class VirtualModel:
    """A name that stands for a choice among arms."""

    name: str
    arms: tuple[Arm, ...]
    value_usd: float


@dataclass(frozen=True, slots=True)
class Resolved:
    """A configuration with nothing left to guess."""

    config: Config
    models: Mapping[str, Model]
    arms: tuple[Arm, ...]
    """All arms `auto` chooses among, in a stable order."""
    virtual_models: Mapping[str, VirtualModel]
    """`auto`, `cascade` where there is one, and the configured names."""
    declared_quality: Mapping[str, float] = field(default_factory=dict[str, float])
    """Arm id → the user's own guess of quality, where one was written."""

    @property
    def every_arm(self) -> tuple[Arm, ...]:
        """The arms behind `auto` and the configured names, each once."""
        arms = {arm.id: arm for name in self.virtual_models.values() for arm in name.arms}
        return tuple(arms.values())


def resolve(config: Config, fleet: Sequence[Model] = (), fleet_arms: Sequence[Arm] = ()) -> Resolved:
    """Complete a configuration.

    Args:
        config: What the user wrote.
        fleet: The embedded models, used when the configuration asks for them or names no model at all.
        fleet_arms: The arms offered for them when none are written.

    Raises:
        ConfigError: names clash, an arm uses an unknown model or effort, or nothing can answer.
    """
    use_fleet = config.fleet if config.fleet is not None else not config.models
    models = {model.name: model for model in fleet} if use_fleet else {}
    for name, section in config.models.items():
        models[name] = _model(name, section)
    if not models:
        raise ConfigError("nothing can answer: list a model under `models:` or set `fleet: true`")
    _check_names(models, config.virtual_models)
    _check_prices(config, models)
    arms, declared = _arms(config, models, fleet_arms if use_fleet else ())
    virtual = {AUTO: VirtualModel(AUTO, arms, config.policy.value_usd)}
    cascades = tuple(arm for arm in arms if arm.stages)
    if cascades and CASCADE not in models:
        virtual[CASCADE] = VirtualModel(CASCADE, cascades, config.policy.value_usd)
    for name, section in config.virtual_models.items():
        chosen = tuple(
            arm_by_id(arms, arm_id.strip()) or _parse_arm(arm_id, models, f"virtual_models.{name}.arms")
            for arm_id in section.arms
        )
        virtual[name] = VirtualModel(name, chosen, section.value_usd or config.policy.value_usd)
    return Resolved(config, models, arms, virtual, declared)


def arm_for(model: Model, effort: Effort) -> Arm | None:
    """The arm that gives this model this effort, or None when it cannot be honoured."""
    if effort.threshold is not None:
        return Arm("adaptive", (model.name,), effort) if decides_itself(model) else None
    if effort.budget_tokens is None:
        return Arm("direct", (model.name,), effort) if effort_is_known(model, effort) else None
    if model.thinking_budget_field is not None:
        return Arm("direct", (model.name,), effort)
    return Arm("budgeted", (model.name,), effort) if can_be_cut(model) else None


def can_be_cut(model: Model) -> bool:
    """Whether thinking can be ended by the two-call program on this model's engine."""
    return model.family.budget == "two_call" and (model.engine == "embedded" or model.continuation != "none")


def decides_itself(model: Model) -> bool:
    """Whether the model's choice to think can be read and taken: a raw message, begun in a known way."""
    raw = model.engine == "embedded" or model.continuation == "completions"
    return raw and bool(model.family.direct_token)


def under_cap(arm: Arm, model: Model, max_tokens: int | None) -> Arm:
    """The arm to run under the caller's cap: unlimited thinking that could eat the whole cap becomes a budget.

    Without this, a cap smaller than the thinking would be billed in full for an empty answer.
    """
    unlimited = arm.program == "direct" and arm.effort.level == "on" and arm.effort.budget_tokens is None
    if max_tokens is not None and unlimited and can_be_cut(model):
        return Arm("budgeted", arm.models, arm.effort)
    return arm


def effort_is_known(model: Model, effort: Effort) -> bool:
    """Whether the model's family lists this level (`default` is always honoured: nothing is sent)."""
    return effort.level == "default" or effort.level in model.family.levels


def automatic_arms(model: Model, budgets: Iterable[int]) -> list[Arm]:
    """One arm per level of the family, and one per budget that can be enforced."""
    efforts = [Effort(level) for level in model.family.levels]
    efforts += [Effort("on", budget) for budget in budgets]
    return [arm for effort in efforts if (arm := arm_for(model, effort)) is not None]


def _model(name: str, section: ModelSection) -> Model:
    upstream_name = section.upstream_name or name
    price = section.price
    return Model(
        name=name,
        upstream_name=upstream_name,
        engine="http",
        family=family_named(section.family) if section.family else family_of(upstream_name),
        base_url=section.url,
        api_key=section.api_key.get_secret_value() if section.api_key else None,
        price=Price(price.input_usd_per_mtok, price.output_usd_per_mtok, price.cached_input_usd_per_mtok)
        if price
        else None,
        description=section.description,
        parameters_b=section.parameters_b,
        context_window=section.context_window,
        capabilities=frozenset(section.capabilities),
        continuation=section.continuation,
        thinking_budget_field=section.thinking_budget_field,
        connect_timeout_s=section.timeouts.connect_s,
        first_byte_timeout_s=section.timeouts.first_byte_s,
        total_timeout_s=section.timeouts.total_s,
    )


def _check_names(models: Mapping[str, Model], virtual: Mapping[str, object]) -> None:
    for name in (*models, *virtual):
        if name == AUTO or any(ban in name for ban in _MODEL_NAME_BANS):
            raise ConfigError(f"{name!r} cannot be a model name: `auto` and the characters @ ( ) are taken")
    for name in virtual:
        if name in models:
            raise ConfigError(f"virtual_models.{name}: a model has the same name; rename one of them")


def _check_prices(config: Config, models: Mapping[str, Model]) -> None:
    if config.policy.budgets.in_dollars and all(model.price is None for model in models.values()):
        raise ConfigError(
            "policy.budgets is in dollars and no model has a price; give the models a `price`",
            param="policy.budgets",
        )


def _arms(
    config: Config, models: Mapping[str, Model], fleet_arms: Sequence[Arm]
) -> tuple[tuple[Arm, ...], dict[str, float]]:
    declared: dict[str, float] = {}
    arms: dict[str, Arm] = {}
    for position, entry in enumerate(config.arms):
        text = entry if isinstance(entry, str) else _arm_text(entry)
        arm = _parse_arm(text, models, f"arms[{position}]")
        arms[arm.id] = arm
        if isinstance(entry, ArmSection) and entry.quality is not None:
            declared[arm.id] = entry.quality
    if not config.arms:
        listed = [*fleet_arms]
        for name, section in config.models.items():
            listed += automatic_arms(models[name], section.thinking_budgets)
        arms = {arm.id: arm for arm in listed}
    return tuple(arms.values()), declared


def _parse_relay(student: str, teacher: str, effort: str, models: Mapping[str, Model], where: str) -> Arm:
    """A relay is as good as what both its models can do: continue a message, at the same effort."""
    members = [_parse_arm(f"{name}@{effort or 'default'}", models, where) for name in (student, teacher)]
    if student == teacher:
        raise ConfigError(f"{where}: a relay needs two different models, not {student!r} twice", param=where)
    if any(member.program != "direct" or member.effort.budget_tokens is not None for member in members):
        raise ConfigError(
            f"{where}: a relay has no thinking budget and no threshold; use off, on or default", param=where
        )
    if members[0].effort.level not in ("off", "on", "default"):
        raise ConfigError(f"{where}: a raw message carries no level; use off, on or default", param=where)
    for name in (student, teacher):
        if models[name].engine != "embedded" and models[name].continuation != "completions":
            raise ConfigError(
                f"{where}: a relay hands a raw message over, which model {name!r} cannot take; set "
                "`continuation: completions` for it where its server has /v1/completions",
                param=where,
            )
    return Arm("relay", (student, teacher), members[0].effort)


def _arm_text(entry: ArmSection) -> str:
    return entry.model if stage_names(entry.model) else f"{entry.model}@{entry.effort}"


def _parse_cascade(text: str, models: Mapping[str, Model], where: str) -> Arm:
    stages = tuple(_parse_arm(name, models, where) for name in stage_names(text))
    if len(stages) < 2 or len({stage.id for stage in stages}) != len(stages):
        raise ConfigError(f"{where}: {text!r} needs at least two different stages", param=where)
    if any(stage.stages for stage in stages):
        raise ConfigError(f"{where}: a cascade cannot be a stage of {text!r}", param=where)
    return Arm.cascade(stages)


def _parse_arm(text: str, models: Mapping[str, Model], where: str) -> Arm:
    if stage_names(text):
        return _parse_cascade(text, models, where)
    if (names := relay_names(text)) is not None:
        return _parse_relay(*names, models, where)
    name, _, effort_text = text.partition("@")
    model = models.get(name)
    if model is None:
        close = difflib.get_close_matches(name, models, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known models: {', '.join(models)}"
        raise ConfigError(f"{where}: unknown model {name!r} in {text!r}; {hint}", param=where)
    try:
        effort = Effort.parse(effort_text or "default")
    except ValueError as error:
        raise ConfigError(f"{where}: {error}", param=where) from None
    arm = arm_for(model, effort)
    if arm is None:
        raise ConfigError(f"{where}: {unsupported_effort(model, effort)}", param=where)
    return arm


def unsupported_effort(model: Model, effort: Effort) -> str:
    """Why this model cannot be given this effort, and what to do."""
    if effort.threshold is not None:
        return (
            f"effort {str(effort)!r} reads the log-probability of a token in the raw message, which model "
            f"{model.name!r} (family {model.family.name}) does not allow; set `continuation: completions` for it where its "
            "server has /v1/completions, and a `family` that decides for itself: qwen3, deepseek-r1"
        )
    if effort.budget_tokens is not None:
        return (
            f"model {model.name!r} has no way to enforce a thinking budget; set `continuation` or "
            f"`thinking_budget_field` for it, or use one of: {', '.join(model.family.levels)}"
        )
    return (
        f"effort {str(effort)!r} is not known for model {model.name!r} (family {model.family.name}); "
        f"use one of: {', '.join(dict.fromkeys((*model.family.levels, 'default')))}"
    )
