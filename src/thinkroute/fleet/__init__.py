"""The embedded fleet: small real language models, the tasks they are trained on, and the recipe that makes them.

`tasks`, `shipped`, `tokenizer` and `evaluate` never import torch; `model`, `train`, `export` and `build` do and belong
to the `[train]` extra.
"""
