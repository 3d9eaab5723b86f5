"""What an evaluation found, as records that go to JSON. Owns names and meaning, computes nothing."""

from __future__ import annotations

import msgspec

from thinkroute.evaluation.metrics import Interval


class Point(msgspec.Struct, frozen=True):
    """Mean quality at a mean cost per query."""

    quality: float
    cost: float | None
    """In the leaderboard's unit; None for tables without any cost."""


class ArmScoreRow(msgspec.Struct, frozen=True):
    """One arm used for everything."""

    arm: str
    quality: float
    cost: float | None


class Baselines(msgspec.Struct, frozen=True, kw_only=True):
    """The lines a router is read against, on the same tested rows."""

    best_single: Point
    """Arm of best quality on the training part."""
    best_single_arms: list[str]
    """Which arm that was; several when seeds disagree."""
    best_single_hindsight: Point
    """Arm of best quality on the tested rows themselves."""
    best_single_hindsight_arm: str
    task_lookup: Point | None
    """Best arm per task label, chosen on the training part; None without labels."""
    oracle: Point
    """Best answer of each query, the cheapest of the best."""
    random: Point
    """An arm drawn evenly."""
    zero_router_aiq: float | None
    """AIQ of the hull of the single arms: random mixing at equal cost, chosen in hindsight."""
    zero_router_cost_share: float | None
    truncation_rate: float | None
    """Share of the best single arm's answers cut by a token limit; None when unknown."""


class RouterScore(msgspec.Struct, frozen=True, kw_only=True):
    """One router on the tested rows."""

    router: str
    quality: float
    """At an infinite value: quality is all that counts."""
    quality_by_seed: list[float]
    cost: float | None
    """Mean cost at that point."""
    gain_over_best_single: Interval
    """Paired difference in quality at that point, over the best single arm chosen in training."""
    aiq: Interval | None
    aiq_gain_over_zero_router: Interval | None
    cost_share: float | None
    """Least cost that reaches the best single arm's quality, as a share of that arm's cost; NaN when never."""
    random_at_equal_cost: float | None
    """Quality of the best random mix of single arms at this router's cost."""
    random_at_equal_rates: float
    """Quality of a random mix with this router's arm shares."""
    arm_shares: dict[str, float]
    entropy_bits: float
    truncation_rate: float | None
    apgr: float | None
    """Two-arm tables only, as are the next three."""
    apgr_ten_point: float | None
    cpt50: float | None
    cpt80: float | None
    frontier: list[Point]
    """One point per value of the dial."""
    fit_s: float
    predict_us: float
    """Median microseconds of one prediction for all arms, on the machine that evaluated."""


class Leaderboard(msgspec.Struct, frozen=True, kw_only=True):
    """All routers on one table."""

    table: str
    data_hash: str
    notes: dict[str, str]
    queries: int
    tested_rows: int
    """Pooled over seeds."""
    missing_share: float
    """Share of the tested cells without a grade; choices of these give way to the cheapest graded arm."""
    split: str
    seeds: tuple[int, ...]
    cost_unit: str | None
    cost_low: float
    """Start of the cost range of AIQ: the cheapest single arm's mean cost."""
    cost_high: float
    """End of it: the dearest single arm's."""
    arms: list[ArmScoreRow]
    baselines: Baselines
    routers: list[RouterScore]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A stored evaluation: leaderboards and what it takes to get them again."""

    command: str
    commit: str
    """Revision of the repository, `unknown` outside one; ends in `+changes` when files differ from it."""
    thinkroute_version: str
    python: str
    machine: str
    created: str
    leaderboards: list[Leaderboard]
