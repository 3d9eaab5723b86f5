"""What a configuration says of its arms, in the forms that routers without outcomes go by.

Owns the step from models as configured (name, description, size, price, declared quality) to `ArmFacts`, which the prior
for real text reads, and to `ArmInfo`, which outcome tables carry and the graph router takes arms in by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self, runtime_checkable

from thinkroute.catalog import Model
from thinkroute.config import Resolved
from thinkroute.config.resolve import automatic_arms
from thinkroute.errors import ConfigError
from thinkroute.routers.base import Router
from thinkroute.routers.realtext.facts import ArmFacts, size_b
from thinkroute.routers.table import ArmInfo
from thinkroute.types import Arm


@runtime_checkable
class TakesArms(Router, Protocol):
    """A router that an arm can join by what is known of it."""

    def with_arm(self, arm: str, info: ArmInfo) -> Self:
        """A router that knows one arm more.

        Raises:
            ConfigError: it was fitted in a way that lets none join.
        """
        ...


def arm_facts(resolved: Resolved) -> Mapping[str, ArmFacts]:
    """By arm id, of every arm that can be asked for; an arm of several models is judged by its last."""
    facts: dict[str, ArmFacts] = {}
    for arm in _arms(resolved):
        model = resolved.models[arm.models[-1]]
        facts[arm.id] = ArmFacts(
            effort=arm.effort,
            name=model.upstream_name,
            description=model.description,
            parameters_b=model.parameters_b,
            output_usd_per_mtok=None if model.price is None else model.price.output_usd_per_mtok,
            quality=resolved.declared_quality.get(arm.id),
        )
    return facts


def arm_info(resolved: Resolved) -> Mapping[str, ArmInfo]:
    """By arm id, of every arm of one model. A price or size says little of arms that are several."""
    single = [arm for arm in _arms(resolved) if len(arm.models) == 1 and not arm.stages]
    return {arm.id: _info(resolved.models[arm.models[0]]) for arm in single}


def introduced(router: Router, resolved: Resolved) -> Router:
    """The router, told of the arms it has no outcomes of, where it can take them in; else the router as it is.

    An arm of which nothing is known beyond its name stays with the router's declared prior.
    """
    if not isinstance(router, TakesArms):
        return router
    known = arm_info(resolved)
    for arm in resolved.every_arm:
        info = known.get(arm.id, ArmInfo())
        if arm.id in router.arms or info == ArmInfo():
            continue
        try:
            router = router.with_arm(arm.id, info)
        except ConfigError:
            return router
    return router


def _info(model: Model) -> ArmInfo:
    size = model.parameters_b or size_b(model.upstream_name) or size_b(model.description)
    return ArmInfo(model.description, size, model.price)


def _arms(resolved: Resolved) -> list[Arm]:
    """Every arm that can be asked for, each once."""
    automatic = [arm for model in resolved.models.values() for arm in automatic_arms(model, ())]
    return [*{arm.id: arm for arm in (*automatic, *resolved.every_arm)}.values()]
