"""What one decision costs, text in, `Decision` out: ten arms, ten thousand training outcomes, one core.

Times `router.predict` and the policy's choice together, as a gateway calls them, for the default fitted router and for
the prior, at several prompt lengths. Texts differ from call to call. Between two timed calls nothing else is done, so
caches are as warm as under load; docs/benchmarks.md says what a call costs after a pause. Times are CPU time of the one
thread that decides. Of every stage the median and the 99th percentile over all calls are kept, whatever disturbed them. The
number that is judged is the mean over prompts of each prompt's quickest round: other tenants of a shared machine, who
empty the caches at every change of context, can only add to it. Writes `docs/results/decisions.json`.

    python benchmarks/decisions.py            the measurement, some minutes: most of it fitting
    python benchmarks/decisions.py --check    also fail when a number misses benchmarks/decision_thresholds.json
    python benchmarks/decisions.py --quick    the whole path with tiny counts; its numbers mean nothing
"""

from __future__ import annotations

import os

# One core is what is promised. Read when numpy loads.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
from harness.machine import Machine, commit, load_average, machine

from thinkroute.policy import choose
from thinkroute.routers import OutcomeTable, fit_router
from thinkroute.routers.base import Router
from thinkroute.routers.realtext import ArmFacts, RealTextPrior
from thinkroute.routers.registry import DEFAULT_ENCODER
from thinkroute.signals import fit_encoder
from thinkroute.signals.base import Encoder, EncoderState, Matrix, Vector
from thinkroute.types import Arm, ComputePrices, Effort, Price, Query, estimate_tokens

BENCHMARKS = Path(__file__).resolve().parent
THRESHOLDS = BENCHMARKS / "decision_thresholds.json"
ARM_COUNT = 10
PROMPT_TOKENS = (32, 128, 1000, 4000, 16_000)
_RARE = 20_000
_SYLLABLES = ("ka", "ri", "son", "tel", "mor", "pli", "gan", "ves", "tur", "hed", "lo", "bin")
_COMMON = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "a",
    "is",
    "that",
    "for",
    "it",
    "as",
    "was",
    "with",
    "be",
    "by",
    "on",
    "not",
    "he",
    "his",
    "but",
    "at",
    "are",
    "this",
    "have",
    "from",
    "or",
    "had",
    "an",
    "they",
]


class StageTime(msgspec.Struct, frozen=True):
    """CPU time of one stage over all calls, microseconds."""

    p50_us: float
    p99_us: float


class DecisionTime(msgspec.Struct, frozen=True, kw_only=True):
    """One router at one prompt length, microseconds."""

    router: str
    training_queries: int
    training_outcomes: int
    prompt_tokens: int
    prompt_bytes: int
    wall_p50_us: float
    wall_p95_us: float
    stages: dict[str, StageTime]
    """`read`: text to vector, where the router has an encoder; `predict`: the rest of the router; `choose`; `all`."""
    cpu_us: float
    """CPU time per decision: mean over prompts of each prompt's quickest round."""
    decisions_per_s: float
    """Of one core: a million over `cpu_us`."""


class DecisionResult(msgspec.Struct, frozen=True, kw_only=True):
    """The stored file."""

    command: str
    created: str
    commit: str
    machine: Machine
    load_average: list[float]
    arms: int
    seed: int
    calls: int
    decisions: list[DecisionTime]


def texts(count: int, tokens: int, seed: int) -> list[str]:
    """Prompts of about so many tokens: half common words, half from a vocabulary as large as people's, some numbers."""
    rng = np.random.default_rng(seed)
    parts: list[list[int]] = rng.integers(len(_SYLLABLES), size=(_RARE, 3)).tolist()
    rare = ["".join(_SYLLABLES[part] for part in word) for word in parts]
    other = [*(str(number) for number in range(1000)), *["x = f(y) + 1,"] * 700]
    made: list[str] = []
    for _ in range(count):
        kinds: list[int] = rng.choice(3, size=tokens * 2, p=[0.5, 0.43, 0.07]).tolist()
        places: list[int] = rng.integers(1 << 30, size=tokens * 2).tolist()
        lists = (_COMMON, rare, other)
        words = [lists[kind][place % len(lists[kind])] for kind, place in zip(kinds, places, strict=True)]
        made.append(" ".join(words)[: tokens * 4 - 1] + "?")
    return made


