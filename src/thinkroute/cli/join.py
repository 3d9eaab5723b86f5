"""`thinkroute fit --join`: arms that were added yesterday enter a fitted router, nothing is trained again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thinkroute.routers import OutcomeTable, RouterCard


def join_arms(folder: Path, table: OutcomeTable, output: Path) -> tuple[RouterCard, list[str]]:
    """Load a router, let it take in the table's arms that it does not know, and save it.

    Args:
        folder: Of a fitted `graph` router.
        table: Has a column, and where known a description, size and price, for every new arm.
        output: Where the router that knows them is written.

    Returns:
        The new card, and the arms that joined.

    Raises:
        ConfigError: the router cannot take in arms, or knows all of them.
    """
    from thinkroute.errors import ConfigError
    from thinkroute.routers import load_router, read_card, save_router
    from thinkroute.routers.graph.router import GraphRouter
    from thinkroute.routers.table import ArmInfo

    router = load_router(folder)
    if not isinstance(router, GraphRouter):
        raise ConfigError(
            f"{folder}: router {router.name} cannot take in an arm: fit it again on all outcomes, or fit --router graph"
        )
    new = [arm for arm in table.arms if arm not in router.arms]
    if not new:
        raise ConfigError(f"{folder}: knows {', '.join(table.arms)} already: fit again to learn more of them")
    for arm in new:
        router = router.with_arm(arm, table.arm_info.get(arm, ArmInfo()), table)
    # Numbers measured before an arm joined say nothing of the router that knows it.
    notes = {**read_card(folder).notes, "joined": ", ".join(new)}
    return save_router(router, output, notes=notes), new
