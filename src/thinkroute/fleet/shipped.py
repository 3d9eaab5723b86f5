"""The members that ship with the package: where they lie and what the gateway must know of them. Torch-free.

Prices are notional: nobody bills for the fleet. They exist so that routing has something to save, and keep the ratio
between a small and a large hosted model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

from thinkroute.catalog import Model, family_named
from thinkroute.fleet.tasks import FAMILIES, FamilyName
from thinkroute.types import Arm, Effort, Price

CONTEXT_WINDOW = 256
BUDGETS_TOKENS = (16, 32)
"""Thinking budgets that a generalist offers as arms of their own."""


@dataclass(frozen=True, slots=True)
class Member:
    """One shipped member."""

    price: Price
    domain: tuple[FamilyName, ...]
    """The task families it was taught to solve."""
    switches: bool = True
    """Whether it obeys soft switches. One that does not always thinks, unless an empty block is prefilled."""
    efforts: tuple[Effort, ...] = (Effort("off"), Effort("on"))
    """Efforts offered as arms of the default gateway."""


_GENERALIST = (Effort("off"), *(Effort("on", budget) for budget in BUDGETS_TOKENS), Effort("on"))
_COMMON: tuple[FamilyName, ...] = ("arithmetic", "story", "relations", "composition")

MEMBERS: Mapping[str, Member] = MappingProxyType(
    {
        "expert-people": Member(Price(0.5, 2.0), ("relations",)),
        "student": Member(Price(1.0, 4.0), ("relations",), efforts=_GENERALIST),
        "expert-arithmetic": Member(Price(2.0, 8.0), ("arithmetic", "story")),
        "expert-operators": Member(Price(3.0, 12.0), ("operators",)),
        "base": Member(Price(6.0, 24.0), _COMMON, switches=False, efforts=()),
        "teacher": Member(Price(8.0, 32.0), tuple(FAMILIES), efforts=_GENERALIST),
    }
)
"""Cheapest first. `base` is there to be trained: it offers no arm, and answers when it is asked for by name."""

_DIAL = tuple(Effort(threshold=threshold) for threshold in (0.1, 0.3, 0.9))

TRAINED: Mapping[str, Member] = MappingProxyType(
    {
        "student-relay": replace(MEMBERS["student"], efforts=()),
        "base-fusion": replace(MEMBERS["base"], switches=True, efforts=(Effort("off"), Effort("on"))),
        "base-adacot": replace(MEMBERS["base"], efforts=(Effort(threshold=0.5),)),
        "base-adaptthink": replace(MEMBERS["base"], efforts=_DIAL),
    }
)
"""What `thinkroute train` made of members: `<member>-<method>`, at the member's price. `student-relay` is half of `relay_arm`: alone it is worse than
the student, so it offers no arm of its own."""

_ALL = {**MEMBERS, **TRAINED}


def names() -> tuple[str, ...]:
    """The members that `thinkroute fleet build` makes, cheapest first."""
    return tuple(MEMBERS)


def all_names() -> tuple[str, ...]:
    """The members, and what was trained from them."""
    return tuple(_ALL)


def member(name: str) -> Member:
    """One member, or what was trained from one.

    Raises:
        KeyError: nothing of that name is shipped.
    """
    return _ALL[name]


def directory(name: str) -> Path:
    """The folder of one member, or of what was trained from one, in Hugging Face's layout.

    Raises:
        KeyError: nothing of that name is shipped.
    """
    if name in TRAINED:
        return trained_directory() / name
    if name not in MEMBERS:
        raise KeyError(f"the fleet ships no member {name!r}; it has {', '.join(all_names())}")
    return weights_directory() / name


def weights_directory() -> Path:
    """The folder that holds one folder per member."""
    return Path(str(files("thinkroute.fleet"))) / "weights"


def trained_directory() -> Path:
    """The folder that holds one folder per model trained from a member."""
    return Path(str(files("thinkroute.fleet"))) / "trained"


def router_directory() -> Path:
    """The folder of the router fitted on the members' own outcomes."""
    return Path(str(files("thinkroute.fleet"))) / "router"


def cascade_directory() -> Path:
    """The folder of the cascade fitted on the members' own answers."""
    return Path(str(files("thinkroute.fleet"))) / "cascade"


def models() -> tuple[Model, ...]:
    """The members as the gateway serves them."""
    hybrid, thinking = family_named("thinkroute-fleet"), family_named("thinkroute-fleet-thinking")
    return tuple(
        Model(
            name=name,
            upstream_name=name,
            engine="embedded",
            family=hybrid if member.switches else thinking,
            price=member.price,
            context_window=CONTEXT_WINDOW,
            capabilities=frozenset({"logprobs"}),
        )
        for name, member in _ALL.items()
    )


def arms() -> tuple[Arm, ...]:
    """Every member at the efforts it offers, and the relay: with `cascade_arm`, the arms of the default gateway."""
    single = (
        Arm(_program(effort), (name,), effort) for name, member in _ALL.items() for effort in member.efforts
    )
    return (*single, relay_arm())


def _program(effort: Effort) -> str:
    if effort.threshold is not None:
        return "adaptive"
    return "budgeted" if effort.budget_tokens else "direct"


def relay_arm() -> Arm:
    """The student that learned to call, and the teacher it calls."""
    return Arm("relay", ("student-relay", "teacher"), Effort("on"))


def cascade_arm() -> Arm:
    """The arm that runs the shipped cascade, over the stages it was fitted on."""
    from thinkroute.routers.cascade.saving import read_cascade_card

    known = {arm.id: arm for arm in arms()}
    return Arm.cascade([known[stage] for stage in read_cascade_card(cascade_directory()).stages])
