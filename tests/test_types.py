"""The nouns: parsing efforts, naming arms, adding ledgers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkroute.errors import (
    HTTP_STATUS,
    EngineRejected,
    EngineTimeout,
    OutOfScope,
    ThinkrouteError,
    http_status,
)
from thinkroute.types import Arm, Effort, Ledger, LedgerEntry, Price, Usage

LEVELS = ["off", "minimal", "low", "medium", "high", "xhigh", "max", "on", "default"]


@given(st.one_of(st.sampled_from(LEVELS), st.integers(1, 10**6).map(lambda tokens: f"budget={tokens}")))
def test_efforts_survive_their_text_form(text: str) -> None:
    assert str(Effort.parse(text)) == text


def test_other_spellings_of_off() -> None:
    assert Effort.parse("none") == Effort.parse("budget=0") == Effort("off")


@pytest.mark.parametrize("text", ["", "hgih", "budget=", "budget=-1", "Budget=3", "budget=1.5"])
def test_unknown_efforts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="unknown effort"):
        Effort.parse(text)


def test_ranks_follow_the_ladder() -> None:
    ranks = [Effort.parse(text).rank for text in ("off", "budget=16", "budget=4096", "low", "high", "max")]
    assert ranks == sorted(ranks)


def test_arms_are_named_by_what_they_do() -> None:
    assert Arm("direct", ("small",), Effort("off")).id == "small@off"
    assert Arm("budgeted", ("small",), Effort("on", 64)).id == "small@budget=64"
    assert Arm("cascade", ("small", "large"), Effort("on")).id == "cascade(small → large)@on"


def test_a_price_counts_cached_tokens_apart() -> None:
    assert Price(1, 2, 0.1).cost_usd(1_000_000, 1_000_000, 500_000) == pytest.approx(0.5 + 0.05 + 2)
    assert Price(1, 2).cost_usd(1_000_000, 0, 500_000) == pytest.approx(1.0)


def test_a_sum_of_usages_is_as_sure_as_its_weakest_part() -> None:
    total = Usage(1, 2, 1, 0, "reported") + Usage(3, 4, 0, 2, "estimated")
    assert total == Usage(4, 6, 1, 2, "estimated")


def test_a_ledger_sums_its_calls() -> None:
    ledger = Ledger().add(LedgerEntry("m", Usage(5, 3, 1, 0, "counted"), 0.5))
    assert ledger.usage.completion_tokens == 3
    assert ledger.cost_usd == 0.5
    assert ledger.add(LedgerEntry("n", Usage(), None)).cost_usd is None, "one unknown makes the sum unknown"


def test_every_error_has_a_status_and_none_made_on_purpose_is_a_500() -> None:
    def all_of(kind: type[ThinkrouteError]) -> set[type[ThinkrouteError]]:
        return {kind}.union(*(all_of(child) for child in kind.__subclasses__()))

    assert set(HTTP_STATUS) <= all_of(ThinkrouteError)
    assert http_status(OutOfScope("x"))[0] == 422
    assert http_status(EngineTimeout("x"))[0] == 504


@pytest.mark.parametrize(
    ("upstream", "ours"),
    [(400, 400), (404, 404), (422, 422), (429, 429), (401, 502), (403, 502), (500, 502), (503, 503)],
)
def test_an_upstreams_own_status_passes_only_where_the_caller_can_act_on_it(upstream: int, ours: int) -> None:
    assert http_status(EngineRejected("x", status=upstream))[0] == ours
