"""Outcome tables on disk: nothing is lost, nothing is invented, and complaints name the place."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thinkroute.errors import DataError
from thinkroute.evaluation.outcomes import concat, read_outcomes, write_outcomes
from thinkroute.routers import Measure, OutcomeTable, table_from_outcomes
from thinkroute.routers.table import FloatArray
from thinkroute.types import Outcome, Query, Usage

NAN = float("nan")
pa: Any = import_module("pyarrow")
pq: Any = import_module("pyarrow.parquet")


def example() -> OutcomeTable:
    return OutcomeTable(
        query_ids=("q1", "q2", "q3"),
        texts=("None", "NA", "line one\nline two"),
        arms=("big@high", "small@off"),
        measured={
            "quality": np.array([[1.0, 0.25], [NAN, 0.0], [NAN, NAN]]),
            "answer_tokens": np.array([[12.0, NAN], [NAN, 0.0], [NAN, NAN]]),
        },
        tasks=("t", None, "u"),
        splits=("train", "test", None),
        finish_QA=np.array([["stop", "length"], ["error", ""], ["", ""]]),
        propensity_QA=np.array([[0.5, 0.5], [NAN, 1.0], [NAN, NAN]]),
        weight_Q=np.array([1.0, 2.0, 1.0]),
        notes={"source": "made here", "cost_basis": "none"},
    )


def same(one: OutcomeTable, two: OutcomeTable) -> None:
    assert one.digest() == two.digest()
    assert (one.tasks, one.splits, one.arms, dict(one.notes)) == (
        two.tasks,
        two.splits,
        two.arms,
        dict(two.notes),
    )
    for name in ("finish_QA", "propensity_QA", "weight_Q"):
        left, right = getattr(one, name), getattr(two, name)
        assert (left is None) == (right is None)
        if left is not None:
            np.testing.assert_array_equal(left, right)


def test_a_written_table_reads_back_the_same(tmp_path: Path) -> None:
    write_outcomes(example(), tmp_path / "deep" / "t.parquet")
    same(read_outcomes(tmp_path / "deep" / "t.parquet"), example())


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_table_reads_back_the_same(data: st.DataObject, tmp_path: Path) -> None:
    rows, arms = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    cell = st.one_of(st.floats(0, 1), st.just(NAN))
    grid = st.lists(st.lists(cell, min_size=arms, max_size=arms), min_size=rows, max_size=rows)
    text = st.text(st.characters(codec="utf-8"), max_size=9)
    table = OutcomeTable(
        query_ids=tuple(data.draw(st.lists(text, min_size=rows, max_size=rows, unique=True))),
        texts=tuple(data.draw(st.lists(text, min_size=rows, max_size=rows))),
        arms=tuple(data.draw(st.lists(text, min_size=arms, max_size=arms, unique=True))),
        measured={"quality": np.array(data.draw(grid)), "latency_s": np.array(data.draw(grid))},
    )
    write_outcomes(table, tmp_path / "t.parquet")
    same(read_outcomes(tmp_path / "t.parquet"), table)


def test_a_file_with_only_the_required_columns_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "foreign.parquet"
    rows = {
        "query_id": ["a", "a", "b"],
        "text": ["x", "x", "y"],
        "arm_id": ["m", "n", "m"],
        "quality": [1, 0, 1],
    }
    pq.write_table(pa.table(rows), path)
    table = read_outcomes(path)
    assert table.arms == ("m", "n")
    np.testing.assert_array_equal(table.quality_QA, [[1.0, 0.0], [1.0, NAN]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quality": [0.5, 1.5, 0.0]}, r"column 'quality', row 1: 1\.5 must be in \[0, 1\]"),
        ({"latency_s": [0.5, 1.5, -1.0]}, r"column 'latency_s', row 2: -1\.0 must be finite and >= 0"),
        ({"quality": ["good", "bad", "bad"]}, "column 'quality' is string, expected numbers"),
        ({"text": [1, 2, 3]}, "column 'text' is int64, expected strings"),
        ({"text": ["x", "z", "y"]}, r"column 'text', row 1: differs from row 0 of the same query 'a'"),
        ({"arm_id": ["m", "m", "m"]}, r"row 1: query 'a' and arm 'm' stand already in row 0"),
        ({"query_id": ["a", None, "b"]}, r"column 'query_id', row 1: is null"),
        ({"arm_id": [None, None, None]}, "no arm in the whole file"),
    ],
)
def test_a_wrong_value_is_named_with_file_column_and_row(
    tmp_path: Path, change: dict[str, list[object]], words: str
) -> None:
    path = tmp_path / "wrong.parquet"
    rows: dict[str, list[object]] = {
        "query_id": ["a", "a", "b"],
        "text": ["x", "x", "y"],
        "arm_id": ["m", "n", "m"],
        "quality": [1.0, 0.0, 1.0],
    }
    pq.write_table(pa.table({**rows, **change}), path)
    with pytest.raises(DataError, match=words) as caught:
        read_outcomes(path)
    assert str(path) in str(caught.value)


def test_missing_columns_files_and_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_outcomes(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("query_id,text")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_outcomes(tmp_path / "text.parquet")
    pq.write_table(pa.table({"query_id": ["a"]}), tmp_path / "thin.parquet")
    with pytest.raises(DataError, match="column 'text' is missing"):
        read_outcomes(tmp_path / "thin.parquet")
    newer = pa.table({"query_id": ["a"]}).replace_schema_metadata({"thinkroute.outcomes.version": "9"})
    pq.write_table(newer, tmp_path / "newer.parquet")
    with pytest.raises(DataError, match="version 9"):
        read_outcomes(tmp_path / "newer.parquet")


def test_concatenation_keeps_what_one_table_lacks_missing() -> None:
    other = OutcomeTable(
        ("q9",),
        ("other",),
        ("small@off", "tiny"),
        {"quality": np.array([[0.5, 1.0]]), "cost_usd": np.array([[0.1, 0.2]])},
    )
    both = concat([example(), other])
    assert both.arms == ("big@high", "small@off", "tiny")
    np.testing.assert_array_equal(both.quality_QA[3], [NAN, 0.5, 1.0])
    np.testing.assert_array_equal(both.measured["cost_usd"][0], [NAN, NAN, NAN])
    np.testing.assert_array_equal(both.measured["answer_tokens"][3], [NAN, NAN, NAN])
    assert both.weight_Q is not None
    assert both.weight_Q.tolist() == [1, 2, 1, 1]
    assert both.tasks == ("t", None, "u", None)


def test_concatenating_tables_with_equal_ids_needs_names() -> None:
    with pytest.raises(DataError, match="occurs twice"):
        concat([example(), example()])
    assert concat([example(), example()], ["x", "y"]).query_ids[0] == "x/q1"


def test_taking_rows_and_arms_takes_everything_that_belongs_to_them() -> None:
    part = example().take([2, 0]).select_arms(["small@off"])
    assert part.query_ids == ("q3", "q1")
    assert part.tasks == ("u", "t")
    np.testing.assert_array_equal(part.quality_QA, [[NAN], [0.25]])
    assert part.finish_QA is not None
    assert part.finish_QA.tolist() == [[""], ["length"]]
    with pytest.raises(DataError, match="no arm 'huge'"):
        example().select_arms(["huge"])


def test_cells_become_a_table_and_unknown_counts_stay_missing() -> None:
    queries = {"a": Query("first", task="t"), "b": Query("second")}
    known = Usage(prompt_tokens=10, completion_tokens=30, reasoning_tokens=20, provenance="reported")
    table = table_from_outcomes(
        queries,
        [
            Outcome("a", "m", 1.0, usage=known, cost_usd=0.5, latency_s=2.0, finish_reason="stop"),
            Outcome("b", "m", 0.0, usage=Usage()),
            Outcome("b", "n", NAN, finish_reason="error"),
        ],
    )
    assert table.arms == ("m", "n")
    assert table.measured["reasoning_tokens"][0, 0] == 20
    assert table.measured["answer_tokens"][0, 0] == 10
    assert np.isnan(table.measured["prompt_tokens"][1, 0])
    assert np.isnan(table.quality_QA[1, 1])
    assert table.finish_QA is not None
    assert table.finish_QA.tolist() == [["stop", ""], ["", "error"]]
    with pytest.raises(DataError, match="two outcomes"):
        table_from_outcomes(queries, [Outcome("a", "m", 1.0), Outcome("a", "m", 0.0)])
    with pytest.raises(DataError, match="unknown query 'z'"):
        table_from_outcomes(queries, [Outcome("z", "m", 1.0)])


def test_the_digest_changes_with_any_outcome_and_not_with_notes() -> None:
    table = example()
    measured: dict[Measure, FloatArray] = {
        **table.measured,
        "quality": np.array([[1.0, 0.25], [NAN, 0.0], [0.5, NAN]]),
    }
    changed = OutcomeTable(table.query_ids, table.texts, table.arms, measured)
    bare = OutcomeTable(table.query_ids, table.texts, table.arms, table.measured, notes={"x": "y"})
    assert bare.digest() == table.digest() != changed.digest()


@pytest.mark.parametrize(
    ("quality", "words"),
    [
        ([[1.0, 2.0]], r"quality of query 'q' and arm 'b' is 2\.0"),
        ([[1.0]], "has shape"),
        ([[-0.1, 0.0]], r"in \[0, 1\]"),
    ],
)
def test_a_table_with_impossible_numbers_cannot_be_made(quality: list[list[float]], words: str) -> None:
    with pytest.raises(DataError, match=words):
        OutcomeTable(("q",), ("t",), ("a", "b"), {"quality": np.array(quality)})