def outcomes(queries: int, seed: int) -> OutcomeTable:
    """Outcomes of ten arms on short prompts: later arms are better, and better still on longer prompts."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(10, 150, size=queries)
    vocabulary = " ".join(texts(40, 400, seed)).split()
    prompts = [
        " ".join(rng.choice(vocabulary, size=int(length))) + f" {row}" for row, length in enumerate(lengths)
    ]
    skill_QA = np.linspace(-1, 2, ARM_COUNT) - (lengths[:, None] - 80) / 60
    return OutcomeTable(
        query_ids=tuple(f"q{row}" for row in range(queries)),
        texts=tuple(prompts),
        arms=tuple(f"m{arm}@default" for arm in range(ARM_COUNT)),
        measured={
            "quality": (rng.random(skill_QA.shape) < 1 / (1 + np.exp(-skill_QA))).astype(np.float64),
            "prompt_tokens": np.repeat(lengths[:, None].astype(np.float64), ARM_COUNT, axis=1),
            "answer_tokens": rng.lognormal(5, 0.5, skill_QA.shape),
        },
    )


class TimedEncoder:
    """An encoder that counts the CPU time it takes."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.dimension = encoder.dimension
        self.spent_ns = 0

    def encode(self, text: str) -> Vector:
        """Vector of one text."""
        began = time.thread_time_ns()
        vector = self._encoder.encode(text)
        self.spent_ns += time.thread_time_ns() - began
        return vector

    def encode_batch(self, texts: Sequence[str]) -> Matrix:
        """Vectors of many texts, not counted."""
        return self._encoder.encode_batch(texts)

    def state(self) -> EncoderState:
        """What to save."""
        return self._encoder.state()


class Times(msgspec.Struct):
    """What was measured, microseconds of every call."""

    wall: list[float]
    stages: dict[str, list[float]]
    best_us: float
    """Mean over prompts of the quickest round of each."""


def time_router(router: Router, encoder: TimedEncoder | None, prompts: Sequence[str], rounds: int) -> Times:
    """Decide on every prompt, several times over."""
    arms = tuple(Arm("direct", (f"m{arm}",), Effort("default")) for arm in range(ARM_COUNT))
    ids = [arm.id for arm in arms]
    prices = {arm.models[0]: Price(0.1 * 2**place, 0.4 * 2**place) for place, arm in enumerate(arms)}
    dial = ComputePrices(0.01)
    wall: list[float] = []
    stages: dict[str, list[float]] = {name: [] for name in ("read", "predict", "choose", "all")}
    for _ in range(rounds):
        queries = [Query(text, prompt_tokens=estimate_tokens(len(text))) for text in prompts]
        for query in queries:
            read_before = encoder.spent_ns if encoder else 0
            began = time.perf_counter()
            began_ns = time.thread_time_ns()
            predictions = router.predict(query, ids)
            predicted_ns = time.thread_time_ns()
            decision = choose(arms, predictions, dial, prices, router=router.version)
            ended_ns = time.thread_time_ns()
            wall.append((time.perf_counter() - began) * 1e6)
            if decision is None:
                raise RuntimeError("no decision was made")
            read_ns = encoder.spent_ns - read_before if encoder else 0
            spent = (read_ns, predicted_ns - began_ns - read_ns, ended_ns - predicted_ns, ended_ns - began_ns)
            for name, nanoseconds in zip(stages, spent, strict=True):
                stages[name].append(nanoseconds / 1e3)
    if encoder is None:
        del stages["read"]
    all_RQ = np.array(stages["all"]).reshape(rounds, len(prompts))
    return Times(wall, stages, float(all_RQ.min(axis=0).mean()))


