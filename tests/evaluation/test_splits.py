"""Splits never let a question stand on both sides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkroute.errors import DataError
from thinkroute.evaluation.splits import normalise, split, text_groups
from thinkroute.routers import OutcomeTable


def table_of(
    texts: list[str], tasks: list[str | None] | None = None, splits: list[str | None] | None = None
) -> OutcomeTable:
    return OutcomeTable(
        query_ids=tuple(map(str, range(len(texts)))),
        texts=tuple(texts),
        arms=("a", "b"),
        measured={"quality": np.full((len(texts), 2), 0.5)},
        tasks=tuple(tasks or ()),
        splits=tuple(splits or ()),
    )


def test_case_space_and_punctuation_do_not_make_a_new_question() -> None:
    assert normalise("What  is 2+2?") == normalise("what is 2 + 2")
    assert normalise("\uff37\uff28\uff39") == "why"
    assert normalise("x < 3") != normalise("x < 4")
    assert normalise("???") != normalise("!!!")


@given(st.lists(st.sampled_from("abcdefgh"), min_size=4, max_size=40), st.integers(0, 9), st.floats(0.1, 0.9))
@settings(deadline=None)
def test_equal_texts_stay_together_and_every_row_of_a_test_text_is_tested(
    texts: list[str], seed: int, share: float
) -> None:
    table = table_of(texts)
    try:
        train, test = split(table, "iid", seed, share)
    except DataError:
        assert len(set(texts)) == 1
        return
    assert not {texts[int(i)] for i in train} & {texts[int(i)] for i in test}
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(len(texts)))


def test_a_seed_gives_the_same_split_and_another_seed_another() -> None:
    table = table_of([f"question {i}" for i in range(50)])
    same = [split(table, "iid", seed=3)[1].tolist() for _ in range(2)]
    assert same[0] == same[1]
    assert same[0] != split(table, "iid", seed=4)[1].tolist()
    assert len(same[0]) == 15


def test_unseen_tasks_are_whole_and_their_texts_are_unlearned() -> None:
    texts, tasks = ["one", "two", "three", "two"], ["x", "x", "y", "y"]
    table = table_of(texts, [*tasks])
    for seed in range(4):
        train, test = split(table, "task", seed)
        tested = {tasks[int(i)] for i in test}
        assert len(tested) == 1
        assert {tasks[int(i)] for i in train}.isdisjoint(tested)
        assert not {texts[int(i)] for i in train} & {texts[int(i)] for i in test}


def test_the_sources_own_split_is_kept_but_leaks_are_not_learned() -> None:
    table = table_of(["one", "two", "three", "One!"], splits=["train", "train", "test", "test"])
    train, test = split(table, "source", seed=0)
    assert train.tolist() == [1]
    assert test.tolist() == [2, 3]


def test_impossible_splits_are_refused() -> None:
    with pytest.raises(DataError, match="two task labels"):
        split(table_of(["one", "two"]), "task", 0)
    with pytest.raises(DataError, match="no 'train' rows"):
        split(table_of(["one", "two"]), "source", 0)
    with pytest.raises(DataError, match="leaves nothing"):
        split(table_of(["one", "ONE"]), "iid", 0)


def test_groups_are_numbered_by_first_appearance() -> None:
    assert text_groups(table_of(["b", "a", "B!"])).tolist() == [0, 1, 0]
