"""What all commands share on the terminal: consoles, errors, dollars."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from thinkroute.errors import ThinkrouteError


def out() -> Console:
    """Standard output."""
    return Console()


def err() -> Console:
    """Standard error, for progress and errors, so that `--json` output stays clean."""
    return Console(stderr=True)


def print_error(error: ThinkrouteError) -> None:
    """One error: its code in red, then the message."""
    err().print(Text.assemble(("error", "bold red"), f" ({error.code}): {error.message}"), soft_wrap=True)


def dollars(cost_usd: float | None) -> str:
    """Dollars with two significant digits; unknown is said, never shown as zero."""
    if cost_usd is None:
        return "unknown"
    return "$0" if cost_usd == 0 else f"${cost_usd:.2g}"
