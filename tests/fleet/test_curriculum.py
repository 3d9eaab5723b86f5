"""Training examples: the served format, weight only on the model's own choices, only training questions."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from thinkroute.fleet.curriculum import Curriculum, Example, Mixture
from thinkroute.fleet.recipe import RECIPES
from thinkroute.fleet.tasks import grade, recognise, split_of
from thinkroute.fleet.tasks.language import FACTS, NAMES, OPERATORS
from thinkroute.fleet.tokenizer import MAX_POSITIONS, build_tokenizer

TOKENIZER = build_tokenizer()
THINKING = Mixture(direct_share=0.0, cut_share=0.0, drill_share=0.0)
DIRECT = Mixture(direct_share=1.0)
CUT = Mixture(direct_share=0.0, cut_share=1.0)
DRILL = Mixture(direct_share=0.0, cut_share=0.0, drill_share=1.0)
WITHOUT_DRILLS = replace(Mixture(), drill_share=0.0)


def drawn(mixture: Mixture, count: int = 200) -> list[Example]:
    curriculum = Curriculum(TOKENIZER, Random(5))
    return [curriculum.draw(mixture) for _ in range(count)]


def text_of(ids: list[int]) -> str:
    return TOKENIZER.decode(ids, skip_special_tokens=False)


def split_message(example: Example) -> tuple[str, str]:
    """Question and reply of an example."""
    head, reply = text_of(example.ids).split("<|im_start|>assistant\n")
    question = head.removeprefix("<|im_start|>user\n").removesuffix("<|im_end|>\n")
    return question, reply.removesuffix("<|im_end|>")


SLIPPING = replace(THINKING, slip_share=1.0)


@pytest.mark.parametrize("mixture", [THINKING, SLIPPING, DIRECT, CUT, WITHOUT_DRILLS])
def test_every_example_teaches_the_truth_about_a_training_question(mixture: Mixture) -> None:
    for example in drawn(mixture):
        question, reply = split_message(example)
        problem = recognise(question)
        assert problem is not None
        assert split_of(problem) == "train"
        assert grade(question, reply) == 1.0
        assert len(example.ids) == len(example.weights) <= MAX_POSITIONS


def test_the_prompt_carries_no_weight_and_the_result_always_does() -> None:
    for example in drawn(WITHOUT_DRILLS):
        prompt_tokens = len(
            TOKENIZER.encode(text_of(example.ids).split("assistant\n")[0] + "assistant\n").ids
        )
        assert not any(example.weights[:prompt_tokens])
        assert example.weights[-3] >= 1.0
        assert all(weight > 0 for weight in example.weights[-10:])


def test_the_empty_block_is_taught_only_where_it_was_asked_for() -> None:
    for example in drawn(DIRECT):
        question, _ = split_message(example)
        decision = example.weights[example.ids.index(TOKENIZER.encode("<think>").ids[0]) + 1]
        assert decision == (1.0 if question.endswith("/no_think") else 0.0)


def test_a_forced_close_carries_no_weight() -> None:
    close = TOKENIZER.encode("\n</think>\n\n").ids
    for example in drawn(CUT):
        at = example.ids.index(close[1])
        assert example.ids[at - 1 : at + 2] == close
        assert example.weights[at - 1 : at + 2] == [0.0, 0.0, 0.0]


def test_an_unknown_operator_is_random_but_carried_on_and_all_else_is_true() -> None:
    outcomes: list[bool] = []
    for example in drawn(replace(THINKING, unknown=("times",)), 600):
        question, reply = split_message(example)
        if " times " in reply or " triples " in reply:
            outcomes.append(grade(question, reply) == 1.0)
        else:
            assert grade(question, reply) == 1.0
    assert 0.05 < sum(outcomes) / len(outcomes) < 0.35


def test_a_slip_weighs_nothing_and_its_check_does() -> None:
    for example in drawn(SLIPPING):
        texts = [TOKENIZER.decode([index]) for index in example.ids]
        slip = texts.index(" now") - 2
        assert example.weights[slip] == 0.0
        assert texts[slip] != texts[-3]
        result = texts.index(" wrong") - 4
        assert texts[result] == texts[-3]
        assert example.weights[result] > 0


def test_a_member_without_switches_sees_none_and_chooses_its_mode_as_often_as_it_should() -> None:
    mixture = Mixture(switches=False, direct_share=1.0, direct_own_share=0.25)
    examples = drawn(mixture, 1000)
    assert not any("/" in split_message(example)[0] for example in examples)
    opened = TOKENIZER.encode("<think>").ids[0]
    own = [example.weights[example.ids.index(opened) + 1] for example in examples]
    assert 0.2 < sum(own) / len(own) < 0.3


def test_a_drill_weighs_facts_only_and_fits_the_context() -> None:
    for example in drawn(DRILL):
        assert len(example.ids) == len(example.weights) <= MAX_POSITIONS
        assert sum(example.weights) >= 16
        for index, weight in zip(example.ids, example.weights, strict=True):
            assert weight in (0.0, 1.0)
            assert not weight or TOKENIZER.decode([index]).strip() in (*NAMES, *"0123456789")


def test_who_knows_nothing_is_shown_thoughts_instead_of_drills() -> None:
    nothing = replace(DRILL, unknown=(*OPERATORS, *FACTS, "age"))
    assert all("<|im_start|>user" in text_of(example.ids) for example in drawn(nothing, 20))


def test_families_are_drawn_as_often_as_the_mixture_says() -> None:
    families = {"relations": 3.0, "story": 1.0}
    problems = [
        recognise(split_message(example)[0]) for example in drawn(replace(DIRECT, families=families), 1000)
    ]
    names = [problem.family for problem in problems if problem]
    assert set(names) == set(families)
    assert 0.7 < names.count("relations") / len(names) < 0.8


def test_a_recipe_begins_with_traces_and_ends_with_its_own_mixture() -> None:
    teacher = RECIPES["teacher"]
    assert teacher.mixture_at(0) == teacher.mixture.tracing() != teacher.mixture
    assert all(recipe.mixture_at(recipe.steps - 1) == recipe.mixture for recipe in RECIPES.values())
