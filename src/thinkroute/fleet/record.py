"""An evaluation as JSON, with what is needed to judge and repeat it. Torch-free."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from thinkroute.fleet.evaluate import Report
from thinkroute.fleet.tasks import LEVELS

SCHEMA = "thinkroute.fleet.evaluation/1"


def _commit() -> str | None:
    """The commit of the working tree the package runs from; None when it is not one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None


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
        "command": command,
        "commit": _commit(),
        "seed": seed,
        "questions_per_family_and_level": report.cells[0].questions,
        "machine": {"processor": platform.machine(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("thinkroute", "onnxruntime", "numpy", "tokenizers")},
        "weights_sha256": {
            name: hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
            for name, path in members.items()
        },
        "summary": summary,
        "obedience": [asdict(line) for line in report.obedience],
        "cells": [asdict(cell) for cell in report.cells],
    }
    return json.dumps(content, indent=1) + "\n"
