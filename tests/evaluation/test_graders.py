"""Graders on answers as models write them."""

import pytest

from thinkroute.errors import ConfigError, DataError
from thinkroute.evaluation.graders import contains, exact, grader_named, multiple_choice, number


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("The answer is 42.", "42", True),
        ("First 7, then 1,234", "1234", True),
        ("She makes $18 a day.\n#### 18", "#### 18", True),
        ("#### 5 (not 6)", "6", True),
        (r"so \boxed{\frac{1}{2}} of 10", "0.5", True),
        ("3 / 4", "0.75", True),
        ("minus: −3", "-3", True),
        (".5", "1/2", True),
        ("It is 41", "42", False),
        ("no idea", "42", False),
        ("", "0", False),
        ("1/0", "0", False),
    ],
)
def test_the_final_number_is_compared_exactly(answer: str, reference: str, right: bool) -> None:
    assert number(answer, reference) == float(right)


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("B", "B", True),
        ("(B) because A is wrong", "B", True),
        ("The answer is (C). A would need more.", "C", True),
        ("I think option b fits", "B", True),
        ("**D**", "D", True),
        ("A) no, B) maybe, C) yes. Answer: C", "C", True),
        ("Let me think. It must be B.", "B", True),
        ("Apples are red", "A", False),
        ("A.", "B", False),
        ("", "A", False),
    ],
)
def test_the_letter_chosen_is_found(answer: str, reference: str, right: bool) -> None:
    assert multiple_choice(answer, reference) == float(right)


def test_exact_forgives_case_space_and_punctuation_only() -> None:
    assert exact(" Paris. ", "paris") == 1.0
    assert exact("Paris, France", "Paris") == 0.0


def test_contains_wants_whole_words_in_order() -> None:
    assert contains("It is the Eiffel Tower!", "eiffel tower") == 1.0
    assert contains("tower of Eiffel", "eiffel tower") == 0.0
    assert contains("cats", "cat") == 0.0


def test_a_reference_of_the_wrong_kind_is_an_error_not_a_wrong_answer() -> None:
    with pytest.raises(DataError, match="no number"):
        number("3", "three")
    with pytest.raises(DataError, match="not a letter"):
        multiple_choice("A", "yes")


def test_graders_are_found_by_name_or_by_import() -> None:
    assert grader_named("number") is number
    assert grader_named("thinkroute.evaluation.graders:exact") is exact
    with pytest.raises(ConfigError, match="exact, contains, number, multiple_choice"):
        grader_named("judge")
    with pytest.raises(ConfigError, match="cannot be imported"):
        grader_named("thinkroute.nothing:here")
