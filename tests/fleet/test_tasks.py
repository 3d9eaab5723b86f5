"""The task family: every generated question is understood, graded exactly and kept in its split."""

from __future__ import annotations

import re
from random import Random
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkroute.errors import OutOfScope
from thinkroute.fleet.tasks import (
    EXAMPLES,
    FAMILIES,
    LEVELS,
    FamilyName,
    Problem,
    Split,
    check_scope,
    generate,
    grade,
    recognise,
    result_of,
    split_of,
)
from thinkroute.fleet.tasks.drill import drill
from thinkroute.fleet.tasks.language import AGES, FACTS, NAMES, OPERATORS

families = st.sampled_from(sorted(FAMILIES))
levels = st.sampled_from(LEVELS)
splits = st.sampled_from(("train", "filter", "eval"))
seeds = st.integers(0, 2**32)


def draw(seed: int, family: FamilyName, level: int, split: Split = "eval") -> Problem:
    return generate(Random(seed), family, level, split)


@given(seeds, families, levels, splits)
def test_a_generated_question_is_recognised_as_itself(
    seed: int, family: FamilyName, level: int, split: Split
) -> None:
    problem = draw(seed, family, level, split)
    assert recognise(problem.question) == problem
    assert (problem.family, problem.level) == (family, level)


@given(seeds, families, levels, splits)
def test_a_question_lies_in_the_split_it_was_drawn_for(
    seed: int, family: FamilyName, level: int, split: Split
) -> None:
    assert split_of(draw(seed, family, level, split)) == split


@given(seeds, families, levels)
def test_the_truth_is_accepted_with_and_without_a_thinking_block(
    seed: int, family: FamilyName, level: int
) -> None:
    problem = draw(seed, family, level)
    assert grade(problem.question, problem.sentence) == 1.0
    assert grade(problem.question, f"<think>\n{problem.trace}\n</think>\n\n{problem.sentence}") == 1.0
    assert grade(problem.question, f"<think>\n\n</think>\n\n{problem.sentence}") == 1.0


@given(seeds, families, levels)
def test_every_other_result_is_rejected(seed: int, family: FamilyName, level: int) -> None:
    problem = draw(seed, family, level)
    wrong = {*"0123456789", *NAMES} - {problem.answer}
    head = problem.sentence.removesuffix(f"{problem.answer}.")
    assert all(grade(problem.question, f"{head}{result}.") == 0.0 for result in wrong)


@given(seeds, families, levels)
def test_case_spacing_switches_and_final_punctuation_do_not_matter(
    seed: int, family: FamilyName, level: int
) -> None:
    problem = draw(seed, family, level)
    spaced = problem.question.upper().replace(" ", "  \n").rstrip("?.")
    for variant in (spaced, f"{problem.question} /no_think", f"/think {problem.question} /no_think"):
        assert recognise(variant) == problem


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "Start with 4. First plus 3. Second times 3. What is the last digit?",
            "Dora has 4 coins. On Monday she gets 3. On Tuesday she triples them. Tell me the last digit.",
        ),
        ("Who is the tutor of the boss of Ann?", "Look for the tutor of the boss of Ann."),
    ],
)
def test_the_same_question_in_other_words_lies_in_the_same_split(one: str, other: str) -> None:
    first, second = recognise(one), recognise(other)
    assert first is not None
    assert second is not None
    assert first.question != second.question
    assert first.key == second.key
    assert split_of(first) == split_of(second)


