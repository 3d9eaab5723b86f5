"""The guide does what it says: its blocks run as they stand, on a free port and with fewer questions."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "train-a-router.md"
_BLOCK = re.compile(r"```(bash|yaml|python)\n(.*?)```", re.DOTALL)
_FILE = re.compile(r"# file: (\S+)\n")


def script(guide: str) -> str:
    """One shell script of all blocks in order; a block that names a file is written to it."""
    lines = ["set -e", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    for language, block in _BLOCK.findall(guide):
        named = _FILE.match(block)
        if named is None:
            assert language == "bash", f"a block of {language} that names no file"
            lines.append(block)
        else:
            lines.append(f"cat > {named[1]} <<'END_OF_FILE'\n{block}END_OF_FILE")
    return "\n".join(lines)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_guide_runs_from_collecting_to_learning(tmp_path: Path) -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    smaller = guide.replace("8080", str(free_port())).replace("--fleet 120", "--fleet 40")
    assert smaller.count("--fleet 40") == 1
    (tmp_path / "bin").mkdir()
    # The command of this very installation, whatever else is on the path.
    for name, arguments in (("thinkroute", "-m thinkroute.cli.main "), ("python", "")):
        command = tmp_path / "bin" / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n', encoding="utf-8")
        command.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "COLUMNS": "200",
    }
    done = subprocess.run(
        ["/bin/bash", "-c", script(smaller)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / "my-router" / "router.json").is_file()
    assert (tmp_path / "my-router-2" / "router.json").is_file()
    assert "best single" in (tmp_path / "leaderboard.md").read_text(encoding="utf-8").lower()
    assert "gateway.yaml is valid" in done.stdout
    assert "40 question(s)" in done.stdout, "every answer of the traffic was graded and exported"


def test_every_block_of_the_guide_is_a_command_or_a_file() -> None:
    made = script(GUIDE.read_text(encoding="utf-8"))
    for verb in ("collect", "fit", "evaluate", "serve", "export", "evaluate-log"):
        assert f"thinkroute {verb}" in made
