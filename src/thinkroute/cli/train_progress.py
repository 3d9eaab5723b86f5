"""How a training shows where it is: a bar on a terminal, lines in a log. Standard error either way."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

SHORTEST_PAUSE_S = 30.0
"""Least time between two lines of a stage, its last one aside."""
LONGEST_PAUSE_S = 600.0
"""A stage of many hours says something this often, whatever its number of steps."""
TELLING = (
    "right",
    "share",
    "calls",
    "thinks/label-think",
    "thinks/label-answer",
    "p_direct by level",
    "right/direct by level",
    "reward/right",
    "tokens",
    "reward",
    "loss",
    "gradient_norm",
)
"""What a line shows of a step, best first: the first `_SHOWN` of those it has, else of all names."""
_SHOWN = 3
_LEVEL = re.compile(r"(.+)/level-(\d+)")


class TrainingProgress(Protocol):
    """Shows the stages of one run, or of several, while it is entered."""

    def __enter__(self) -> Self:
        """Begin to show."""
        ...

    def __exit__(self, *failure: object) -> None:
        """Show no more."""
        ...

    def stage(self, name: str, steps: int) -> None:
        """A stage begins; 0 steps when their number is not known."""
        ...

    def step(self, done: int, values: Mapping[str, float]) -> None:
        """So many steps of it are done, the last with these metrics."""
        ...


def training_progress() -> TrainingProgress:
    """Bars where standard error is a terminal, lines everywhere else."""
    from thinkroute.cli.console import err

    console = err()
    return Bars(console) if console.is_terminal else Lines(console)


class Bars:
    """A bar per stage, and the latest metrics under it."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._bars, self._task = self._new_bars()
        self._values: dict[str, float] = {}
        self._live = Live(console=console, transient=True, refresh_per_second=4)

    @staticmethod
    def _new_bars() -> tuple[Progress, TaskID]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        )
        return bars, bars.add_task("starting", total=None)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._live.stop()

    def stage(self, name: str, steps: int) -> None:
        """Begin a new bar."""
        self._bars, self._task = self._new_bars()
        self._bars.update(self._task, description=name, total=steps or None)
        self._values = {}
        self._show()

    def step(self, done: int, values: Mapping[str, float]) -> None:
        """Move the bar; means of the recent steps are shown."""
        self._bars.update(self._task, completed=done)
        for name, value in values.items():
            self._values[name] = 0.8 * self._values.get(name, value) + 0.2 * value
        self._show()

    def _show(self) -> None:
        from rich.console import Group
        from rich.table import Table

        grid = Table.grid(padding=(0, 2))
        names = sorted(self._values)
        for start in range(0, len(names), 4):
            grid.add_row(*(f"{name} {self._values[name]:.3f}" for name in names[start : start + 4]))
        self._live.update(Group(self._bars, grid))


class Lines:
    """One line when a stage begins, and one for every tenth of it, with the means of the steps since the line before.

    A stage that is done in less than ten times `SHORTEST_PAUSE_S` has fewer lines; its last step always has one.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._name, self._steps, self._begun_s = "", 0, 0.0
        self._said_at_s, self._said_done = 0.0, 0
        self._since: dict[str, list[float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        """Nothing is held back."""

    def stage(self, name: str, steps: int) -> None:
        """Say that it begins."""
        self._name, self._steps, self._begun_s = name, steps, self._clock()
        self._said(0)
        self._print(f"{name}: {steps} to do" if steps else name)

    def step(self, done: int, values: Mapping[str, float]) -> None:
        """Say where it is, when that is due."""
        for name, value in values.items():
            self._since.setdefault(name, []).append(value)
        if not self._is_due(done):
            return
        of = f" of {self._steps}" if self._steps else ""
        shown = telling({name: fmean(seen) for name, seen in self._since.items()})
        self._print(
            ", ".join([f"{self._name}: {done}{of}", *shown, f"{self._clock() - self._begun_s:.0f} s"])
        )
        self._said(done)

    def _is_due(self, done: int) -> bool:
        pause_s = self._clock() - self._said_at_s
        tenth = (done - self._said_done) * 10 >= self._steps
        return done == self._steps or (tenth and pause_s >= SHORTEST_PAUSE_S) or pause_s >= LONGEST_PAUSE_S

    def _said(self, done: int) -> None:
        self._said_at_s, self._said_done = self._clock(), done
        self._since = {}

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, markup=False, highlight=False)


def telling(values: Mapping[str, float]) -> list[str]:
    """The few metrics worth a place in a line; one that exists by level counts as one."""
    shown = {name: f"{name} {value:.3g}" for name, value in values.items() if not _LEVEL.fullmatch(name)}
    levels = [found for name in values if (found := _LEVEL.fullmatch(name))]
    for found in sorted(levels, key=lambda found: int(found[2])):
        name = f"{found[1]} by level"
        shown[name] = f"{shown.get(name, name)} {found[2]}={values[found[0]]:.3g}"
    chosen = [name for name in TELLING if name in shown] or sorted(shown)
    return [shown[name] for name in chosen[:_SHOWN]]
