"""Token-level binary probes on hidden states: the third and last training kernel.

A probe reads features that somebody extracted (a small model's hidden state where it is about to write a token, say)
and predicts a label. What features and labels mean is the method's business.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thinkroute.training.losses import probe_loss


class Probe(nn.Module):
    """h → 2h → h → 1, the shape CITER's router has (arXiv 2502.01976), without batch normalisation."""

    def __init__(self, width: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
        )

    def forward(self, features_NF: Tensor) -> Tensor:
        """One logit per row."""
        return self.layers(features_NF).squeeze(-1)


def fit_probe(
    features_NF: Tensor,
    labels_N: Tensor,
    *,
    epochs: int = 20,
    learning_rate: float = 1e-3,
    rows_per_step: int = 256,
    seed: int = 0,
) -> Probe:
    """Fit a probe by binary cross-entropy, positives weighted by how much rarer they are."""
    torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
    probe = Probe(features_NF.shape[1])
    optimizer = torch.optim.AdamW(probe.parameters(), lr=learning_rate, weight_decay=5e-4)
    positives = float(labels_N.sum())
    weight = (len(labels_N) - positives) / max(positives, 1.0)
    generator = torch.Generator().manual_seed(seed)
    probe.train()
    for _ in range(epochs):
        order = torch.randperm(len(labels_N), generator=generator)
        for start in range(0, len(order), rows_per_step):
            chosen = order[start : start + rows_per_step]
            loss = probe_loss(probe(features_NF[chosen]), labels_N[chosen], weight)
            optimizer.zero_grad()
            loss.backward()  # pyright: ignore[reportUnknownMemberType]
            optimizer.step()  # pyright: ignore[reportUnknownMemberType]
    return probe.eval()
