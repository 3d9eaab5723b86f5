"""The benchmark of the gateway's overhead runs from end to end; its numbers are judged by nobody here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What the quick benchmark printed, and the file it wrote."""
    if sys.platform != "linux":
        pytest.skip("CPU time of another process is read the Linux way")
    output = tmp_path_factory.mktemp("overhead") / "result.json"
    done = subprocess.run(
        [
            sys.executable,
            "benchmarks/overhead.py",
            "--quick",
            "--no-embedded",
            "--check",
            "--output",
            str(output),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert output.exists(), done.stderr
    return done.stdout, json.loads(output.read_text())


def test_every_request_through_the_gateway_is_measured_and_recorded(run: tuple[str, dict[str, Any]]) -> None:
    _, result = run
    assert result["records"] == sum(row["requests"] for row in result["comparisons"]) > 0
    assert sum(result["arms_chosen"].values()) == result["records"]


def test_the_gateway_costs_more_than_nothing(run: tuple[str, dict[str, Any]]) -> None:
    """The upstream alone is quicker, and the gateway's process was the one whose CPU clock was read."""
    _, result = run
    for row in result["comparisons"]:
        assert 0 < row["direct"]["ttft_p50_ms"]["median"] <= row["direct"]["p50_ms"]["median"]
        assert row["cpu_us_per_request"]["low"] > 50
    single = result["comparisons"][0]
    assert single["direct"]["p50_ms"]["median"] < single["gateway"]["p50_ms"]["median"]


def test_a_result_says_where_it_comes_from(run: tuple[str, dict[str, Any]]) -> None:
    _, result = run
    assert result["machine"]["cores"] >= 1
    assert result["machine"]["versions"]["aiohttp"]
    assert len(result["load_before"]) == len(result["load_after"]) == 3
    assert result["command"].startswith("python benchmarks/overhead.py --quick")
    assert result["gateway"]["router"].startswith("knn:")


def test_every_threshold_names_something_that_is_measured(run: tuple[str, dict[str, Any]]) -> None:
    said, _ = run
    missing = [line for line in said.splitlines() if "not measured" in line]
    assert all("embedded." in line for line in missing), missing
