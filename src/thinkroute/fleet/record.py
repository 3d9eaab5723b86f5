"""Evaluations and speeds as JSON, with what is needed to judge and repeat it. Torch-free."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from thinkroute.fleet.bench import Speed
from thinkroute.fleet.evaluate import Report
from thinkroute.fleet.gates import judge
from thinkroute.fleet.tasks import LEVELS

SCHEMA = "thinkroute.fleet.evaluation/1"
SPEED_SCHEMA = "thinkroute.fleet.speed/1"


def _commit() -> str | None:
    """The commit of the working tree the package runs from; None when it is not one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None


def _origin(command: str) -> dict[str, object]:
    """What both records share: how it was measured, on what, with which code."""
    return {
        "command": command,
        "commit": _commit(),
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "versions": {name: version(name) for name in ("thinkroute", "onnxruntime", "numpy", "tokenizers")},
    }


def record_speeds(speeds: Sequence[Speed], *, command: str) -> str:
    """Speeds as JSON text, with where they come from."""
    content = {"schema": SPEED_SCHEMA, **_origin(command), "speeds": [asdict(speed) for speed in speeds]}
    return json.dumps(content, indent=1) + "\n"


def record(report: Report, members: Mapping[str, Path], *, seed: int, command: str) -> str:
    """The report as JSON text: every cell, a summary, and where it comes from."""
    arms = dict.fromkeys((cell.member, cell.effort) for cell in report.cells)
    summary = [
        {
            "member": member,
            "effort": effort,
            "accuracy": round(report.accuracy(member, effort), 4),
            "accuracy_by_level": [round(report.accuracy(member, effort, level), 4) for level in LEVELS],
            "generated_tokens": round(report.tokens(member, effort), 2),
        }
        for member, effort in arms
    ]
    content = {
        "schema": SCHEMA,
        **_origin(command),
        "seed": seed,
        "questions_per_family_and_level": report.cells[0].questions,
        "questions_per_level": report.cells[0].questions * len({cell.family for cell in report.cells}),
        "weights_sha256": {
            name: hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
            for name, path in members.items()
        },
        "gates": [asdict(gate) for gate in judge(report)],
        "summary": summary,
        "obedience": [asdict(line) for line in report.obedience],
        "cells": [asdict(cell) for cell in report.cells],
    }
    return json.dumps(content, indent=1) + "\n"
