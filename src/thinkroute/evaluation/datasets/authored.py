"""Prompts written for this project, with their domains: how people ask, where public sets hold examinations."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Final

from thinkroute.errors import DataError
from thinkroute.signals.domains import DOMAINS, Domain

_HEADING: Final = "## "
_PROMPT: Final = "- "


def authored_prompts() -> list[tuple[str, tuple[Domain, ...]]]:
    """Every prompt and its domains."""
    return list(
        read_prompts((files("thinkroute.evaluation.datasets") / "authored.md").read_text(encoding="utf-8"))
    )


def read_prompts(text: str) -> Iterator[tuple[str, tuple[Domain, ...]]]:
    """Prompts from Markdown: `## domain+domain` and a list item per prompt.

    Raises:
        DataError: a domain nobody knows.
    """
    domains: tuple[Domain, ...] = ()
    for line in text.splitlines():
        if line.startswith(_HEADING):
            domains = _domains(line.removeprefix(_HEADING))
        elif line.startswith(_PROMPT):
            yield line.removeprefix(_PROMPT), domains


def _domains(heading: str) -> tuple[Domain, ...]:
    names = heading.split("+")
    unknown = [name for name in names if name not in DOMAINS]
    if unknown:
        raise DataError(f"authored prompts: unknown domain {unknown[0]!r}: use {', '.join(DOMAINS)}")
    return tuple(domain for domain in DOMAINS if domain in names)
