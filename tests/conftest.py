"""Settings of the whole test suite."""

from __future__ import annotations

from hypothesis import settings

# Shared machines pause: a slow example is not a wrong one.
settings.register_profile("thinkroute", deadline=None)
settings.load_profile("thinkroute")
