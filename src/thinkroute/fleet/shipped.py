"""The members that ship with the package: where they lie and what the gateway must know of them. Torch-free.

Prices are notional: nobody bills for the fleet. They exist so that routing has something to save, and keep the ratio
between a small and a large hosted model.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from thinkroute.catalog import Model, family_named
from thinkroute.types import Arm, Effort, Price

CONTEXT_WINDOW = 256
BUDGETS_TOKENS = (16, 32)
"""Thinking budgets offered as arms of their own."""

_PRICES = {
    "student": Price(input_usd_per_mtok=1.0, output_usd_per_mtok=4.0),
    "teacher": Price(input_usd_per_mtok=8.0, output_usd_per_mtok=32.0),
}


def names() -> tuple[str, ...]:
    """The members, cheapest first."""
    return tuple(_PRICES)


def directory(name: str) -> Path:
    """The folder of one member, in Hugging Face's layout.

    Raises:
        KeyError: no member of that name is shipped.
    """
    if name not in _PRICES:
        raise KeyError(f"the fleet ships no member {name!r}; it has {', '.join(_PRICES)}")
    return Path(str(files("thinkroute.fleet"))) / "weights" / name


def router_directory() -> Path:
    """The folder of the router fitted on the members' own outcomes."""
    return Path(str(files("thinkroute.fleet"))) / "router"


def models() -> tuple[Model, ...]:
    """The members as the gateway serves them."""
    family = family_named("thinkroute-fleet")
    return tuple(
        Model(
            name=name,
            upstream_name=name,
            engine="embedded",
            family=family,
            price=price,
            context_window=CONTEXT_WINDOW,
            capabilities=frozenset({"logprobs"}),
        )
        for name, price in _PRICES.items()
    )


def arms() -> tuple[Arm, ...]:
    """Every member without thinking, with each budget, and with unlimited thinking."""
    offered: list[Arm] = []
    for name in _PRICES:
        offered.append(Arm("direct", (name,), Effort("off")))
        offered += [Arm("budgeted", (name,), Effort("on", budget)) for budget in BUDGETS_TOKENS]
        offered.append(Arm("direct", (name,), Effort("on")))
    return tuple(offered)