def measure(sizes: Sequence[int], calls: int, encoder: str, seed: int) -> Iterator[DecisionTime]:
    """All routers at all lengths; fitted ones on so many training queries."""
    rounds = max(calls // 16, 1)
    facts = {
        f"m{arm}@default": ArmFacts(name=f"m{arm}", output_usd_per_mtok=0.4 * 2**arm)
        for arm in range(ARM_COUNT)
    }
    routers: list[tuple[str, int, Router, TimedEncoder | None]] = [
        ("prior for real text", 0, RealTextPrior(facts), None)
    ]
    for size in filter(None, sizes):
        table = outcomes(size, seed)
        timed = TimedEncoder(fit_encoder(encoder, table.texts))
        fitted = fit_router("guarded_knn", table, encoder=timed)
        routers.append((f"guarded_knn on {encoder}", size, fitted, timed))
    for name, size, router, timed in routers:
        for tokens in PROMPT_TOKENS:
            prompts = texts(calls, tokens, seed + tokens)
            time_router(router, timed, prompts, 1)
            times = time_router(router, timed, prompts, rounds)
            yield DecisionTime(
                router=name,
                training_queries=size,
                training_outcomes=size * ARM_COUNT,
                prompt_tokens=tokens,
                prompt_bytes=len(prompts[0]),
                wall_p50_us=round(float(np.median(times.wall)), 1),
                wall_p95_us=round(float(np.quantile(times.wall, 0.95)), 1),
                stages={
                    stage: StageTime(*(round(float(np.quantile(spent, share)), 1) for share in (0.5, 0.99)))
                    for stage, spent in times.stages.items()
                },
                cpu_us=round(times.best_us, 1),
                decisions_per_s=round(1e6 / times.best_us),
            )


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is promised, by prompt length in tokens."""

    training_outcomes: int
    """Of routers fitted on at most so many; time grows with them, and larger ones are only reported."""
    most_cpu_us: dict[str, float]
    least_decisions_per_s: dict[str, float]


def violations(decisions: Sequence[DecisionTime], limits: Limits) -> list[str]:
    """Numbers that miss what is promised."""
    found: list[str] = []
    for each in decisions:
        if each.training_outcomes > limits.training_outcomes:
            continue
        what = f"{each.router}, {each.training_queries} queries, {each.prompt_tokens} tokens"
        most = limits.most_cpu_us.get(str(each.prompt_tokens))
        least = limits.least_decisions_per_s.get(str(each.prompt_tokens))
        if most is not None and each.cpu_us > most:
            found.append(f"{what}: {each.cpu_us} us of CPU, at most {most}")
        if least is not None and each.decisions_per_s < least:
            found.append(f"{what}: {each.decisions_per_s} decisions/s, at least {least}")
    return found


def main() -> int:
    """Run as a command."""
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument(
        "--queries",
        type=int,
        action="append",
        help="training queries, 0: prior alone; default: 1000 and 10000",
    )
    parser.add_argument("--calls", type=int, default=192, help="different prompts of each length")
    parser.add_argument("--encoder", default=DEFAULT_ENCODER, help="of the fitted router")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", type=Path, default=BENCHMARKS.parent / "docs" / "results" / "decisions.json"
    )
    chosen = parser.parse_args()
    sizes, calls = ([60], 8) if chosen.quick else (chosen.queries or [1_000, 10_000], chosen.calls)
    decisions = list(measure(sizes, calls, chosen.encoder, chosen.seed))
    result = DecisionResult(
        command="python " + shlex.join(sys.argv),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit(),
        machine=machine(),
        load_average=load_average(),
        arms=ARM_COUNT,
        seed=chosen.seed,
        calls=calls,
        decisions=decisions,
    )
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    stages = ("read", "predict", "choose", "all")
    table = Table("router", "queries", "tokens", *stages, "best µs", "decisions/s", "wall p50")
    for found in decisions:
        spent = [found.stages.get(stage) for stage in stages]
        table.add_row(
            found.router,
            str(found.training_queries),
            str(found.prompt_tokens),
            *("" if each is None else f"{each.p50_us:.0f} / {each.p99_us:.0f}" for each in spent),
            *(f"{n:.0f}" for n in (found.cpu_us, found.decisions_per_s, found.wall_p50_us)),
        )
    console = Console()
    console.print(table)
    console.print("Stages: CPU µs of a call, p50 / p99.", highlight=False)
    over = violations(decisions, msgspec.json.decode(THRESHOLDS.read_bytes(), type=Limits))
    for line in over if chosen.check else ():
        console.print(line, highlight=False)
    return 1 if chosen.check and over else 0


if __name__ == "__main__":
    sys.exit(main())
