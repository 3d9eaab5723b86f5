"""Prometheus metrics of one gateway, on a registry of its own. Label values come from the configuration, so they are few."""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from thinkroute.types import Ledger

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_DECISION_SECONDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05)
_CHILDREN = 512


class Metrics:
    """Counters and histograms; every method is cheap and never raises."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, version: str, policy_version: str, router: str) -> None:
        self.registry = CollectorRegistry()
        info = Gauge(
            "thinkroute_info", "Versions in use.", ("version", "policy", "router"), registry=self.registry
        )
        info.labels(version, policy_version, router).set(1)
        self._requests = Counter(
            "thinkroute_requests",
            "Chat requests by outcome.",
            ("arm", "status", "code"),
            registry=self.registry,
        )
        self._in_flight = Gauge(
            "thinkroute_requests_in_flight", "Requests being answered.", registry=self.registry
        )
        self._latency = Histogram(
            "thinkroute_request_seconds", "Seconds from request to last byte.", ("arm",),
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._ttft = Histogram(
            "thinkroute_time_to_first_token_seconds", "Seconds from request to first token.", ("arm",),
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._decision = Histogram(
            "thinkroute_decision_seconds", "Seconds spent choosing an arm.",
            buckets=_DECISION_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._tokens = Counter(
            "thinkroute_tokens", "Tokens by model and kind.", ("model", "kind"), registry=self.registry
        )
        self._cost = Counter(
            "thinkroute_cost_usd", "Dollars by model; calls of unknown price are not in here.", ("model",),
            registry=self.registry,
        )  # fmt: skip
        self._unpriced = Counter(
            "thinkroute_unpriced_calls", "Calls whose cost is unknown.", ("model",), registry=self.registry
        )
        self._dropped = Gauge(
            "thinkroute_records_dropped", "Decision records lost since the start.", registry=self.registry
        )
        self._feedback = Counter("thinkroute_feedback", "Feedback received.", registry=self.registry)
        # Finding a labelled child costs more than counting on it.
        self._requests_of = lru_cache(_CHILDREN)(self._requests.labels)
        self._latency_of = lru_cache(_CHILDREN)(self._latency.labels)
        self._ttft_of = lru_cache(_CHILDREN)(self._ttft.labels)
        self._tokens_of = lru_cache(_CHILDREN)(self._tokens.labels)
        self._cost_of = lru_cache(_CHILDREN)(self._cost.labels)

    def begin(self) -> None:
        """A chat request started."""
        self._in_flight.inc()

    def decided(self, seconds: float) -> None:
        """An arm was chosen."""
        self._decision.observe(seconds)

    def end(self, arm: str, status: str, code: str, latency_s: float, ttft_s: float | None) -> None:
        """A chat request ended; `arm` is "none" when none was chosen."""
        self._in_flight.dec()
        self._requests_of(arm, status, code).inc()
        self._latency_of(arm).observe(latency_s)
        if ttft_s is not None:
            self._ttft_of(arm).observe(ttft_s)

    def spent(self, ledger: Ledger) -> None:
        """What a request used."""
        for entry in ledger.entries:
            usage = entry.usage
            self._tokens_of(entry.owner, "prompt").inc(usage.prompt_tokens)
            self._tokens_of(entry.owner, "reasoning").inc(usage.reasoning_tokens)
            self._tokens_of(entry.owner, "answer").inc(usage.completion_tokens - usage.reasoning_tokens)
            if entry.cost_usd is None:
                self._unpriced.labels(entry.owner).inc()
            else:
                self._cost_of(entry.owner).inc(entry.cost_usd)

    def feedback(self) -> None:
        """A caller graded an answer."""
        self._feedback.inc()

    def render(self, records_dropped: int) -> bytes:
        """The exposition format of Prometheus."""
        self._dropped.set(records_dropped)
        return generate_latest(self.registry)
