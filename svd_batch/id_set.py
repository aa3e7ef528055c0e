"""Many video ids in little memory: ten bytes each, sorted. Knows nothing of files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Set
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

ID_BYTES = 10
_ID = re.compile(r"[0-9a-f]{20}")
_FEW = 50_000
"""As many ids may stay strings; more are packed."""

_DIGIT = np.full(256, 255, np.uint8)
_DIGIT[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)

High = NDArray[np.uint64]
Low = NDArray[np.uint16]


class IdSet(Set[str]):
    """A set of ids that answers for one id as a set does, and for millions at once (`contains`).

    An id is 20 hex digits: the first 16 are a sorted array of 64 bits each, the last four stand beside. Other texts and
    a few late ids are strings.
    """

    def __init__(self, high: High | None = None, low: Low | None = None, others: Iterable[str] = ()) -> None:
        """Take packed ids in any order, once or several times each, and further ones as strings."""
        self._high = np.empty(0, np.uint64) if high is None else high
        self._low = np.empty(0, np.uint16) if low is None else low
        self._sort()
        self._others: frozenset[str] = frozenset()
        self._others = frozenset(text for text in others if text not in self)

    @classmethod
    def of(cls, ids: Iterable[str]) -> IdSet:
        """Return the set of some ids, packed."""
        texts = list(ids)
        packed = [text for text in texts if _ID.fullmatch(text)]
        others = [text for text in texts if not _ID.fullmatch(text)]
        return cls(*pack("".join(packed).encode()), others)

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> Any:
        return cls.of(it)

    def _sort(self) -> None:
        order = np.argsort(self._high)
        high, low = self._high[order], self._low[order]
        del order
        same = high[1:] == high[:-1]
        if same.any():
            order = np.lexsort((low, high))
            high, low = high[order], low[order]
            keep = np.concatenate([[True], (high[1:] != high[:-1]) | (low[1:] != low[:-1])])
            high, low = high[keep], low[keep]
        self._high, self._low = high, low

    def with_packed(self, high: High, low: Low) -> IdSet:
        """Return the set with some more packed ids."""
        if not len(self._high):
            return IdSet(high, low, self._others)
        return IdSet(np.concatenate([self._high, high]), np.concatenate([self._low, low]), self._others)

    def with_others(self, ids: Set[str]) -> IdSet:
        """Return the set with some more ids; a few are kept beside what is packed, which is then shared."""
        if not ids:
            return self
        if len(ids) + len(self._others) > _FEW:
            more = IdSet.of(ids)
            return self.with_packed(more._high, more._low).with_others(more._others)
        both = IdSet()
        both._high, both._low = self._high, self._low
        both._others = self._others | {text for text in ids if text not in self}
        return both

    def __len__(self) -> int:
        return len(self._high) + len(self._others)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self._high), 2**16):
            part = slice(start, start + 2**16)
            yield from map(_text, self._high[part].tolist(), self._low[part].tolist())
        yield from self._others

    def __contains__(self, text: object) -> bool:
        if not isinstance(text, str):
            return False
        if text in self._others:
            return True
        return _ID.fullmatch(text) is not None and bool(self.contains(*pack(text.encode()))[0])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IdSet):
            return super().__eq__(other)
        if len(self) != len(other):
            return False
        if np.array_equal(self._high, other._high) and np.array_equal(self._low, other._low):
            return self._others == other._others
        return bool(other.contains(self._high, self._low).all()) and all(text in other for text in self._others)

    __hash__ = None  # type: ignore[assignment]

    def contains(self, high: High, low: Low) -> NDArray[np.bool_]:
        """Return for each packed id whether it is in the set."""
        found = np.zeros(len(high), np.bool_)
        order = np.argsort(high)  # neighbours are looked up together: the caches of the processor like that
        wanted = high[order]
        place = np.searchsorted(self._high, wanted)
        rows = np.flatnonzero(place < len(self._high))
        while len(rows := rows[self._high[place[rows]] == wanted[rows]]):
            ours = order[rows]
            found[ours] |= self._low[place[rows]] == low[ours]
            place[rows] += 1
            rows = rows[place[rows] < len(self._high)]
        if self._others:
            packed = [text for text in self._others if _ID.fullmatch(text)]
            if packed:
                found |= IdSet(*pack("".join(packed).encode())).contains(high, low)
        return found

    def starting_with(self, digits: str) -> list[str]:
        """Return the ids that begin with some hex digits, sorted."""
        low, high = (int(digits[:16].ljust(16, filler), 16) for filler in "0f")
        first = int(np.searchsorted(self._high, np.uint64(low), side="left"))
        part = slice(first, int(np.searchsorted(self._high, np.uint64(high), side="right")))
        found = chain(map(_text, self._high[part].tolist(), self._low[part].tolist()), self._others)
        return sorted(text for text in found if text.startswith(digits))


def is_packable(text: str) -> bool:
    """Return whether a text has the form of our ids: 20 hex digits."""
    return _ID.fullmatch(text) is not None


def _text(high: int, low: int) -> str:
    return f"{high:016x}{low:04x}"


def pack(digits: bytes | NDArray[np.uint8]) -> tuple[High, Low]:
    """Return ids, given as hex digits one after the other, in the form that `IdSet` takes.

    Raises: ValueError for other characters.
    """
    values = _DIGIT[np.frombuffer(digits, np.uint8)]
    if (values == 255).any():
        raise ValueError("an id is 20 hex digits")
    return unpack((values[0::2] << 4 | values[1::2]).astype(np.uint8))


def unpack(digests: bytes | NDArray[np.uint8]) -> tuple[High, Low]:
    """Return ids, given as ten bytes each one after the other, in the form that `IdSet` takes."""
    rows = np.frombuffer(digests, np.uint8).reshape(-1, ID_BYTES)
    high = np.ascontiguousarray(rows[:, :8]).view(">u8").reshape(-1).astype(np.uint64)
    low = np.ascontiguousarray(rows[:, 8:]).view(">u2").reshape(-1).astype(np.uint16)
    return high, low
