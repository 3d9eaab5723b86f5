"""A relay over a second engine process: same text as in process, latencies, and a teacher that is killed while it writes.

    python benchmarks/relay.py --n 100 --kills 50 --out docs/results/relay-serving.json

The teacher is `thinkroute fleet serve` in a process of its own, asked over `/v1/completions`; `--teacher URL` names another
server of the same member. The student is the shipped one that learned to call, in this process. For the kills it is the fleet's student made to
call at every step by a rule, for nine tokens, so that every answer has a hand-over to be killed in.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from harness import machine

from thinkroute.catalog import Model, family_named
from thinkroute.engines.embedded import EmbeddedEngine
from thinkroute.engines.http import HttpEngine
from thinkroute.fleet import relay_bench, shipped
from thinkroute.programs.direct import direct
from thinkroute.programs.driver import Prompt, Run
from thinkroute.programs.effects import Program
from thinkroute.programs.protocol import Engine, ThinkingFormat
from thinkroute.programs.relay import RelayLimits, RelayLog, relay
from thinkroute.testing.calling import CallingEngine
from thinkroute.types import Arm, Effort

EFFORT = Effort("on")
LIMITS = RelayLimits(most_calls=16, most_tokens_per_call=64, teacher_timeout_s=20.0)
FAMILY = family_named("thinkroute-fleet")
FORMAT = ThinkingFormat(FAMILY.open_text, FAMILY.close_text, FAMILY.stop_text)


class TeacherProcess:
    """The teacher's server, which can be killed and started again."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        code = f"from thinkroute.fleet.server import serve; serve(['teacher'], '127.0.0.1', {self.port})"
        self._process = subprocess.Popen([sys.executable, "-c", code])
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).close()
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
            else:
                return
        raise RuntimeError("the teacher's server did not start")

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()


async def answer(
    program: Program, engines: Mapping[str, Engine], question: str, teacher: TeacherProcess | None = None
) -> tuple[str, float, float, Run]:
    """Text, seconds to the first token and in all; a given teacher is killed at its first word."""
    run = Run(program, Prompt([{"role": "user", "content": question}], {"temperature": 0}), engines, {})
    began, first = time.perf_counter(), 0.0
    text = ""
    async with aclosing(run.events()) as events:
        async for delta in events:
            first = first or time.perf_counter() - began
            text += delta.text
            if teacher is not None and delta.owner == "remote":
                teacher.kill()
                teacher = None
    return text, first, time.perf_counter() - began, run


def arm_of(student: str, teacher: str) -> Arm:
    """The relay of these two."""
    return Arm("relay", (student, teacher), EFFORT)


async def measure(
    questions: list[str], url: str, kills: int, process: TeacherProcess | None
) -> dict[str, Any]:
    """Everything that is reported."""
    engine = EmbeddedEngine(
        {name: shipped.directory(name) for name in ("student", "student-relay", "teacher")}
    )
    tokenizer = shipped.directory("student") / "tokenizer.json"
    remote = HttpEngine(
        {
            "remote": Model(
                "remote", "thinkroute-fleet-teacher", "http", FAMILY, url, continuation="completions"
            )
        }
    )
    engines: dict[str, Engine] = {
        "student": engine,
        "student-relay": engine,
        "teacher": engine,
        "remote": remote,
    }
    await engine.start()
    await remote.start()
    times: dict[str, list[tuple[float, float]]] = {
        "student": [],
        "teacher": [],
        "in process": [],
        "over http": [],
    }
    differing: list[str] = []
    hand_overs = called = 0
    for question in questions:
        texts: dict[str, str] = {}
        for name, teacher in (("in process", "teacher"), ("over http", "remote")):
            log = RelayLog()
            program = relay(arm_of("student-relay", teacher), None, FORMAT, LIMITS, log)
            texts[name], first, total, _ = await answer(program, engines, question)
            times[name].append((first, total))
        hand_overs += len(log.hand_overs)
        called += bool(log.hand_overs)
        differing += [question] if texts["in process"] != texts["over http"] else []
        for name in ("student", "teacher"):
            _, first, total, _ = await answer(direct(name, EFFORT, None), engines, question)
            times[name].append((first, total))
    report: dict[str, Any] = {
        "questions": len(questions),
        "questions_with_hand_overs": called,
        "hand_overs": hand_overs,
        "differing": differing,
        "median_s": {
            name: {"first_token": median(f for f, _ in rows), "total": median(t for _, t in rows)}
            for name, rows in times.items()
        },
    }
    if process is not None and kills:
        report["kills"] = await _killed(questions, kills, engines, tokenizer, engine, process)
    await remote.aclose()
    await engine.aclose()
    return report


async def _killed(
    questions: list[str],
    kills: int,
    engines: Mapping[str, Engine],
    tokenizer: Path,
    engine: EmbeddedEngine,
    process: TeacherProcess,
) -> dict[str, int]:
    """Kill the teacher inside a hand-over of nine tokens, again and again."""
    student = CallingEngine(engine, tokenizer, after=" is", tokens=9)
    counts = {"killed": 0, "answered": 0, "failed_requests": 0, "hand_overs_failed": 0}
    for place in range(kills):
        log = RelayLog()
        program = relay(arm_of("student", "remote"), None, FORMAT, LIMITS, log)
        question = questions[place % len(questions)]
        try:
            text, _, _, run = await answer(program, {**engines, "student": student}, question, process)
            counts["answered"] += bool(text.strip()) and run.finish is not None
        except Exception:
            counts["failed_requests"] += 1
            raise
        counts["killed"] += 1
        counts["hand_overs_failed"] += any(each.outcome == "failed" for each in log.hand_overs)
        await asyncio.to_thread(process.kill)
        await asyncio.to_thread(process.start)
    return counts


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument(
        "--teacher", default=None, help="URL of a server that is already there; it is not killed."
    )
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    questions = [question.text for question in relay_bench.draw_questions(given.n, seed=1)]
    process = None if given.teacher else TeacherProcess()
    if process is not None:
        process.start()
    try:
        url = given.teacher or (process.url if process else "")
        report = asyncio.run(measure(questions, url, given.kills, process))
    finally:
        if process is not None:
            process.kill()
    report = {
        "machine": msgspec.to_builtins(machine.machine()),
        "commit": machine.commit(),
        "load_average": machine.load_average(),
        "command": " ".join(["python benchmarks/relay.py", *sys.argv[1:]]),
        "teacher": given.teacher or "thinkroute fleet serve",
        **report,
    }
    text = json.dumps(report, indent=2)
    sys.stdout.write(text + "\n")
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
