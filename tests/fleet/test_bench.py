"""The speed measurement: it asks what it says, and its record says how to repeat it."""

from __future__ import annotations

import json

import pytest

from thinkroute.fleet import shipped
from thinkroute.fleet.bench import BATCHES, Speed, draw_prompts, measure
from thinkroute.fleet.record import record_speeds
from thinkroute.fleet.tasks import FAMILIES, recognise


def test_prompts_go_through_all_families_and_repeat_with_the_seed() -> None:
    prompts = draw_prompts(30, seed=1)
    assert prompts == draw_prompts(30, seed=1) != draw_prompts(30, seed=2)
    assert {problem.family for prompt in prompts if (problem := recognise(prompt))} == set(FAMILIES)


def test_no_prompt_is_drawn_twice() -> None:
    """What was asked before is not computed again, so a repeated question would flatter the engine."""
    prompts = draw_prompts(400, seed=0)
    assert len(set(prompts)) == len(prompts) == 400


def test_the_record_keeps_every_measurement_and_the_command() -> None:
    speeds = [Speed("student", 8, 2, 100, 5000.0, None, 0.25)]
    content = json.loads(record_speeds(speeds, command="thinkroute fleet bench --n 256"))
    assert content["command"] == "thinkroute fleet bench --n 256"
    assert content["speeds"][0]["engine_tokens_per_s"] == 5000.0
    assert content["speeds"][0]["transformers_tokens_per_s"] is None
    assert content["speeds"][0]["reused_share"] == 0.25


@pytest.mark.slow
def test_the_engine_is_faster_than_transformers_at_every_batch_size() -> None:
    speeds = measure("student", shipped.directory("student"), questions=128, threads=2)
    assert [speed.batch for speed in speeds] == list(BATCHES)
    for speed in speeds:
        assert speed.transformers_tokens_per_s is not None
        assert speed.engine_tokens_per_s > speed.transformers_tokens_per_s
        assert 0 < speed.reused_share < 0.6
