"""Training: one small core that every method shares, and one module per paper in `methods`.

`trajectory` (tokens with owners), `rollout` (programs in batches), `samplers` (what generates), `learner` (what is
trained), `losses` and `advantages` (the four orthogonal choices), `policy` and `supervised` (the loops), `reference`,
`measure`, `checkpoint`, `metrics`. Torch is imported by `learner`, `batch`, `losses`, `policy`, `supervised`, `probe` and
`checkpoint` only; methods never see a tensor.
"""
