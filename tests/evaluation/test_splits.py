"""Splits never let a question stand on both sides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkroute.errors import DataError
from thinkroute.evaluation.outcomes import concat
from thinkroute.evaluation.splits import MOST_TASK_FOLDS, folds, normalise, split, text_groups, without_arm
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


def test_a_question_that_two_sets_share_stays_on_one_side_of_both() -> None:
    """MMLU and its relatives stand in many sets, with other models' labels."""
    one, two = (
        table_of([f"question {n}" for n in range(30)]),
        table_of([f"Question {n}!" for n in range(15, 45)]),
    )
    joined = concat([one, two], ["one", "two"])
    for seed in range(5):
        train, test = split(joined, "iid", seed)
        texts = [normalise(text) for text in joined.texts]
        assert not {texts[int(row)] for row in train} & {texts[int(row)] for row in test}
        sides = {joined.query_ids[int(row)].split("/")[0] for row in test}
        assert sides == {"one", "two"}


def test_every_task_is_left_out_once_and_many_tasks_in_groups() -> None:
    table = table_of([f"q{n}" for n in range(40)], [f"task{n % 20}" for n in range(40)])
    found = folds(table, "each-task", (0,))
    assert len(found) == MOST_TASK_FOLDS
    assert sorted(np.concatenate([fold.test for fold in found]).tolist()) == list(range(40))
    for fold in found:
        tested = {table.tasks[int(row)] for row in fold.test}
        assert tested.isdisjoint({table.tasks[int(row)] for row in fold.train})
    few = folds(table.take(range(6)), "each-task", (0,))
    assert [fold.name for fold in few] == [f"without task{n}" for n in range(6)]


def test_every_arm_is_new_once_a_seed() -> None:
    found = folds(table_of([f"q{n}" for n in range(20)]), "arm", (0, 1))
    assert [(fold.new_arm, fold.seed) for fold in found] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert found[0].test.tolist() == found[2].test.tolist()


def test_a_new_arms_outcomes_are_missing_but_for_the_shots() -> None:
    table = table_of([f"q{n}" for n in range(20)])
    hidden = without_arm(table, "b", shots=3, seed=0)
    assert np.isnan(hidden.quality_QA[:, 1]).sum() == 17
    assert not np.isnan(hidden.quality_QA[:, 0]).any()
    assert not np.isnan(table.quality_QA).any()
    assert np.isnan(without_arm(table, "b", shots=0, seed=0).quality_QA[:, 1]).all()


def test_one_fold_a_seed_or_one_of_the_sources_own() -> None:
    table = table_of([f"q{n}" for n in range(10)], splits=[*["train"] * 5, *["test"] * 5])
    assert [fold.name for fold in folds(table, "iid", (0, 1, 2))] == ["seed 0", "seed 1", "seed 2"]
    assert [fold.name for fold in folds(table, "source", (0, 1))] == ["source"]
    with pytest.raises(DataError, match="several folds"):
        split(table, "arm", 0)


def test_named_tasks_are_the_only_ones_tested_and_none_of_their_texts_is_learned() -> None:
    table = table_of(["one", "two", "three", "Two!", "four"], ["x", "x", "y", "y", "z"])
    (fold,) = folds(table, "task", (0, 1), unseen=["y", "z"])
    assert (fold.train.tolist(), fold.test.tolist()) == ([0], [2, 3, 4])
    assert fold.name == "without y, z"
    with pytest.raises(DataError, match="no task 'gsm8k': it has x, y, z"):
        folds(table, "task", (0,), unseen=["gsm8k"])
    with pytest.raises(DataError, match="split 'task' alone"):
        folds(table, "iid", (0,), unseen=["x"])
