"""What counts as the same question, and what a straddling one does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkroute.errors import DataError
from thinkroute.evaluation import leakage
from thinkroute.evaluation.leakage import (
    alike,
    audit,
    known_elsewhere,
    leaked_rows,
    shared_questions,
    without_leaks,
)
from thinkroute.evaluation.splits import Fold
from thinkroute.routers import OutcomeTable

STORY = (
    "a merchant from the north sold seven barrels of salted herring to an innkeeper and three to a priest before "
    "the market closed and the rain began to fall on the empty stalls"
)
OTHER = (
    "the observatory on the hill recorded eleven meteors during the first hour after midnight while the students "
    "were asleep beside their notebooks and the coffee went cold"
)


def rows(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    return np.array(numbers, dtype=np.intp)


def table_of(texts: list[str]) -> OutcomeTable:
    return OutcomeTable(
        query_ids=tuple(f"id{n}" for n in range(len(texts))),
        texts=tuple(texts),
        arms=("a", "b"),
        measured={"quality": np.full((len(texts), 2), 0.5)},
    )


def pairs_of(texts: list[str]) -> set[tuple[int, int]]:
    found = alike(texts)
    return set(zip(found.left_P.tolist(), found.right_P.tolist(), strict=True))


def test_a_changed_word_at_the_end_is_a_near_duplicate_and_another_question_is_not() -> None:
    assert pairs_of([STORY, OTHER, STORY + " again", OTHER.upper() + "!"]) == {(0, 2), (1, 3)}


def test_jaccard_is_the_share_of_common_runs_of_five_words() -> None:
    """Ten words have six runs of five; with a word more there are seven, six of them common: 6/7."""
    ten = "one two three four five six seven eight nine ten"
    found = alike([ten, ten + " eleven"])
    assert found.jaccard_P.tolist() == [pytest.approx(6 / 7)]
    assert found.contained_P.tolist() == [1.0]


def test_a_question_inside_another_prompt_is_contained_in_it() -> None:
    found = alike([STORY, f"Answer with one letter. {OTHER} Now: {STORY} Think first.", "unrelated"])
    assert (found.left_P.tolist(), found.right_P.tolist()) == ([0], [1])
    assert found.jaccard_P[0] < 0.8
    assert found.contained_P[0] == 1.0


def test_a_frame_around_every_prompt_makes_nobody_alike() -> None:
    """A preamble of a hundred words stands in all texts; what differs is the question."""
    frame = " ".join(f"rule{n}" for n in range(100))
    assert pairs_of([f"{frame} what is {n * 37} plus {n}" for n in range(30)]) == set()


def test_scripts_without_spaces_are_compared_by_character() -> None:
    text = "运行中变压器温度最高的部分是绕组还是铁芯请选择一个答案"
    assert pairs_of([text, text + "吧", "今天天气很好我们一起去公园散步好吗"]) == {(0, 1)}


def test_thinning_for_huge_tables_keeps_what_is_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{rng.integers(5000)}" for _ in range(400)) for _ in range(10)]
    texts += [text + " and one thing more" for text in texts[:5]]
    whole = alike(texts)
    monkeypatch.setattr(leakage, "_MOST_GRAMS", 1000)
    thinned = alike(texts)
    assert thinned.left_P.tolist() == whole.left_P.tolist() == [0, 1, 2, 3, 4]
    assert thinned.right_P.tolist() == whole.right_P.tolist() == [10, 11, 12, 13, 14]
    assert thinned.jaccard_P.tolist() != whole.jaccard_P.tolist()
    assert thinned.jaccard_P == pytest.approx(whole.jaccard_P, abs=0.05)


def test_short_and_empty_texts_are_alike_only_when_equal() -> None:
    assert pairs_of(["What is it?", "what is it", "what was it", "", "  ", "?"]) == {(0, 1)}


@given(st.lists(st.text(alphabet="abc ", max_size=30), min_size=2, max_size=12), st.randoms())
@settings(max_examples=60)
def test_order_does_not_matter(texts: list[str], source: object) -> None:
    forward = pairs_of(texts)
    last = len(texts) - 1
    assert {(last - right, last - left) for left, right in pairs_of(texts[::-1])} == forward


def test_an_equal_question_on_both_sides_fails_loudly() -> None:
    table = table_of(["What is 2+2?", "other", "what is 2 + 2"])
    fold = Fold("seed 0", rows(0, 1), rows(2), 0)
    with pytest.raises(DataError, match=r"leakage: 1 question\(s\) .* fold 'seed 0', e.g. 'what is 2 2'"):
        audit(table, [fold], alike(table.texts))


def test_near_duplicates_are_counted_by_tested_row_and_named_by_id() -> None:
    table = table_of([STORY, OTHER, STORY + " again", "something else entirely"])
    fold = Fold("seed 0", rows(0, 1), rows(2, 3), 0)
    found = audit(table, [fold], alike(table.texts))
    assert (found.near_share, found.contained_share) == (0.5, 0.5)
    assert [(pair.learned, pair.tested) for pair in found.examples] == [("id0", "id2")]
    assert leaked_rows([fold], alike(table.texts), 4)[0].tolist() == [True, False]


def test_leaking_rows_leave_training_and_never_the_test() -> None:
    texts = [STORY, OTHER, STORY + " again"]
    fold = without_leaks(Fold("seed 0", rows(0, 1), rows(2), 0), alike(texts), 3)
    assert (fold.train.tolist(), fold.test.tolist()) == ([1], [2])
    with pytest.raises(DataError, match="every learned question"):
        without_leaks(Fold("seed 0", rows(0), rows(2), 0), alike(texts), 3)


def test_questions_known_from_elsewhere_are_found_whatever_stands_around_them() -> None:
    texts = ["Who? ", STORY, "new", f"Consider this. {OTHER}"]
    assert known_elsewhere(texts, ["who", STORY + " again", OTHER]).tolist() == [True, True, False, True]
    assert known_elsewhere(texts, []).tolist() == [False] * 4


def test_shared_questions_are_counted_for_each_side() -> None:
    found = shared_questions(
        {"one": ["Who?", STORY, "x y z"], "two": ["who", STORY + " again"], "three": ["far"]}
    )
    assert [(s.table, s.other, s.equal, s.alike, s.rows) for s in found] == [
        ("one", "two", 1, 2, 3),
        ("two", "one", 1, 2, 2),
    ]
