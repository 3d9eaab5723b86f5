"""The router for real text before there are outcomes: a prior for arms nobody has measured, and says so.

`facts` reads what is known of an arm, `law` turns that into an ability, `router` joins it with the signals of a text,
`fitting` learns the law's numbers from public outcomes, `shipped` holds them. `thinkroute fit` replaces all of it.
"""

from __future__ import annotations

from thinkroute.routers.realtext.facts import ArmFacts
from thinkroute.routers.realtext.law import PriorLaw
from thinkroute.routers.realtext.router import RealTextPrior, shipped_law

__all__ = ["ArmFacts", "PriorLaw", "RealTextPrior", "shipped_law"]
