"""Fakes that programs, gateways and users' own code can be tested with: real objects, scripted replies.

`ScriptedEngine` is an `Engine` in the same process. `FakeUpstream` is a real OpenAI-compatible HTTP server on the
loopback interface that thinks, streams and fails on demand. Both answer with a `Reply` and count white-space tokens,
so that budgets and caps can be checked by hand. Nothing here patches anything.
"""

from __future__ import annotations

from thinkroute.testing.engine import ScriptedEngine
from thinkroute.testing.faults import (
    Break,
    ErrorEvent,
    Fault,
    Garbage,
    HangAfterChunks,
    HangBeforeHeaders,
    Reset,
    Status,
)
from thinkroute.testing.reply import Reply
from thinkroute.testing.upstream import FakeUpstream, ReceivedRequest
from thinkroute.testing.upstream_body import Quirks

__all__ = [
    "Break",
    "ErrorEvent",
    "FakeUpstream",
    "Fault",
    "Garbage",
    "HangAfterChunks",
    "HangBeforeHeaders",
    "Quirks",
    "ReceivedRequest",
    "Reply",
    "Reset",
    "ScriptedEngine",
    "Status",
]