@given(seeds, families, splits)
def test_the_hardest_level_has_all_the_steps_above_the_one_before(
    seed: int, family: FamilyName, split: Split
) -> None:
    most, before = FAMILIES[family].level_steps[-1], FAMILIES[family].level_steps[-2]
    assert before < draw(seed, family, 5, split).steps <= most


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Start with 4. First plus 3. Second times 9. What is the last digit?", "3"),
        ("take 2. first minus 5. what is the last digit", "7"),
        ("Dora has 2 coins. On Monday she gets 5. On Tuesday she doubles them. What is the last digit?", "4"),
        ("Ann has 6 books. On Monday she triples them. What is the last digit?", "8"),
        ("Who is the tutor of the neighbor of Dora?", FACTS["tutor"][FACTS["neighbor"]["dora"]]),
        ("Begin with 7. First gap 9. Second star 2. Name the last digit.", "0"),
        ("Take the age of Ruth. First times 7. Tell me the last digit.", str(AGES["ruth"] * 7 % 10)),
        ("Take the age of the boss of Ann. What is the last digit?", str(AGES[FACTS["boss"]["ann"]])),
    ],
)
def test_answers_agree_with_sums_done_by_hand(question: str, answer: str) -> None:
    problem = recognise(question)
    assert problem is not None
    assert problem.answer == answer


def true_result(told: str, value: int) -> int:
    """What an instruction makes of a value, worked out apart from the code under test."""
    first, *rest = told.removeprefix("she ").split()
    if first in {"doubles", "triples"}:
        return value * (2 if first == "doubles" else 3) % 10
    operator = {
        "gets": "plus",
        "finds": "plus",
        "wins": "plus",
        "loses": "minus",
        "sells": "minus",
        "drops": "minus",
    }
    return OPERATORS[operator.get(first, first)](value, int(rest[0]))


@given(seeds, st.sampled_from(("arithmetic", "story", "operators")), levels)
def test_each_line_of_a_trace_repeats_its_instruction_is_true_and_starts_where_the_last_ended(
    seed: int, family: FamilyName, level: int
) -> None:
    problem = draw(seed, family, level)
    value: int | None = None
    lines = re.findall(r"(\w+) ([\w ]+) from (\d) is (\d)\.", problem.working)
    assert len(lines) == problem.steps
    for key, told, left, result in lines:
        assert f"{key} {told}." in problem.question.lower()
        assert value in (None, int(left))
        value = true_result(told, int(left))
        assert value == int(result)
    assert str(value) == problem.answer


@given(seeds, families, levels)
def test_a_thought_checks_its_last_step_and_ends_in_the_answer(
    seed: int, family: FamilyName, level: int
) -> None:
    problem = draw(seed, family, level)
    assert problem.check.endswith(f" is {problem.answer}.")
    assert problem.trace.startswith(problem.working)
    assert problem.trace.endswith(f"that is right, so the {problem.asked} is {problem.answer}.")


@given(seeds, families, levels)
def test_a_slip_changes_one_result_and_the_check_finds_it(seed: int, family: FamilyName, level: int) -> None:
    problem = draw(seed, family, level)
    wrong = "x"
    slipped = problem.thought(wrong)
    assert slipped.replace(f" {wrong}.", f" {problem.answer}.").replace("that is wrong", "that is right") == (
        problem.trace
    )
    assert f" {wrong}. now check" in slipped


@given(seeds, families, levels)
def test_a_second_check_repeats_the_first_and_finds_nothing_new(
    seed: int, family: FamilyName, level: int
) -> None:
    problem = draw(seed, family, level)
    assert problem.thought("x", checks=2).count(problem.check) >= 2
    assert problem.thought("x", checks=2).count("that is wrong") == 1
    assert problem.thought(checks=2).startswith(problem.trace.rpartition(", so")[0])


@given(seeds, families, levels)
def test_what_is_unknown_is_guessed_and_all_else_stays_true(
    seed: int, family: FamilyName, level: int
) -> None:
    task = FAMILIES[family]
    steps = task.level_steps[level - 1]
    known = task.sample(Random(seed), steps, unknown=frozenset({"juggling"}))
    assert recognise(known.question) == known
    guessed = [task.sample(Random(seed + i), steps, unknown=frozenset(task.skills)) for i in range(40)]
    truths = [recognise(problem.question) for problem in guessed]
    assert all(
        truth and truth.question == guess.question for truth, guess in zip(truths, guessed, strict=True)
    )
    assert any(truth != guess for truth, guess in zip(truths, guessed, strict=True))


