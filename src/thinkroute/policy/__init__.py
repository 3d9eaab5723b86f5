"""Choosing under prices. `choose` is pure; controllers hold the little state that moves the prices."""

from thinkroute.policy.budget import SpendBudget
from thinkroute.policy.choose import POLICY_VERSION, Constraints, Exploration, choose, expected_cost_usd

__all__ = ["POLICY_VERSION", "Constraints", "Exploration", "SpendBudget", "choose", "expected_cost_usd"]
