"""Where a result was measured: commit, hardware, versions."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import msgspec

_PACKAGES = (
    "thinkroute", "uvicorn", "uvloop", "httptools", "aiohttp", "orjson", "msgspec", "numpy", "pydantic",
    "sqlalchemy", "prometheus-client", "onnxruntime",
)  # fmt: skip
_REPOSITORY = Path(__file__).resolve().parents[2]


class Machine(msgspec.Struct, frozen=True):
    """Hardware and software."""

    cpu: str
    cores: int
    memory_mb: int
    system: str
    python: str
    versions: dict[str, str]


def machine() -> Machine:
    """This machine."""
    return Machine(
        cpu=_field("/proc/cpuinfo", "model name") or platform.processor(),
        cores=os.cpu_count() or 0,
        memory_mb=int((_field("/proc/meminfo", "MemTotal") or "0").split()[0]) // 1000,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions={name: version(name) for name in _PACKAGES},
    )


def commit() -> str:
    """The commit measured, marked `-dirty` when sources differ from it; `unknown` outside a checkout."""
    try:
        head = _git("rev-parse", "HEAD")
        return f"{head}-dirty" if _git("status", "--porcelain", "--", "src", "benchmarks") else head
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def load_average() -> list[float]:
    """Over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=_REPOSITORY, check=True, capture_output=True, text=True
    ).stdout.strip()


def _field(path: str, name: str) -> str | None:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None
