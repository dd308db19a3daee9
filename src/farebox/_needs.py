"""What such calls need: the cap to grant a call that declares none (money rule 4).

A call site is a model in a scope.  For each, a log histogram of the output tokens its answers took: eight buckets an octave,
so a quantile is at most 12.5 percent too high, halved when it holds 2,048 samples, so it follows a change.  An answer that
was cut at its cap counts as twice its length, since nobody knows how long it wanted to be.

Cold, until its first twelve calls have all ended.  All of them, since short answers end first: the first to be known
are the shortest of those in flight.  A cold call is granted `max(2,048, unspent / 20, 2 p99)`, a reasoning one no less
than its prior or, once that is less, `16 p99 / known`; a twelfth of what is left where that is more.  It waits rather than
start with less.  Warm, it is granted `p99 (1 + 12 / known)`, a sixteenth of what is left where that is more, and waits
rather than start with less than 0.8 p99.  `benchmarks/admission.py` measures it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

_NOTHING: Final[Mapping[Any, Any]] = MappingProxyType({})

PRIOR_TOKENS: Final = 2_048
#: 97 of 100 reasoning answers stay below, where they are spread from 2,000 to 30,000 tokens.
PRIOR_TOKENS_REASONING: Final = 32_768
#: Below this a capped answer is a stump that still pays for its whole input: such a call is refused.
USEFUL_TOKENS: Final = 64

#: How many calls a site is judged by: the first ones, whichever of them end first.
_JUDGED_BY: Final = 12
#: Known answers that make up for one of the first that does not end, such as a stream that is left open.
_KNOWN_ENOUGH: Final = 100
#: The next answer of a reasoning model may be this many times as long as the first one; half as many after two.
_DOUBT: Final = 16
_COLD_FLOOR_SHARE: Final = 20
_COLD_SHARE: Final = 12
_WARM_SHARE: Final = 16
_MOST_SAMPLES: Final = 2_048
_EXACT_BELOW: Final = 100
_MOST_SITES: Final = 1_024
_PER_OCTAVE_BITS: Final = 3


class Site:
    """What is known about the calls of one place.  Written by many threads; a lost sample does no harm."""

    __slots__ = (
        "_above",
        "_buckets",
        "_folding",
        "_fresh",
        "_is_warm",
        "_last_judged",
        "_p99",
        "_samples",
        "_top",
        "key",
        "known",
        "open_calls",
    )

    def __init__(self, key: str = "", learnt: Mapping[int, int] = _NOTHING) -> None:
        #: Its name where what was learnt outlives the process.
        self.key = key
        #: Numbers of the calls that wait or are in flight, oldest first: a dict, since adding to it and taking away are
        #: atomic and a counter is not.
        self.open_calls: dict[int, None] = {}
        self.known = sum(learnt.values())
        self._is_warm = self.known >= _JUDGED_BY
        #: The number of the last of the calls it is judged by, once that has begun.
        self._last_judged: int | None = None
        #: Buckets of answers that are not counted yet.
        self._fresh: list[int] = []
        self._folding = threading.RLock()
        self._buckets: dict[int, int] = dict(learnt)
        self._samples = self.known
        #: The bucket of p99, and how many samples lie above it: most new ones move neither, and are counted and no more.
        self._top, self._above = -1, 0
        self._p99 = 0
        if learnt:
            self._find_p99(self._most_above())

    def learn(self, output_tokens: int, is_cut: bool) -> int:
        """Take note of one answer; folded in when the next call asks.  Returns its bucket."""
        bucket = _bucket(output_tokens * 2 if is_cut else output_tokens)
        self._fresh.append(bucket)
        return bucket

    def is_cold(self) -> bool:
        """Whether too few answers are known to judge by.  Once warm, a site stays so."""
        if self._is_warm:
            return False
        known, begun = self.known + len(self._fresh), list(self.open_calls)
        if self._last_judged is None and begun and known + len(begun) >= _JUDGED_BY:
            self._last_judged = begun[-1]
        if known < _JUDGED_BY:
            return True
        if begun and begun[0] <= (self._last_judged or 0) and known < max(_KNOWN_ENOUGH, len(begun)):
            return True
        self._is_warm = True
        return False

    def caps(self, prior: int, unspent_tokens: int) -> tuple[int, int, int]:
        """The cap to want, the floor below which to wait for others, and the share of what is left to take instead."""
        p99 = self.p99()
        if self.is_cold():
            known = self.known
            expected = min(prior, _DOUBT * p99 // known) if known else prior
            cold = max(PRIOR_TOKENS, expected, unspent_tokens // _COLD_FLOOR_SHARE, 2 * p99)
            return cold, cold, _COLD_SHARE
        # Another thread may be in the middle of folding in the first ones.
        return max(1, p99 + p99 * _JUDGED_BY // (self.known or _JUDGED_BY)), max(1, p99 * 4 // 5), _WARM_SHARE

    def p99(self) -> int:
        """Output tokens that 99 of 100 answers stay below; below 100 samples the most seen; 0 when nothing is known."""
        if self._fresh:
            self._fold()
        return self._p99

    def _fold(self) -> None:
        with self._folding:
            fresh, self._fresh = self._fresh, []
            buckets, top = self._buckets, self._top
            for bucket in fresh:
                buckets[bucket] = buckets.get(bucket, 0) + 1
                if bucket > top:
                    self._above += 1
            self.known += len(fresh)
            self._samples += len(fresh)
            if self._samples > _MOST_SAMPLES:
                self._buckets = buckets = {bucket: n // 2 for bucket, n in buckets.items() if n > 1}
                self._samples = sum(buckets.values())
                self._above = self._samples  # makes it look anew
            most_above = self._most_above()
            if not self._above <= most_above < self._above + buckets.get(top, 0):
                self._find_p99(most_above)

    def _most_above(self) -> int:
        return 0 if self._samples < _EXACT_BELOW else self._samples // 100

    def _find_p99(self, most_above: int) -> None:
        above = 0
        for bucket in sorted(self._buckets, reverse=True):
            if above + self._buckets[bucket] > most_above:
                self._top, self._above, self._p99 = bucket, above, _upper_edge(bucket)
                return
            above += self._buckets[bucket]


def _bucket(tokens: int) -> int:
    """Eight buckets between two powers of two; below eight each number has its own."""
    octave = tokens.bit_length() - 1 - _PER_OCTAVE_BITS
    return tokens if octave <= 0 else (octave << _PER_OCTAVE_BITS) + (tokens >> octave)


def _upper_edge(bucket: int) -> int:
    octave = max(0, (bucket >> _PER_OCTAVE_BITS) - 1)
    return ((bucket - (octave << _PER_OCTAVE_BITS) + 1) << octave) - 1


class Needs:
    """The call sites of this process; beyond the bound the oldest is forgotten first.

    Args:
        learnt: What programs before this one have learnt: counts by bucket, by the key of a site.
    """

    def __init__(self, learnt: Mapping[str, Mapping[int, int]] = _NOTHING) -> None:
        self._learnt = learnt
        self._sites: dict[tuple[str, str, str], Site] = {}
        self._lock = threading.Lock()

    def site(self, provider_name: str, model: str, scope: str) -> Site:
        """The site of that model in that scope, made when it is new."""
        key = (provider_name, model, scope)
        found = self._sites.get(key)
        if found is None:
            with self._lock:
                text = "\n".join(key)
                found = self._sites.setdefault(key, Site(text, self._learnt.get(text, _NOTHING)))
                if len(self._sites) > _MOST_SITES:
                    del self._sites[next(iter(self._sites))]
        return found
