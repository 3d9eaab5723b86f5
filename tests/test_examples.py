"""Examples run as they are, and what the documents show is true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from thinkroute.config import parse_config, resolve

ROOT = Path(__file__).parent.parent


def run_example(name: str) -> str:
    script = ROOT / "examples" / name
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_transcript_shows_a_decision_a_relay_a_cascade_and_a_cut_and_stands_in_the_readme() -> None:
    transcript = run_example("transcript.py")
    easy, rare, hard, cut = transcript.strip().split("\n\n")
    assert "(not at all)" in easy
    assert "in 2 call(s)" in easy, "the decision is a call of its own"
    assert re.search(r"served   relay\(student-relay -> teacher\)@on \(best_utility\)", rare)
    assert re.search(r"served   cascade\(.*\) \(best_utility\): \d+ prompt, [1-9]", hard)
    assert "in 2 call(s)" in cut
    thoughts = [re.search(r"thinks   (.*)", block) for block in (hard, cut)]
    whole, beginning = (thought[1] if thought else "" for thought in thoughts)
    assert beginning
    assert whole.startswith(beginning)
    shown = re.search(
        r"<!-- transcript:begin -->\n```text\n(.*?)\n```\n", (ROOT / "README.md").read_text(), re.DOTALL
    )
    assert shown is not None
    assert shown[1] == transcript.strip(), "run `make transcript` and paste its output"


def test_the_dial_moves_from_cheap_to_sure() -> None:
    said = run_example("library.py")
    costs = [float(cost) for cost in re.findall(r"right answer: .+, \$([\d.]+)", said)]
    assert len(costs) == 2
    assert costs[0] < costs[1]


@pytest.mark.parametrize("example", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_examples_are_short(example: str) -> None:
    assert len((ROOT / "examples" / example).read_text(encoding="utf-8").splitlines()) < 65


def test_the_configuration_of_the_readme_is_valid() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        resolve(parse_config(block, source="README.md", environment={}))


def test_links_of_the_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
