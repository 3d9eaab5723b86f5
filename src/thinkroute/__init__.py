"""thinkroute decides how much compute each LLM request deserves, and enforces that decision."""

__version__ = "0.1.0"
