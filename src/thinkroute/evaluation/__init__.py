"""Outcome tables, data sets, graders, metrics by definition, frontiers and reports. Never imports torch."""