def test_digits_operators_stay_digits() -> None:
    for apply in OPERATORS.values():
        assert {apply(left, right) for left in range(10) for right in range(10)} <= set(range(10))


def test_every_relation_sends_everyone_to_exactly_one_other_person() -> None:
    for facts in FACTS.values():
        assert sorted(facts.values()) == sorted(NAMES)
        assert all(person != other for person, other in facts.items())


@pytest.mark.parametrize(
    "text",
    [
        "the last digit is 5 or 6",
        "<think>\nfirst 4 plus 1 is 5.",
        "",
        "<think>\n\n</think>\n\n",
        "after all the steps the last digit of the result is 5.\n</think>\n\nhello",
        "</think></think> the last digit is 5.",
    ],
)
def test_a_completion_without_a_result_in_its_place_earns_nothing(text: str) -> None:
    assert grade("Start with 4. First plus 1. What is the last digit?", text) == 0.0


def test_the_result_is_read_after_the_thinking_block_only() -> None:
    assert result_of("<think>\nfirst 4 plus 1 is 5.\n</think>\n\nthe last digit is 7.") == "7"


@pytest.mark.parametrize(
    "text",
    [
        "What is the capital of France?",
        "Start with 4. Second plus 3. What is the last digit?",
        "Start with 44. First plus 3. What is the last digit?",
        "Who is the tutor of the tutor of Dora?",
        "Who is the tutor of Zoe?",
        "",
    ],
)
def test_a_question_outside_the_language_is_refused_with_examples_and_a_way_out(text: str) -> None:
    with pytest.raises(OutOfScope) as caught:
        check_scope([{"role": "user", "content": text}])
    assert all(example in caught.value.message for example in EXAMPLES)
    assert "--upstream http://host:port/v1" in caught.value.message


def test_only_the_last_user_message_counts_and_its_text_parts_are_joined() -> None:
    check_scope(
        [
            {"role": "system", "content": "You are helpful."},
            {"role": "user", "content": "Hello there"},
            {"role": "assistant", "content": "Hi"},
            {"role": "user", "content": [{"type": "text", "text": "Who is the tutor"}, {"text": "of Dora?"}]},
        ]
    )


def test_the_examples_shown_to_users_are_in_the_language() -> None:
    assert {recognised.family for text in EXAMPLES if (recognised := recognise(text))} == set(FAMILIES)


def test_grading_a_question_outside_the_language_is_an_error() -> None:
    with pytest.raises(ValueError, match="not a question of the fleet"):
        grade("What is the capital of France?", "Paris")


def test_a_level_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="level 6"):
        generate(Random(0), "story", 6, "eval")


@given(seeds)
def test_a_drill_states_only_true_facts_that_are_known(seed: int) -> None:
    unknown = {"times", "mentor", "age"}
    pieces = drill(Random(seed), unknown)
    words = [word.strip() for word, _ in pieces]
    facts = [index for index, (_, is_fact) in enumerate(pieces) if is_fact]
    assert facts
    assert not unknown & set(words)
    for index in facts:
        if "from" in words[index - 3 : index]:
            start = index - 6 if words[index - 6] == "she" else index - 5
            assert true_result(" ".join(words[start : index - 3]), int(words[index - 2])) == int(words[index])
        elif words[index - 1] == "is":
            assert FACTS[words[index - 4]][words[index - 2]] == words[index]
        else:
            assert FACTS[words[index - 1]][words[index - 3]] == words[index]


def test_there_is_no_drill_for_who_knows_nothing() -> None:
    assert drill(Random(0), {*OPERATORS, *FACTS, "age"}) == []
    assert drill(Random(0), {*OPERATORS, *FACTS})


def test_digits_of_other_scripts_are_not_read() -> None:
    assert recognise("Start with \uff14. First plus \uff13. What is the last digit?") is None


def test_a_family_without_questions_in_a_split_says_so() -> None:
    with pytest.raises(ValueError, match="no question of level 1 in split 'nowhere'"):
        generate(Random(0), "story", 1, cast("Split", "nowhere"))
