"""What the gateway costs: added latency, CPU time per request, memory and start-up, against the upstream alone.

Starts a trivial upstream, the gateway as users start it with everything on (fitted router, six arms, budget, decision
log with texts, metrics) and a load client, each a process of its own on loopback, and measures the same requests
directly, through a bare proxy on the same stack, and through the gateway, in alternating blocks. Writes `docs/results/overhead.json`; Linux only.

    python benchmarks/overhead.py            the measurement, about two minutes
    python benchmarks/overhead.py --check    also fail when a number is over benchmarks/thresholds.json
    python benchmarks/overhead.py --quick    the whole path with tiny counts; its numbers mean nothing
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import msgspec
from harness import machine, processes, world
from harness.client import Block, BlockResult, Plan, Target, Workload
from harness.result import Result, Service, Spread, compare, tables, violations
from rich.console import Console

from thinkroute.store.sqlite import SqliteStore

BENCHMARKS = Path(__file__).resolve().parent
_LOAD_LIMIT_S = 900.0


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    rounds: int
    requests: int
    """Of a JSON block at concurrency 1; the others are multiples."""
    starts: int
    outcomes: int
    concurrency: int = 16
    warming_rounds: int = 1


FULL = Scale(rounds=7, requests=300, starts=5, outcomes=2000)
QUICK = Scale(rounds=1, requests=16, starts=1, outcomes=80, warming_rounds=0)


def plan_blocks(scale: Scale) -> Iterator[Block]:
    """All blocks in order. Which target goes first alternates, so that neither always meets the warmer machine."""
    n = scale.requests
    kinds = [
        (Workload("json"), 1, n),
        (Workload("json-16kB", context_bytes=16_000), 1, n // 2),
        (Workload("sse-20", stream=True), 1, n // 2),
        (Workload("sse-20-paced", stream=True, pace_ms=2), 1, n // 10),
        (Workload("json"), scale.concurrency, n * 4),
        (Workload("sse-20", stream=True), scale.concurrency, n * 2),
        (Workload("sse-20-paced", stream=True, pace_ms=2), scale.concurrency, n),
    ]
    targets: tuple[Target, ...] = ("direct", "bare", "gateway")
    for round_number in range(-scale.warming_rounds, scale.rounds):
        for workload, concurrency, requests in kinds:
            for target in targets if round_number % 2 else reversed(targets):
                yield Block(workload, target, concurrency, max(requests, concurrency), round_number)


def run_load(ports: dict[Target, int], pids: dict[Target, int], scale: Scale, seed: int) -> list[BlockResult]:
    """All blocks, by a client in a process of its own."""
    questions, _ = world.texts(500, seed + 1000)
    plan = Plan(ports, pids, questions, list(plan_blocks(scale)))
    done = subprocess.run(
        [sys.executable, "-m", "harness.client"],
        cwd=BENCHMARKS,
        input=msgspec.json.encode(plan),
        stdout=subprocess.PIPE,
        timeout=_LOAD_LIMIT_S,
        check=True,
    )
    return msgspec.json.decode(done.stdout, type=list[BlockResult])


def measure_starts(arguments: Sequence[str], state: Path, times: int) -> tuple[list[float], list[float]]:
    """(seconds to ready, resident MB at ready) of several starts, after one that fills the byte-code caches."""
    ready: list[float] = []
    resident: list[float] = []
    for _ in range(times + 1):
        with processes.gateway(arguments, processes.free_port(), state) as (pid, ready_s):
            ready.append(ready_s)
            resident.append(processes.rss_mb(pid))
    return ready[1:], resident[1:]


def measure_embedded(scale: Scale, state: Path) -> Service:
    """`thinkroute serve` on the fleet: nothing configured, a few of its own questions answered."""
    from thinkroute.fleet.shipped import arms
    from thinkroute.fleet.tasks import FAMILIES, LEVELS, generate

    ready, resident = measure_starts([], state, scale.starts)
    port = processes.free_port()
    with processes.gateway([], port, state) as (pid, _):
        rng = random.Random(0)  # noqa: S311 - questions, not secrets
        for family, level in product(FAMILIES, LEVELS):
            question = generate(rng, family, level, "eval").question
            body = {"model": "auto", "messages": [{"role": "user", "content": question}]}
            processes.post(port, "/v1/chat/completions", json.dumps(body).encode())
        router = _router_version(processes.get(port, "/metrics"))
        after = processes.rss_mb(pid)
    return Service(
        "thinkroute serve", Spread.of(ready), Spread.of(resident), round(after, 1), router, len(arms())
    )


def measure(scale: Scale, seed: int, command: str, *, embedded: bool) -> Result:
    """Everything, in a folder that is removed afterwards."""
    began = time.perf_counter()
    started_at, load_before = datetime.now(UTC).isoformat(timespec="seconds"), machine.load_average()
    with ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="thinkroute-overhead-")))
        world.fitted_router(scale.outcomes, seed, state / "router")
        upstream_port = stack.enter_context(processes.upstream(state))
        world.write_config(upstream_port, state / "router", state / "starts.db", state / "starts.yaml")
        world.write_config(upstream_port, state / "router", state / "load.db", state / "load.yaml")
        ready, resident = measure_starts(["--config", str(state / "starts.yaml")], state, scale.starts)
        bare_pid, bare_port = stack.enter_context(processes.bare_proxy(upstream_port, state))
        port = processes.free_port()
        with processes.gateway(["--config", str(state / "load.yaml")], port, state) as (pid, _):
            ports: dict[Target, int] = {"direct": upstream_port, "bare": bare_port, "gateway": port}
            results = run_load(ports, {"bare": bare_pid, "gateway": pid}, scale, seed)
            after, metrics = processes.rss_mb(pid), processes.get(port, "/metrics")
        records, chosen = _logged(state / "load.db")
        _check_records(records, results)
        return Result(
            commit=machine.commit(),
            command=command,
            seed=seed,
            started_at=started_at,
            machine=machine.machine(),
            load_before=load_before,
            decision_mean_us=_decision_mean_us(metrics),
            records=records,
            arms_chosen=chosen,
            comparisons=compare(results),
            gateway=Service(
                "thinkroute serve --config …", Spread.of(ready), Spread.of(resident), round(after, 1),
                _router_version(metrics), len(world.ARMS),
            ),
            embedded=measure_embedded(scale, state) if embedded else None,
            load_after=machine.load_average(),
            duration_s=round(time.perf_counter() - began, 1),
        )  # fmt: skip


def _logged(path: Path) -> tuple[int, dict[str, int]]:
    """Records in the decision log, and how often each arm was chosen."""
    store = SqliteStore(path)
    try:
        chosen = [record.arm_id or "none" for record in store.iter_records()]
    finally:
        store.close()
    return len(chosen), {arm: chosen.count(arm) for arm in sorted(set(chosen))}


def _check_records(records: int, results: Sequence[BlockResult]) -> None:
    sent = sum(result.block.requests for result in results if result.block.target == "gateway")
    if records != sent:
        raise RuntimeError(f"{sent} requests went through the gateway, {records} decisions are in its log")


def _decision_mean_us(metrics: bytes) -> float:
    values = dict(re.findall(rb"^thinkroute_decision_seconds_(sum|count) (\S+)$", metrics, re.MULTILINE))
    return round(1e6 * float(values[b"sum"]) / float(values[b"count"]), 1)


def _router_version(metrics: bytes) -> str:
    found = re.search(rb'^thinkroute_info\{.*router="([^"]*)"', metrics, re.MULTILINE)
    return found[1].decode() if found else "unknown"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny counts: proves that it runs")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a threshold is passed")
    parser.add_argument("--no-embedded", action="store_true", help="leave the embedded fleet out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", type=Path, help="result file; default docs/results/overhead.json, none when quick"
    )
    return parser.parse_args()


def main() -> int:
    """Measure, show, store, and perhaps judge."""
    options = arguments()
    command = shlex.join(["python", "benchmarks/overhead.py", *sys.argv[1:]])
    scale = QUICK if options.quick else FULL
    result = measure(scale, options.seed, command, embedded=not options.no_embedded)
    console = Console()
    for table in tables(result):
        console.print(table)
    console.print(
        f"decision {result.decision_mean_us:.0f} µs on average; load average {result.load_before} before, "
        f"{result.load_after} after; commit {result.commit}"
    )
    output = options.output or (None if options.quick else BENCHMARKS.parent / "docs/results/overhead.json")
    if output is not None:
        output.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    if not options.check:
        return 0
    found = violations(result, json.loads((BENCHMARKS / "thresholds.json").read_text()))
    for line in found:
        console.print(f"[red]over the threshold[/red]: {line}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
