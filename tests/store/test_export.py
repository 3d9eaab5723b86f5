"""The log as outcomes."""

from collections.abc import Callable

from thinkroute.store import DecisionRecord, FeedbackRecord, MemoryStore, outcome_rows


def test_a_graded_answer_becomes_a_row_with_its_propensity(
    make_record: Callable[..., DecisionRecord],
) -> None:
    store = MemoryStore()
    store.put(make_record(1))
    store.add_feedback("dec_0001", FeedbackRecord(score=1.0))
    assert list(outcome_rows(store.iter_records())) == [
        {
            "query_id": "hash1",
            "text": "what is 2+2?",
            "task": None,
            "arm_id": "m@budget=8",
            "quality": 1.0,
            "prompt_tokens": 10,
            "reasoning_tokens": 8,
            "answer_tokens": 12,
            "provenance": "reported",
            "cost_usd": 0.25,
            "ttft_s": 0.1,
            "latency_s": 0.5,
            "finish_reason": "stop",
            "propensity": 0.75,
            "propensities": {"m@budget=8": 0.75},
        }
    ]


def test_ungraded_and_failed_requests_are_no_outcomes(make_record: Callable[..., DecisionRecord]) -> None:
    records = [make_record(1), make_record(2, status="error"), make_record(3, status="refused", arm_id=None)]
    assert list(outcome_rows(records)) == []
    assert [row["quality"] for row in outcome_rows(records, graded_only=False)] == [None]


def test_a_repeated_question_keeps_one_row_a_time_it_was_answered(
    make_record: Callable[..., DecisionRecord],
) -> None:
    records = [
        make_record(1, query_hash="same"),
        make_record(2, query_hash="same"),
        make_record(3, query_hash="same", arm_id="m@off"),
    ]
    rows = outcome_rows(records, graded_only=False)
    assert [(row["query_id"], row["arm_id"]) for row in rows] == [
        ("same", "m@budget=8"),
        ("same.2", "m@budget=8"),
        ("same", "m@off"),
    ]
