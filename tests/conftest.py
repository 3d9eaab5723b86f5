"""Settings of the whole test suite."""

from __future__ import annotations

from hypothesis import settings

# Shared machines pause: a slow example is not a wrong one. The default run asks the same examples every time, so that
# it judges the change; `make fuzz` goes looking for new ones.
settings.register_profile("thinkroute", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile("thinkroute")
