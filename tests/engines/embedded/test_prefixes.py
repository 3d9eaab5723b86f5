"""The store of known prefixes: it finds the longest one, keeps to its memory, and forgets what was used longest ago."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from thinkroute.engines.embedded.prefixes import Floats, Integers, PrefixStore

Ids = tuple[int, ...]
LISTS = st.lists(st.integers(0, 2), max_size=7).map(tuple)


def integers(ids: Ids) -> Integers:
    return np.array(ids, dtype=np.int64)


def keys_values(ids: Ids) -> Floats:
    """Stands for what was computed: every position says which ids lie before it."""
    values = [float(hash(ids[: place + 1]) % 10_007) for place in range(len(ids))]
    return np.tile(np.array(values, dtype=np.float32)[None, None, :, None], (2, 1, 1, 3))


def size_of(ids: Ids) -> int:
    return keys_values(ids).nbytes + 4 * len(ids)


def shared(left: Ids, right: Ids) -> int:
    return next(
        (place for place, (a, b) in enumerate(zip(left, right, strict=False)) if a != b),
        min(len(left), len(right)),
    )


@given(st.lists(LISTS, max_size=12), LISTS)
def test_the_longest_known_beginning_is_found_with_its_keys_and_values(stored: list[Ids], asked: Ids) -> None:
    store = PrefixStore(2**20)
    for ids in stored:
        store.put(integers(ids), keys_values(ids))
    length, found = store.longest(integers(asked))
    assert length == max((shared(ids, asked) for ids in stored), default=0)
    if length:
        assert found is not None
        np.testing.assert_array_equal(found[:, :, :length], keys_values(asked[:length]))
    assert store.covers(integers(asked)) == (length == len(asked))


@given(st.lists(LISTS.filter(bool), max_size=30), st.integers(0, 800))
def test_memory_stays_within_the_limit_and_what_is_found_stays_right(stored: list[Ids], limit: int) -> None:
    store = PrefixStore(limit)
    for ids in stored:
        store.put(integers(ids), keys_values(ids))
        assert store.used_bytes <= limit
        length, found = store.longest(integers(ids))
        if size_of(ids) <= limit:
            assert length == len(ids)
        if found is not None:
            np.testing.assert_array_equal(found[:, :, :length], keys_values(ids[:length]))


def test_what_was_used_longest_ago_leaves_first() -> None:
    first, second, third = (1, 1, 1), (2, 2, 2), (3, 3, 3)
    store = PrefixStore(2 * size_of(first))
    store.put(integers(first), keys_values(first))
    store.put(integers(second), keys_values(second))
    store.longest(integers((1, 1, 9)))
    store.put(integers(third), keys_values(third))
    assert [store.longest(integers(ids))[0] for ids in (first, second, third)] == [3, 0, 3]


def test_a_longer_entry_takes_the_place_of_those_it_begins_with() -> None:
    store = PrefixStore(2**20)
    for ids in ((1,), (1, 2), (1, 3), (1, 2, 3, 4)):
        store.put(integers(ids), keys_values(ids))
    assert len(store) == 2
    assert store.used_bytes == size_of((1, 3)) + size_of((1, 2, 3, 4))


def test_an_entry_beyond_the_whole_limit_is_not_stored() -> None:
    store = PrefixStore(10)
    store.put(integers((1, 2)), keys_values((1, 2)))
    assert (len(store), store.used_bytes) == (0, 0)


def test_ids_are_ordered_as_numbers_and_not_mixed_up_by_their_bytes() -> None:
    store = PrefixStore(2**20)
    for ids in ((256,), (1,), (65536,), (255, 1)):
        store.put(integers(ids), keys_values(ids))
    assert [store.longest(integers((ident,)))[0] for ident in (0, 1, 255, 256, 257, 65536)] == [
        0,
        1,
        1,
        1,
        0,
        1,
    ]
