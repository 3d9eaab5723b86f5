"""What all commands share on the terminal: consoles, errors, dollars."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from thinkroute.errors import ThinkrouteError


def out() -> Console:
    """Standard output."""
    return Console()


def err() -> Console:
    """Standard error, for progress and errors, so that `--json` output stays clean."""
    return Console(stderr=True)


def print_whole(title: str, rows: Sequence[Sequence[str]]) -> None:
    """A table of results, the first row its header, a name in `**` in bold.

    No cell is ever cut off: in a narrower terminal lines run over, and files get them whole.
    """
    grid = Table(title=title, box=box.SIMPLE, padding=0, show_edge=False)
    for column, name in enumerate(rows[0]):
        grid.add_column(name, justify="right" if column else "left", no_wrap=True)
    for name, *cells in rows[1:]:
        grid.add_row(name.strip("*"), *cells, style="bold" if name.startswith("**") else None)
    console = out()
    needed = console.measure(grid, options=console.options.update(max_width=1_000)).maximum
    Console(width=max(console.width, needed)).print(grid)


def print_error(error: ThinkrouteError) -> None:
    """One error: its code in red, then the message."""
    err().print(Text.assemble(("error", "bold red"), f" ({error.code}): {error.message}"), soft_wrap=True)


def dollars(cost_usd: float | None) -> str:
    """Dollars with two significant digits; unknown is said, never shown as zero."""
    if cost_usd is None:
        return "unknown"
    return "$0" if cost_usd == 0 else f"${cost_usd:.2g}"
