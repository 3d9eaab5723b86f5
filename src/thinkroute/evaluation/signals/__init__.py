"""Making and measuring what `thinkroute.signals` ships: the static table and the heads.

`corpus` reads what they learn from, `table` and `heads` make and measure one artefact each. Serving never comes here.
"""
