"""The load: blocks of requests, one after the other, against the upstream directly, through a bare proxy
and through the gateway.

Run as a process of its own (`python -m harness.client`): reads a `Plan` as JSON from standard input, writes a list of
`BlockResult`. The load is closed: each connection sends its next request when the last answer is complete. The client
is a bare asyncio protocol, so that little of what is measured is its own.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from typing import Literal, cast

import msgspec
import orjson
import uvloop

from harness.processes import cpu_s
from harness.upstream import FIRST_WORD

Target = Literal["direct", "bare", "gateway"]

_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_SETTLE_S = 0.15
"""Wait before the gateway's CPU clock is read: its log writes in batches of up to 50 ms, and that is its work too."""
_ANSWER_LIMIT_S = 30.0


class Workload(msgspec.Struct, frozen=True):
    """One kind of request."""

    name: str
    stream: bool = False
    pace_ms: int = 0
    """Milliseconds between the upstream's events; 0 sends them as fast as they go."""
    context_bytes: int = 0
    """Earlier conversation sent along, beside the question."""


class Block(msgspec.Struct, frozen=True):
    """Requests of one kind to one target."""

    workload: Workload
    target: Target
    concurrency: int
    requests: int
    round: int
    """Which repetition; below 0 is warming up."""


class Plan(msgspec.Struct, frozen=True):
    """Everything the client does."""

    ports: dict[Target, int]
    pids: dict[Target, int]
    """Whose CPU time to read; the upstream's is nobody's concern."""
    questions: list[str]
    blocks: list[Block]


class BlockResult(msgspec.Struct, frozen=True):
    """What one block measured."""

    block: Block
    elapsed_s: float
    latency_s: list[float]
    ttft_s: list[float]
    cpu_s: float
    """User and system time of the target's process over the block, its threads included; 0 for the upstream."""


class _Connection(asyncio.Protocol):
    """Sends one request at a time and times its answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are of no common class
        self._answered: asyncio.Future[tuple[float, float]] | None = None

    async def ask(self, request: bytes) -> tuple[float, float]:
        """(seconds to the first text, seconds to the end)."""
        self._buffer = bytearray()
        self._first_s = 0.0
        self._end = -1
        self._answered = asyncio.get_running_loop().create_future()
        self._began = time.perf_counter()
        self._transport.write(request)
        return await self._answered

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter() - self._began
        self._buffer += data
        if not self._first_s and FIRST_WORD in self._buffer:
            self._first_s = now
        if self._end < 0:
            self._read_head()
        # An end of 0 stands for a chunked body, whose end is its terminator.
        complete = (
            self._buffer.endswith(b"\r\n0\r\n\r\n") if self._end == 0 else len(self._buffer) == self._end
        )
        if complete and self._answered is not None:
            self._answered.set_result((self._first_s, now))
            self._answered = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection was lost: {exc}")

    def close(self) -> None:
        self._transport.close()

    def _read_head(self) -> None:
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        if not self._buffer.startswith(b"HTTP/1.1 200 "):
            self._fail(f"not a good answer: {bytes(self._buffer[:500])!r}")
            return
        length = _LENGTH.search(self._buffer, 0, head_end)
        self._end = head_end + 4 + int(length[1]) if length else 0

    def _fail(self, why: str) -> None:
        if self._answered is not None:
            self._answered.set_exception(RuntimeError(why))
            self._answered = None


def request_bytes(workload: Workload, question: str, port: int) -> bytes:
    """A chat request as it goes over the wire; the same for all targets but for the port."""
    messages = [{"role": "user", "content": question}]
    if workload.context_bytes:
        context = ("All work and no play makes a dull benchmark. " * (workload.context_bytes // 45 + 1))[
            : workload.context_bytes
        ]
        messages.insert(0, {"role": "system", "content": context})
    body = {"model": "auto", "messages": messages, "temperature": 0.7, "max_tokens": 512}
    if workload.stream:
        body["stream"] = True
        body["pace_ms"] = workload.pace_ms
    payload = orjson.dumps(body)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nuser-agent: benchmark\r\naccept: */*\r\n"
        f"content-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload


async def run_block(plan: Plan, block: Block, requests: Iterator[bytes]) -> BlockResult:
    """Send the block's requests over `concurrency` connections."""
    loop = asyncio.get_running_loop()
    port = plan.ports[block.target]
    connections = [
        (await loop.create_connection(_Connection, "127.0.0.1", port))[1] for _ in range(block.concurrency)
    ]
    left = iter(range(block.requests))
    timings: list[tuple[float, float]] = []

    async def drive(connection: _Connection) -> None:
        for _ in left:
            async with asyncio.timeout(_ANSWER_LIMIT_S):
                timings.append(await connection.ask(next(requests)))

    pid = plan.pids.get(block.target)
    cpu_before_s = cpu_s(pid) if pid else 0.0
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(drive(connection))
    elapsed_s = time.perf_counter() - began
    if pid:
        await asyncio.sleep(_SETTLE_S)
    cpu_after_s = cpu_s(pid) if pid else 0.0
    for connection in connections:
        connection.close()
    ends, firsts = [end for _, end in timings], [first for first, _ in timings]
    return BlockResult(block, elapsed_s, ends, firsts, cpu_after_s - cpu_before_s)


async def _run(plan: Plan) -> list[BlockResult]:
    results: list[BlockResult] = []
    requests: dict[tuple[str, Target], Iterator[bytes]] = {}
    for block in plan.blocks:
        key = block.workload.name, block.target
        if key not in requests:
            port = plan.ports[block.target]
            requests[key] = cycle([request_bytes(block.workload, text, port) for text in plan.questions])
        results.append(await run_block(plan, block, requests[key]))
    return results


def main() -> None:
    """Do what standard input says."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    # A writer of its own: under PYTHONUNBUFFERED the standard one may write a part and return.
    with open(sys.stdout.fileno(), "wb", closefd=False) as out:
        out.write(msgspec.json.encode(uvloop.run(_run(plan))))


if __name__ == "__main__":
    main()
