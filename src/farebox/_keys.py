"""The names under which ledgers keep the accounts of standing budgets: everybody who shares one makes them of the same parts.

    plan/month/Asia%2FTokyo?tenant=acme#1764514800        name / period / zone ? tags # start of the window

What a person said about accounts is kept under less of it: `plan`, `plan/month`, `plan?tenant=acme`, `plan/month?tenant=acme`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import combinations

import attrs

from farebox._windows import PERIODS, Period, read_zone, window_at


@attrs.frozen(kw_only=True)
class Key:
    """The parts of an account's key; `ends_at` is an aware UTC datetime, None for a window that never ends."""

    budget: str
    period: Period
    tags: Mapping[str, str]
    starts_at: int
    ends_at: datetime | None

    def is_open_at(self, seconds: float) -> bool:
        """Whether it is the account of that instant, in epoch seconds."""
        return self.starts_at <= seconds and (self.ends_at is None or seconds < self.ends_at.timestamp())


def account_stem(budget: str, period: str, zone_name: str, tags: Mapping[str, str]) -> str:
    """The key of an account up to its window."""
    return f"{_quoted(budget)}/{period}/{_quoted(zone_name)}{_tags_text(tags)}"


def account_key(stem: str, starts_at: int) -> str:
    return f"{stem}#{starts_at}"


def stem_prefix(budget: str) -> str:
    """What the keys of all accounts of a budget begin with, and no others."""
    return f"{_quoted(budget)}/"


def control_key(budget: str, period: str | None, tags: Mapping[str, str]) -> str:
    """Under which key something is said about the accounts of a budget; without a period, about those of all."""
    return _quoted(budget) + (f"/{period}" if period else "") + _tags_text(tags)


def control_keys(budget: str, period: str, tags: Mapping[str, str]) -> tuple[str, ...]:
    """Under which keys something may have been said about an account, from general to specific."""
    keys: list[str] = []
    for count in range(len(tags) + 1):
        for some in combinations(sorted(tags), count):
            chosen = {tag: tags[tag] for tag in some}
            keys += [control_key(budget, None, chosen), control_key(budget, period, chosen)]
    return tuple(keys)


def read_control_tags(text: str, budget: str) -> Mapping[str, str] | None:
    """The tags of the accounts of a budget that something was said about under this key; None where it is of another budget."""
    from urllib.parse import unquote

    about, _, tags = text.partition("?")
    if unquote(about.partition("/")[0]) != budget:
        return None
    return {
        unquote(name): unquote(value) for name, value in (tag.split("=", 1) for tag in tags.split("&") if "=" in tag)
    }


_KEY = re.compile(r"([^/?#]*)/([a-z]+)/([^/?#]*)(?:\?([^#]*))?#(\d+)")


def read_key(text: str) -> Key | None:
    """The parts of an account's key; None where it is no such key, or of a zone that is not installed here."""
    from urllib.parse import unquote

    found = _KEY.fullmatch(text)
    if found is None or found[2] not in PERIODS:
        return None
    period: Period = found[2]
    tags = dict(part.split("=", 1) for part in (found[4] or "").split("&") if "=" in part)
    starts_at = int(found[5])
    try:
        ends_at = window_at(period, read_zone(unquote(found[3])), starts_at).ends_at
    except ValueError:
        return None
    return Key(
        budget=unquote(found[1]),
        period=period,
        tags={unquote(name): unquote(value) for name, value in tags.items()},
        starts_at=starts_at,
        ends_at=None if ends_at is None else datetime.fromtimestamp(ends_at, UTC),
    )


def _tags_text(tags: Mapping[str, str]) -> str:
    return "?" + "&".join(f"{_quoted(name)}={_quoted(tags[name])}" for name in sorted(tags)) if tags else ""


def _quoted(text: str) -> str:
    """Text that holds none of the marks that keys are made with."""
    from urllib.parse import quote

    return quote(text, safe="")
