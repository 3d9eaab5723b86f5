"""The stored shape: it keeps everything, and it knows its version."""

import json
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkroute.errors import DataError
from thinkroute.store.record import DecisionRecord, FeedbackRecord, LegRecord, ScoreRecord, decode, encode
from thinkroute.types import Arm, ArmScore, ComputePrices, Decision, Effort, Estimate, Usage

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_NUMBER = st.floats(allow_nan=False, allow_infinity=False)
_RECORDS = st.builds(
    DecisionRecord,
    decision_id=_TEXT,
    created_at=_NUMBER,
    status=st.sampled_from(["ok", "error", "cancelled", "refused"]),
    query_text=st.none() | _TEXT,
    cost_usd=st.none() | _NUMBER,
    reason_codes=st.lists(_TEXT, max_size=3).map(tuple),
    scores=st.lists(
        st.builds(
            ScoreRecord, arm_id=_TEXT, allowed=st.booleans(), propensity=_NUMBER, quality=st.none() | _NUMBER
        ),
        max_size=3,
    ).map(tuple),
    legs=st.lists(st.builds(LegRecord, owner=_TEXT, prompt_tokens=st.integers(0, 2**40)), max_size=3).map(
        tuple
    ),
)


@given(_RECORDS)
def test_a_record_survives_writing_and_reading(record: DecisionRecord) -> None:
    assert decode(encode(record)) == record


def test_feedback_is_joined_on_reading_never_written(make_record: Callable[..., DecisionRecord]) -> None:
    grade = FeedbackRecord(score=0.5)
    record = msgspec.structs.replace(make_record(), feedback=(grade,))
    assert decode(encode(record)).feedback == ()
    assert decode(encode(record), (grade,)) == record


def test_the_nouns_come_back(make_record: Callable[..., DecisionRecord]) -> None:
    record = make_record()
    arm = Arm("budgeted", ("m",), Effort("on", 8))
    assert record.decision == Decision(
        arm=arm,
        scores=(
            ArmScore("m@budget=8", True, (), None, Estimate(0.5, 0.1), 0.25, None, None, None, 0.75),
            ArmScore("m@off", False, ("no_quality",), None, None, None, None, None, None, 0.0),
        ),
        propensity=0.75,
        reason_codes=("best_utility",),
        prices=ComputePrices(0.01, 0.0, 0.0),
        policy_version="1",
        router="knn-1",
    )
    assert arm.id == record.arm_id
    assert record.ledger.usage == Usage(10, 20, 8, 0, "reported")
    assert record.ledger.cost_usd == record.cost_usd


def test_a_request_that_was_never_routed_has_no_decision(make_record: Callable[..., DecisionRecord]) -> None:
    assert make_record(arm_id=None, program=None, status="refused").decision is None


def test_fields_of_later_versions_are_skipped_within_the_same_version(
    make_record: Callable[..., DecisionRecord],
) -> None:
    stored = json.loads(encode(make_record())) | {"added_later": 1}
    assert decode(json.dumps(stored)) == make_record()


def test_a_record_of_a_newer_version_is_refused(make_record: Callable[..., DecisionRecord]) -> None:
    with pytest.raises(DataError, match="record version 99"):
        decode(encode(make_record(schema_version=99)))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"decision_id": 5}'])
def test_what_is_no_record_is_a_data_error(data: bytes) -> None:
    with pytest.raises(DataError, match="not a decision record"):
        decode(data)


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_a_score_outside_the_unit_interval_is_refused(score: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        FeedbackRecord(score=score)
