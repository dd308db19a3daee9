"""What a call used, as its provider says: tokens, and whatever else is charged."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple


class Usage(NamedTuple):
    """What a provider says a call used, in disjoint buckets: no token is in two of them.

    Tokens first, and then what else is charged: searches, pictures, characters and pages are counted, sound and video
    measured in milliseconds, and a container in gigabytes of its memory times minutes.  `fees_nanos` is what has no unit:
    nanodollars.  What a cache of one's own holds is its tokens times hours.  The properties are the totals that OpenTelemetry
    GenAI means by the same names: input with everything cached, output with everything reasoned.

    A tuple, not an attrs record: every call makes one, and a frozen attrs instance takes four times as long to make.
    Ledgers keep it as a list, so that a bucket is only ever added at the end.
    """

    uncached_input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_30m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    cache_write_12h_tokens: int = 0
    input_audio_tokens: int = 0
    cache_read_audio_tokens: int = 0
    input_image_tokens: int = 0
    visible_output_tokens: int = 0
    reasoning_tokens: int = 0
    output_audio_tokens: int = 0
    output_image_tokens: int = 0
    web_searches: int = 0
    cache_read_image_tokens: int = 0
    input_video_tokens: int = 0
    output_video_tokens: int = 0
    file_searches: int = 0
    container_gigabyte_minutes: int = 0
    images: int = 0
    characters: int = 0
    input_audio_milliseconds: int = 0
    output_audio_milliseconds: int = 0
    video_milliseconds: int = 0
    fees_nanos: int = 0
    cache_token_hours: int = 0
    pages: int = 0
    annotated_pages: int = 0
    search_units: int = 0

    @property
    def input_tokens(self) -> int:
        return sum(self[:9]) + self[14] + self[15]

    @property
    def output_tokens(self) -> int:
        return sum(self[9:13]) + self[16]

    @property
    def total_tokens(self) -> int:
        return sum(self[:13]) + self[14] + self[15] + self[16]


#: Buckets of `Usage` that are no tokens and have a price of their own each, but for `web_searches`.
UNITS: Final = Usage._fields[Usage._fields.index("file_searches") :]
NO_UNITS: Final[Mapping[str, int]] = MappingProxyType({})


def totals(usage: Usage) -> tuple[int, int]:
    """Input and output tokens, at once."""
    return sum(usage[:9]) + usage[14] + usage[15], sum(usage[9:13]) + usage[16]


_BEFORE_OUTPUT: Final = Usage()[1:9]
_AFTER_OUTPUT: Final = Usage()[10:]
_tuple: Final = tuple.__new__


def plain_usage(input_tokens: int, output_tokens: int) -> Usage:
    """Nothing but text, in and out, at a third of what naming the two fields takes."""
    usage: Usage = _tuple(Usage, (input_tokens, *_BEFORE_OUTPUT, output_tokens, *_AFTER_OUTPUT))
    return usage
