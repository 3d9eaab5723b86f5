"""Changing what users import is a visible diff."""

from __future__ import annotations

from pathlib import Path

from tests.public_api import render


def test_the_public_api_is_the_committed_one() -> None:
    """After a deliberate change, `make api` rewrites the file."""
    assert render() == (Path(__file__).parent / "public_api.txt").read_text(encoding="utf-8")
