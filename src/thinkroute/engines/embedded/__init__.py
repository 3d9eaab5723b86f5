"""The embedded engine: small Qwen3 models on the CPU through ONNX Runtime, without torch.

`EmbeddedEngine` implements `thinkroute.programs.protocol.Engine`. One module per concern: `prompt` (format),
`vocabulary` (text ↔ ids), `decoder` (one step of one model), `lane` (continuous batching of one model), `prefixes` (what
prompts have in common), `sampling`, `scheduler` (the worker), `jobs` (between worker and event loops), `transcript`
(channels, stop strings), `options` (what is honoured and what is refused).
"""

from __future__ import annotations

from thinkroute.engines.embedded.engine import EmbeddedEngine, ScopeCheck
from thinkroute.engines.embedded.options import KNOWN_OPTIONS

__all__ = ["KNOWN_OPTIONS", "EmbeddedEngine", "ScopeCheck"]
