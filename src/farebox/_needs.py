"""What such calls need: the cap to grant a call that declares none (money rule 4).

A call site is a model in a scope.  For each, a log histogram of the output tokens its answers took: eight buckets an octave,
so a quantile is at most 12.5 percent too high, halved when it holds 2,048 samples, so it follows a change.  An answer that
was cut at its cap counts as twice its length, since nobody knows how long it wanted to be.

Cold, while fewer than five such calls are known or fewer than are in flight (the shortest answers settle first), a call
starts with `max(prior, 2 p99, unspent / 24)`.  Warm, it is granted `max(left / 16, m p99)`, `m` falling from 2 to 1.25 as
more are known, and would rather wait than start with less than 0.8 p99.
"""

from __future__ import annotations

import threading
from typing import Final

PRIOR_TOKENS: Final = 2_048
PRIOR_TOKENS_REASONING: Final = 25_000
#: Below this a capped answer is a stump that still pays for its whole input: such a call is refused.
USEFUL_TOKENS: Final = 64

_KNOWN_ENOUGH: Final = 5
_COLD_SHARE: Final = 24
_WARM_SHARE: Final = 16
_MOST_SAMPLES: Final = 2_048
_EXACT_BELOW: Final = 100
_MOST_SITES: Final = 1_024
_PER_OCTAVE_BITS: Final = 3


class Site:
    """What is known about the calls of one place.  Written by many threads; a lost sample does no harm."""

    __slots__ = ("_buckets", "_fresh", "_p99", "known", "open_calls")

    def __init__(self) -> None:
        #: Numbers of the calls in flight: a dict, since adding to it and taking away are atomic and a counter is not.
        self.open_calls: dict[int, None] = {}
        self.known = 0
        self._buckets: dict[int, int] = {}
        self._fresh: list[int] = []
        self._p99 = 0

    def learn(self, output_tokens: int, is_cut: bool) -> None:
        """Take note of one answer; folded in when the next call asks."""
        self._fresh.append(output_tokens * 2 if is_cut else output_tokens)

    def is_cold(self) -> bool:
        """Whether too few answers are known to judge by."""
        known = self.known + len(self._fresh)
        return known < _KNOWN_ENOUGH or known < len(self.open_calls)

    def caps(self, prior: int, unspent_tokens: int) -> tuple[int, int, int]:
        """The cap to want, the floor below which to wait for others, and the share of what is left to take instead."""
        p99 = self.p99()
        if self.is_cold():
            cold = max(prior, 2 * p99, unspent_tokens // _COLD_SHARE)
            return cold, cold, 0
        percent = 200 if self.known < 30 else 150 if self.known < 100 else 125
        return max(1, p99 * percent // 100), max(1, p99 * 4 // 5), _WARM_SHARE

    def p99(self) -> int:
        """Output tokens that 99 of 100 answers stay below; below 100 samples the most seen; 0 when nothing is known."""
        if self._fresh:
            self._fold()
        return self._p99

    def _fold(self) -> None:
        fresh, self._fresh = self._fresh, []
        for tokens in fresh:
            bucket = _bucket(tokens)
            self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.known += len(fresh)
        samples = sum(self._buckets.values())
        if samples > _MOST_SAMPLES:
            self._buckets = {bucket: n // 2 for bucket, n in self._buckets.items() if n > 1}
            samples = sum(self._buckets.values())
        above = 0 if samples < _EXACT_BELOW else samples // 100
        for bucket in sorted(self._buckets, reverse=True):
            above -= self._buckets[bucket]
            if above < 0:
                self._p99 = _upper_edge(bucket)
                break


def _bucket(tokens: int) -> int:
    """Eight buckets between two powers of two; below eight each number has its own."""
    octave = max(0, tokens.bit_length() - 1 - _PER_OCTAVE_BITS)
    return (octave << _PER_OCTAVE_BITS) + (tokens >> octave)


def _upper_edge(bucket: int) -> int:
    octave = max(0, (bucket >> _PER_OCTAVE_BITS) - 1)
    return ((bucket - (octave << _PER_OCTAVE_BITS) + 1) << octave) - 1


class Needs:
    """The call sites of this process; beyond the bound the oldest is forgotten first."""

    def __init__(self) -> None:
        self._sites: dict[tuple[str, str, str], Site] = {}
        self._lock = threading.Lock()

    def site(self, provider_name: str, model: str, scope: str) -> Site:
        """The site of that model in that scope, made when it is new."""
        key = (provider_name, model, scope)
        found = self._sites.get(key)
        if found is None:
            with self._lock:
                found = self._sites.setdefault(key, Site())
                while len(self._sites) > _MOST_SITES:
                    del self._sites[next(iter(self._sites))]
        return found
