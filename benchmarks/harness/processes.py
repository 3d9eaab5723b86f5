"""Child processes that always end, and what Linux tells of a process: CPU time and memory."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1]
_READY_LIMIT_S = 60.0
_END_LIMIT_S = 15.0
_CPU_CLOCK = 2
"""`CPUCLOCK_SCHED`: a process's clock id is its inverted pid shifted by three, with this (clock_getcpuclockid(3))."""


def cpu_s(pid: int) -> float:
    """User and system seconds of another process and all its threads, to the nanosecond."""
    return time.clock_gettime((~pid << 3) | _CPU_CLOCK)


def rss_mb(pid: int) -> float:
    """Resident memory of a process in 10^6 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} has no resident memory: it has ended")


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(state: Path) -> dict[str, str]:
    """What children run with: byte code may be cached, as in any installation; state goes to a folder of ours."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "XDG_STATE_HOME": str(state), "NO_COLOR": "1"}


@contextmanager
def child(arguments: Sequence[str], state: Path, log: Path) -> Generator[subprocess.Popen[str]]:
    """A Python process, ended when the block is left: asked first, killed when it does not listen."""
    with log.open("a") as errors:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=BENCHMARKS,
            env=environment(state),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=_END_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@contextmanager
def upstream(state: Path) -> Generator[int]:
    """The trivial upstream; gives its port."""
    with child(["-m", "harness.upstream"], state, state / "upstream.log") as process:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise RuntimeError(f"the upstream did not start: {(state / 'upstream.log').read_text()}")
        yield int(line)


@contextmanager
def bare_proxy(upstream_port: int, state: Path) -> Generator[tuple[int, int]]:
    """The bare proxy in front of the upstream; gives its pid and port."""
    port = free_port()
    command = ["-m", "harness.bare_proxy", str(port), str(upstream_port)]
    with child(command, state, state / "bare_proxy.log") as process:
        _wait(process, port, state / "bare_proxy.log", is_open)
        yield process.pid, port


@contextmanager
def gateway(arguments: Sequence[str], port: int, state: Path) -> Generator[tuple[int, float]]:
    """`thinkroute serve` with these arguments; gives its pid and the seconds until it was ready."""
    log = state / "gateway.log"
    command = [
        "-m",
        "thinkroute.cli.main",
        "serve",
        "--port",
        str(port),
        "--log-level",
        "warning",
        *arguments,
    ]
    began = time.perf_counter()
    with child(command, state, log) as process:
        _wait(process, port, log, is_ready)
        yield process.pid, time.perf_counter() - began


def _wait(process: subprocess.Popen[str], port: int, log: Path, ready: Callable[[int], bool]) -> None:
    deadline = time.monotonic() + _READY_LIMIT_S
    while not ready(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"a process did not become ready: {log.read_text()[-2000:]}")
        time.sleep(0.005)


def is_open(port: int) -> bool:
    """Whether anybody listens on this loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_ready(port: int) -> bool:
    """Whether the gateway on this port answers `/readyz` with 200."""
    if not is_open(port):  # quicker than a whole HTTP client
        return False
    try:
        return bool(get(port, "/readyz"))
    except urllib.error.URLError:
        return False


def get(port: int, path: str) -> bytes:
    """The body of a GET on loopback."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
        return response.read()


def post(port: int, path: str, body: bytes) -> bytes:
    """The body of a JSON POST on loopback."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data=body, headers={"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        return response.read()
