"""A benchmark's result: summaries of blocks, the stored shape, the thresholds, the table.

Added time is paired: a round measures both targets within seconds of each other, the difference is taken in each round,
and the median over rounds is reported with its range. Ratios likewise. Means of noisy machines are nowhere used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

import msgspec
import numpy as np
from rich.table import Table

from harness.client import BlockResult, Target
from harness.machine import Machine


class Spread(msgspec.Struct, frozen=True):
    """One number per round: its median, lowest and highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(*(float(f"{value:.4g}") for value in (median(values), min(values), max(values))))


class Side(msgspec.Struct, frozen=True):
    """One target under one workload; each number is a spread over rounds."""

    p50_ms: Spread
    p95_ms: Spread
    p99_ms: Spread
    ttft_p50_ms: Spread
    ttft_p95_ms: Spread
    requests_per_s: Spread


class Comparison(msgspec.Struct, frozen=True):
    """One workload at one concurrency; what is added is against the direct call."""

    workload: str
    concurrency: int
    requests: int
    """Per target, over all rounds."""
    direct: Side
    bare: Side
    """Through the bare proxy."""
    gateway: Side
    added_p50_ms: Spread
    added_p95_ms: Spread
    added_ttft_p50_ms: Spread
    p50_ratio: Spread
    cpu_us_per_request: Spread
    """User and system time of the gateway's process."""
    bare_cpu_us_per_request: Spread
    """The same of the bare proxy: what this stack cannot go below, and how fast the machine was."""
    cpu_ratio_to_bare: Spread


class Service(msgspec.Struct, frozen=True):
    """One way of starting the gateway."""

    command: str
    ready_s: Spread
    rss_ready_mb: Spread
    """10^6 bytes."""
    rss_after_load_mb: float
    router: str
    arms: int


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The file."""

    schema: int = 1
    commit: str
    command: str
    seed: int
    started_at: str
    duration_s: float
    machine: Machine
    load_before: list[float]
    load_after: list[float]
    decision_mean_us: float
    """Mean of `thinkroute_decision_seconds` over all requests: the router's prediction and the policy."""
    records: int
    """Decisions in the log at the end; equal to the requests sent."""
    arms_chosen: dict[str, int]
    comparisons: list[Comparison]
    gateway: Service
    embedded: Service | None
    """`thinkroute serve` without configuration; None when it was left out."""


def compare(results: Sequence[BlockResult]) -> list[Comparison]:
    """Comparisons of the measured rounds, in the order the workloads were first run."""
    measured = [result for result in results if result.block.round >= 0]
    keys = dict.fromkeys((result.block.workload.name, result.block.concurrency) for result in measured)
    return [_comparison(name, concurrency, measured) for name, concurrency in keys]


def _comparison(name: str, concurrency: int, measured: Sequence[BlockResult]) -> Comparison:
    def rounds(target: Target) -> list[BlockResult]:
        mine = [
            r for r in measured
            if (r.block.workload.name, r.block.concurrency, r.block.target) == (name, concurrency, target)
        ]  # fmt: skip
        return sorted(mine, key=lambda result: result.block.round)

    direct, bare, through = rounds("direct"), rounds("bare"), rounds("gateway")
    pairs = list(zip(direct, through, strict=True))

    def added(measure: Callable[[BlockResult], float]) -> Spread:
        return Spread.of([measure(after) - measure(before) for before, after in pairs])

    return Comparison(
        workload=name,
        concurrency=concurrency,
        requests=sum(result.block.requests for result in through),
        direct=_side(direct),
        bare=_side(bare),
        gateway=_side(through),
        added_p50_ms=added(lambda result: _ms(result.latency_s, 50)),
        added_p95_ms=added(lambda result: _ms(result.latency_s, 95)),
        added_ttft_p50_ms=added(lambda result: _ms(result.ttft_s, 50)),
        p50_ratio=Spread.of(
            [_ms(after.latency_s, 50) / _ms(before.latency_s, 50) for before, after in pairs]
        ),
        cpu_us_per_request=Spread.of([_cpu_us(result) for result in through]),
        bare_cpu_us_per_request=Spread.of([_cpu_us(result) for result in bare]),
        cpu_ratio_to_bare=Spread.of([_cpu_us(g) / _cpu_us(b) for g, b in zip(through, bare, strict=True)]),
    )


