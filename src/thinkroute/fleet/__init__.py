"""The embedded fleet: small real language models, the tasks they are trained on, and the recipe that makes them.

`tasks`, `shipped` and `tokenizer` never import torch; `model`, `train` and `evaluate` do and belong to the
`[train]` extra.
"""
