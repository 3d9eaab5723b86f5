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


class NearPair(msgspec.Struct, frozen=True):
    """A tested question that resembles a learned one."""

    learned: str
    """Query id."""
    tested: str
    jaccard: float


class Leakage(msgspec.Struct, frozen=True, kw_only=True):
    """How much of what was tested resembles what was learned. Equal texts never stand on both sides."""

    near_share: float
    """Share of tested rows with a near duplicate among the learned."""
    contained_share: float
    """Share of tested rows contained in a learned text, or containing one."""
    near_from: float
    """Jaccard similarity of word n-grams from which texts are near duplicates."""
    contained_from: float
    dropped: bool
    """Whether the learned texts of such pairs were left out of training."""
    examples: list[NearPair]


class ReliabilityBin(msgspec.Struct, frozen=True):
    """Cells of about equal predicted quality."""

    predicted: float
    measured: float
    cells: int


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """Whether predicted quality means what it says."""

    ece: float
    """Expected calibration error over bins of equal mass, all tested cells."""
    brier: float
    """Mean squared error of predicted quality, all tested cells."""
    chosen_ece: float
    """ECE over the cells chosen where quality alone counts."""
    chosen_excess: float
    """Predicted minus measured quality there: how much choosing the largest of noisy predictions flatters."""
    bins: list[ReliabilityBin]


class EqualCost(msgspec.Struct, frozen=True, kw_only=True):
    """Against the best single arm, at its cost and at its quality; queries resampled for both at once."""

    quality_gain: Interval | None
    """Router's hull at the best single arm's cost, minus that arm's quality; None when it has nothing so cheap."""
    cost_share: float | None
    """Least cost on the hull that reaches that arm's quality, as a share of its cost; None: never reached."""
    cost_share_low: float | None
    cost_share_high: float | None
    """95 % interval; None: an end at which it is never reached."""
    reached: float
    """Share of resamples in which that quality is reached at all."""


class ArenaScore(msgspec.Struct, frozen=True, kw_only=True):
    """RouterArena's numbers for the point where quality alone counts."""

    score: float
    """S with β = 0.1."""
    best_score: float
    """Highest S along the dial, chosen in hindsight."""
    optimal_selection: float | None
    """Share of rightly answered queries that the cheapest right arm answered."""
    optimal_cost: float | None
    """Cost of the cheapest right arms over the router's, on rightly answered queries."""
    optimal_accuracy: float | None
    """Router's quality over the oracle's."""


class CutAudit(msgspec.Struct, frozen=True, kw_only=True):
    """Tested prompts that the encoder did not read to the end."""

    share: float
    limit_bytes: int
    """What the encoder reads of a prompt at most."""
    quality: float | None
    """Router's quality on them; None when there is none."""
    gain_over_best_single: Interval | None
    changed_share: float | None
    """Share of them where the router decides otherwise when its encoder reads everything."""


class Baselines(msgspec.Struct, frozen=True, kw_only=True):
    """The lines a router is read against, on the same tested rows."""

    best_single: Point
    """Arm of best quality on the training part."""
    best_single_arms: list[str]
    """Which arm that was; several when folds disagree."""
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
    oracle_new_arm_share: float | None = None
    """Split `arm` only: how often the oracle takes the new arm."""


class RouterScore(msgspec.Struct, frozen=True, kw_only=True):
    """One router on the tested rows."""

    router: str
    quality: float
    """At an infinite value: quality is all that counts."""
    quality_by_fold: list[float]
    cost: float | None
    """Mean cost at that point."""
    gain_over_best_single: Interval
    """Paired difference in quality at that point, over the best single arm chosen in training."""
    gain_over_equal_rates: Interval
    """Over a random mix with this router's own arm shares: what it knows beyond how often to call whom."""
    gain_over_prompt_length: Interval | None
    """Over the baseline that reads nothing but the prompt's length; None for that baseline itself."""
    gain_over_task_lookup: Interval | None
    gain_without_leaks: Interval | None
    """Over the best single arm on tested rows that resemble no learned one; None when all or none do."""
    aiq: Interval | None
    aiq_gain_over_zero_router: Interval | None
    cost_share: float | None
    """Least cost that reaches the best single arm's quality, as a share of that arm's cost; NaN when never."""
    equal_cost: EqualCost | None
    random_at_equal_cost: float | None
    """Quality of the best random mix of single arms at this router's cost."""
    random_at_equal_rates: float
    """Quality of a random mix with this router's arm shares."""
    arm_shares: dict[str, float]
    entropy_bits: float
    calibration: Calibration
    arena: ArenaScore | None
    """Tables with dollars only."""
    cut: CutAudit | None
    """None when the router reads no text or its encoder does not say what it reads."""
    truncation_rate: float | None
    apgr: float | None
    """Two-arm tables only, as are the next four."""
    apgr_interval: Interval | None
    apgr_ten_point: float | None
    cpt50: float | None
    cpt80: float | None
    new_arm_share: float | None
    """Split `arm` only: how often the router takes the new arm."""
    frontier: list[Point]
    """One point per value of the dial."""
    fit_s: float
    predict_us: float
    """Median microseconds of one prediction for all arms, on the machine that evaluated."""
    decide_us: float
    """Median microseconds from text to decision: that prediction, and the policy's choice."""
    quality_by_task: dict[str, float] = msgspec.field(default_factory=dict[str, float])
    """Mean quality at an infinite value on the rows of each task label; empty without labels."""


class NotJudged(msgspec.Struct, frozen=True):
    """A router that took no part."""

    router: str
    reason: str


class Leaderboard(msgspec.Struct, frozen=True, kw_only=True):
    """All routers on one table."""

    table: str
    data_hash: str
    notes: dict[str, str]
    queries: int
    tested_rows: int
    """Pooled over folds."""
    missing_share: float
    """Share of the tested cells without a grade; choices of these give way to the cheapest graded arm."""
    split: str
    seeds: tuple[int, ...]
    folds: list[str]
    encoder: str
    cost_unit: str | None
    cost_low: float
    """Start of the cost range of AIQ: the cheapest single arm's mean cost."""
    cost_high: float
    """End of it: the dearest single arm's."""
    leakage: Leakage
    arms: list[ArmScoreRow]
    baselines: Baselines
    baseline_routers: list[RouterScore]
    """Baselines that have a frontier of their own."""
    routers: list[RouterScore]
    not_judged: list[NotJudged]
    took_s: float
    """On the clock."""
    cpu_s: float
    """On the processors."""


class SharedQuestions(msgspec.Struct, frozen=True):
    """Questions of one table that another has too."""

    table: str
    other: str
    equal: int
    """Rows of `table` whose normalised text is in `other`."""
    alike: int
    """Rows with an equal, near or contained text in `other`."""
    rows: int
    """Rows of `table`."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What it takes to get stored results again."""

    command: str
    commit: str
    """Revision of the repository, `unknown` outside one; ends in `+changes` when files differ from it."""
    thinkroute_version: str
    python: str
    machine: str
    created: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A stored evaluation."""

    origin: Origin
    leaderboards: list[Leaderboard]
    shared_questions: list[SharedQuestions] = []
    """Between the tables of the report; pairs without any are left out."""