def _side(rounds: Sequence[BlockResult]) -> Side:
    return Side(
        p50_ms=Spread.of([_ms(result.latency_s, 50) for result in rounds]),
        p95_ms=Spread.of([_ms(result.latency_s, 95) for result in rounds]),
        p99_ms=Spread.of([_ms(result.latency_s, 99) for result in rounds]),
        ttft_p50_ms=Spread.of([_ms(result.ttft_s, 50) for result in rounds]),
        ttft_p95_ms=Spread.of([_ms(result.ttft_s, 95) for result in rounds]),
        requests_per_s=Spread.of([result.block.requests / result.elapsed_s for result in rounds]),
    )


def _ms(seconds: Sequence[float], percentile: float) -> float:
    return 1000 * float(np.percentile(seconds, percentile))


def _cpu_us(result: BlockResult) -> float:
    return 1e6 * result.cpu_s / result.block.requests


def violations(result: Result, thresholds: Mapping[str, float]) -> list[str]:
    """What is over its threshold, in words; names that nothing measures count as violations too."""
    measured = measured_numbers(result)
    said: list[str] = []
    for name, limit in thresholds.items():
        if name not in measured:
            said.append(f"{name}: not measured")
        elif measured[name] > limit:
            said.append(f"{name}: {measured[name]:.4g} is over {limit:g}")
    return said


def measured_numbers(result: Result) -> dict[str, float]:
    """The numbers that thresholds name, e.g. `json.c1.added_p50_ms`."""
    numbers: dict[str, float] = {}
    for row in result.comparisons:
        prefix = f"{row.workload}.c{row.concurrency}"
        numbers[f"{prefix}.added_p50_ms"] = row.added_p50_ms.median
        numbers[f"{prefix}.added_ttft_p50_ms"] = row.added_ttft_p50_ms.median
        numbers[f"{prefix}.cpu_us_per_request"] = row.cpu_us_per_request.median
        numbers[f"{prefix}.cpu_ratio_to_bare"] = row.cpu_ratio_to_bare.median
    for name, service in (("gateway", result.gateway), ("embedded", result.embedded)):
        if service is not None:
            numbers[f"{name}.ready_s"] = service.ready_s.median
            numbers[f"{name}.rss_after_load_mb"] = service.rss_after_load_mb
    return numbers


def tables(result: Result) -> list[Table]:
    """What a human reads."""
    load = Table(title="the gateway against the upstream alone (median over rounds, lowest – highest)")
    for heading in ("workload", "at once", "direct p50 ms", "gateway p50 ms", "added p50 ms", "added TTFT ms",
                    "p95 / p99 ms", "requests/s", "CPU µs/request", "bare CPU µs", "ratio"):  # fmt: skip
        load.add_column(heading, justify="left" if heading == "workload" else "right")
    for row in result.comparisons:
        load.add_row(
            row.workload,
            str(row.concurrency),
            f"{row.direct.p50_ms.median:.3g}",
            f"{row.gateway.p50_ms.median:.3g}",
            _range(row.added_p50_ms),
            _range(row.added_ttft_p50_ms),
            f"{row.gateway.p95_ms.median:.3g} / {row.gateway.p99_ms.median:.3g}",
            f"{row.gateway.requests_per_s.median:.0f}",
            _range(row.cpu_us_per_request),
            f"{row.bare_cpu_us_per_request.median:.0f}",
            f"{row.cpu_ratio_to_bare.median:.2g}",
        )
    services = Table(title="starting it")
    for heading in ("command", "ready s", "RSS at ready MB", "RSS after load MB"):
        services.add_column(heading)
    for service in (result.gateway, result.embedded):
        if service is not None:
            services.add_row(
                service.command, _range(service.ready_s), _range(service.rss_ready_mb),
                f"{service.rss_after_load_mb:.0f}",
            )  # fmt: skip
    return [load, services]


def _range(spread: Spread) -> str:
    return " ".join((_short(spread.median), f"({_short(spread.low)} – {_short(spread.high)})"))


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
