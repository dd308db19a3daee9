"""What tests need: a provider that bills, and a clock that stands still.

`FakeProvider` is a real HTTP server on loopback that speaks the OpenAI and the Anthropic format and keeps its own bill.
It knows nothing of farebox: its prices, tokens and arithmetic are its own, so its bill can judge a program's accounts.
"""

from __future__ import annotations

from farebox.testing._cassette import UnmatchedCall
from farebox.testing._clock import FixedClock
from farebox.testing._fake.answer import Answer
from farebox.testing._fake.bill import Bill, BillLine
from farebox.testing._fake.dialect import OtherWork
from farebox.testing._fake.odd import ABSENT
from farebox.testing._fake.prices import Price
from farebox.testing._fake.provider import FakeProvider
from farebox.testing._fake.request import Request

__all__ = [
    "ABSENT",
    "Answer",
    "Bill",
    "BillLine",
    "FakeProvider",
    "FixedClock",
    "OtherWork",
    "Price",
    "Request",
    "UnmatchedCall",
]
