"""Keys and values of prompts seen before, so that a prompt that begins alike is not computed again.

Owns a bounded store of one member. Prefixes are compared token id by token id, never as text. What is stored never
changes what is generated, only how much of it has to be computed: losing an entry is always safe.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_KEY_TYPE = np.dtype(">u4")
"""Big-endian, so that the order of keys is the order of the ids."""


def shared_length(left_T: NDArray[Any], right_T: NDArray[Any]) -> int:
    """How many ids two sequences have in common from their beginning on."""
    length = min(len(left_T), len(right_T))
    differing = (left_T[:length] != right_T[:length]).nonzero()[0]
    return int(differing[0]) if len(differing) else length


class PrefixStore:
    """Token ids → their keys and values, least recently used ones leaving first.

    Keys are kept sorted: whatever shares most with a prompt stands next to where the prompt would. Workers of one member
    share a store; what is stored is never changed, so a reader may keep it.

    Args:
        limit_bytes: Most memory of all entries together; 0 stores nothing.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._sorted: list[bytes] = []
        self._entries: OrderedDict[bytes, Floats] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def longest(self, ids_T: Integers) -> tuple[int, Floats | None]:
        """How many first ids are known, and the keys and values (caches, heads, length, width) that begin with theirs."""
        key_T = ids_T.astype(_KEY_TYPE)
        with self._lock:
            place = bisect_left(self._sorted, key_T.tobytes())
            best, found = 0, None
            for neighbour in self._sorted[max(0, place - 1) : place + 1]:
                shared = shared_length(key_T, np.frombuffer(neighbour, _KEY_TYPE))
                if shared > best:
                    best, found = shared, neighbour
            if found is None:
                return 0, None
            self._entries.move_to_end(found)
            return best, self._entries[found]

    def covers(self, ids_T: Integers) -> bool:
        """Whether all of these ids are known already, which then counts as a use."""
        key = ids_T.astype(_KEY_TYPE).tobytes()
        with self._lock:
            for successor in self._sorted[(place := bisect_left(self._sorted, key)) : place + 1]:
                if successor.startswith(key):
                    self._entries.move_to_end(successor)
                    return True
        return not key

    def put(self, ids_T: Integers, keys_values: Floats) -> None:
        """Remember the keys and values of these ids, in the place of entries that they begin with."""
        key = ids_T.astype(_KEY_TYPE).tobytes()
        size = keys_values.nbytes + len(key)
        with self._lock:
            if size > self.limit_bytes or key in self._entries:
                return
            place = bisect_left(self._sorted, key)
            while place and key.startswith(self._sorted[place - 1]):
                place -= 1
                self._forget(self._sorted[place])
            while self.used_bytes + size > self.limit_bytes:
                self._forget(next(iter(self._entries)))
            self._sorted.insert(bisect_left(self._sorted, key), key)
            self._entries[key] = keys_values
            self.used_bytes += size

    def _forget(self, key: bytes) -> None:
        self.used_bytes -= self._entries.pop(key).nbytes + len(key)
        del self._sorted[bisect_left(self._sorted, key)]
