"""Building a member end to end: a tiny one, from nothing to a served directory."""

from __future__ import annotations

from pathlib import Path

from thinkroute.fleet.build import build_member
from thinkroute.fleet.recipe import Recipe

TINY = Recipe("tiny", 16, 1, 2, 1, 8, 32, steps=20, learning_rate=1e-2, seed=1, tokens_per_step=256)


def test_a_member_is_trained_written_measured_and_described(tmp_path: Path) -> None:
    steps: list[int] = []
    report = build_member(
        TINY,
        tmp_path / "tiny",
        tmp_path / "work" / "tiny.checkpoint",
        questions=1,
        command="thinkroute fleet build --member tiny",
        progress=lambda step, loss: steps.append(step),
    )
    assert steps == [20]
    assert {cell.member for cell in report.cells} == {"tiny"}
    written = {path.name for path in (tmp_path / "tiny").iterdir()}
    assert written >= {
        "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "decoder.onnx", "decoder.json", "generation_config.json",
    }  # fmt: skip
