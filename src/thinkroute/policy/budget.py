"""The spend controller: a daily budget in dollars that really stops.

Reserve the worst case before the call, settle after it: as long as no call costs more than it reserved, the sum of
settled and reserved dollars never passes the budget. As the day's spend runs ahead of the clock the shadow price `mu_spend` rises, so that
effort shrinks first, then the model, and only an empty budget refuses.
"""

from __future__ import annotations

from collections.abc import Callable

DAY_S = 86_400.0
_MU_AT_EMPTY = 4.0


class SpendBudget:
    """Dollars per UTC day. `limit_usd` None means no limit, and then nothing is ever refused or priced up."""

    def __init__(
        self, limit_usd: float | None, clock: Callable[[], float], spent_today_usd: float = 0.0
    ) -> None:
        self._limit_usd = limit_usd
        self._clock = clock
        self._day = int(clock() // DAY_S)
        self._settled_usd = spent_today_usd
        self._reserved_usd = 0.0

    @property
    def left_usd(self) -> float | None:
        """Dollars neither spent nor reserved today; None without a limit."""
        self._roll()
        if self._limit_usd is None:
            return None
        return max(0.0, self._limit_usd - self._settled_usd - self._reserved_usd)

    @property
    def mu_spend(self) -> float:
        """Shadow price in [0, 4]: 0 while spend is behind the clock, rising with the overspent share of what is left.

        With x = spent share of the budget and t = passed share of the day, mu = 4 · max(0, x − t) / (1 − t).
        """
        self._roll()
        if self._limit_usd is None:
            return 0.0
        spent = min(1.0, (self._settled_usd + self._reserved_usd) / self._limit_usd)
        passed = (self._clock() % DAY_S) / DAY_S
        return _MU_AT_EMPTY * max(0.0, spent - passed) / (1.0 - passed)

    def reserve(self, cost_usd: float) -> float:
        """Set dollars aside for a call about to start; give the result to `settle`."""
        self._roll()
        self._reserved_usd += cost_usd
        return cost_usd

    def settle(self, reserved_usd: float, cost_usd: float | None) -> float:
        """Replace a reservation by what was really spent, or by itself where that is unknown; the dollars booked."""
        self._roll()
        self._reserved_usd = max(0.0, self._reserved_usd - reserved_usd)
        booked_usd = reserved_usd if cost_usd is None else cost_usd
        self._settled_usd += booked_usd
        return booked_usd

    def _roll(self) -> None:
        """Start a new day at midnight UTC; calls under way stay reserved."""
        day = int(self._clock() // DAY_S)
        if day != self._day:
            self._day = day
            self._settled_usd = 0.0
