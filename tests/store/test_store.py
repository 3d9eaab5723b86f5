"""What every store promises, of every store."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from thinkroute.errors import UnknownDecision
from thinkroute.store import DecisionRecord, FeedbackRecord, MemoryStore, Store


def test_a_record_is_found_at_once_and_after_the_flush(
    store: Store, make_record: Callable[..., DecisionRecord]
) -> None:
    record = make_record()
    store.put(record)
    assert store.get(record.decision_id) == record
    store.flush()
    assert store.get(record.decision_id) == record


def test_an_unknown_id_is_none(store: Store) -> None:
    assert store.get("dec_nowhere") is None
    assert store.newest() is None


def test_the_first_record_of_an_id_wins(store: Store, make_record: Callable[..., DecisionRecord]) -> None:
    store.put(make_record(1, latency_s=1.0))
    store.flush()
    store.put(make_record(1, latency_s=2.0))
    store.flush()
    assert [record.latency_s for record in store.iter_records()] == [1.0]


def test_feedback_joins_a_record_that_is_still_queued(
    store: Store, make_record: Callable[..., DecisionRecord]
) -> None:
    store.put(make_record(1))
    grade = FeedbackRecord(score=1.0, source="judge", comment="right", created_at=5.0)
    store.add_feedback("dec_0001", grade)
    found = store.get("dec_0001")
    assert found is not None
    assert found.feedback == (grade,)


def test_feedback_is_one_a_source_and_the_newer_replaces_the_older(
    store: Store, make_record: Callable[..., DecisionRecord]
) -> None:
    store.put(make_record(1))
    for score, source in ((0.0, "user"), (0.5, "judge"), (1.0, "user")):
        store.add_feedback("dec_0001", FeedbackRecord(score=score, source=source, created_at=score))
    found = store.get("dec_0001")
    assert found is not None
    assert {given.source: given.score for given in found.feedback} == {"user": 1.0, "judge": 0.5}
    assert found.quality == 0.75


def test_feedback_on_an_unknown_decision_is_refused(
    store: Store, make_record: Callable[..., DecisionRecord]
) -> None:
    store.put(make_record(1))
    with pytest.raises(UnknownDecision, match="dec_0002"):
        store.add_feedback("dec_0002", FeedbackRecord(score=1.0))


def test_spend_is_summed_by_time_and_key(store: Store, make_record: Callable[..., DecisionRecord]) -> None:
    store.put(make_record(1, cost_usd=1.0))
    store.put(make_record(2, cost_usd=2.0))
    store.put(make_record(3, cost_usd=4.0, key_id="other"))
    store.put(make_record(4, cost_usd=None))
    assert store.spend_usd(0.0) == 7.0
    assert store.spend_usd(1002.0) == 6.0
    assert store.spend_usd(0.0, key_id="team") == 3.0
    assert store.spend_usd(2000.0) == 0.0


def test_records_come_oldest_first_within_the_bounds(
    store: Store, make_record: Callable[..., DecisionRecord]
) -> None:
    for number in (3, 1, 5, 2, 4):
        store.put(make_record(number, key_id="odd" if number % 2 else "even"))
    assert [r.decision_id for r in store.iter_records()] == [f"dec_{n:04d}" for n in (1, 2, 3, 4, 5)]
    assert [r.decision_id for r in store.iter_records(1002.0, 1004.0)] == ["dec_0002", "dec_0003"]
    assert [r.decision_id for r in store.iter_records(key_id="even")] == ["dec_0002", "dec_0004"]
    newest = store.newest()
    assert newest is not None
    assert newest.decision_id == "dec_0005"


def test_all_threads_may_write_and_read(store: Store, make_record: Callable[..., DecisionRecord]) -> None:
    def work(thread: int) -> None:
        for number in range(thread * 100, thread * 100 + 50):
            store.put(make_record(number))
            assert store.get(f"dec_{number:04d}") is not None
            if number % 10 == 0:
                store.add_feedback(f"dec_{number:04d}", FeedbackRecord(score=1.0))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    records = list(store.iter_records())
    assert len(records) == 200
    assert sum(record.quality == 1.0 for record in records) == 20


def test_closing_twice_does_nothing(store: Store) -> None:
    store.close()
    store.close()


def test_the_memory_store_forgets_the_oldest_beyond_its_bound(
    make_record: Callable[..., DecisionRecord],
) -> None:
    store = MemoryStore(max_records=2)
    for number in (1, 2, 3):
        store.put(make_record(number))
    assert [record.decision_id for record in store.iter_records()] == ["dec_0002", "dec_0003"]
    assert store.dropped == 0
