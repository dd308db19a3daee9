"""Google's explicit caches, of the Gemini API and of Vertex AI: their input is charged once, and storage for their time.

Source of the fields: `caches.py` of the google-genai SDK 3.6.  Of the prices: https://ai.google.dev/gemini-api/docs/pricing, as it
is quoted in public repositories, read 2026-11-30.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from farebox.testing._fake.bill import BillLine
from farebox.testing._fake.desk import Desk
from farebox.testing._fake.dialect import Ask, Fault
from farebox.testing._fake.prices import Charge, price_of
from farebox.testing._fake.request import Request
from farebox.testing._fake.server import Connection, Incoming

_PATH = re.compile(r"^/v1[a-z0-9]*/(?P<place>projects/[^/]+/locations/[^/]+/)?cachedContents(?:/(?P<name>[^/:]+))?$")
# USD for a million tokens and an hour.
STORAGE = {"gemini-2.5-pro": 4.5}
USUAL_STORAGE = 1.0
USUAL_SECONDS = 3_600


@attrs.define
class _Cache:
    place: str
    model: str
    tokens: int
    created: datetime
    expires: datetime


@attrs.define
class GoogleCaches:
    """Every method may be called from any thread."""

    desk: Desk
    _caches: dict[str, _Cache] = attrs.field(factory=dict)

    def serves(self, incoming: Incoming) -> bool:
        found = _PATH.match(incoming.path)
        return found is not None and (incoming.method == "POST") == (found["name"] is None)

    def answer(self, incoming: Incoming, connection: Connection) -> None:
        found, desk = _PATH.match(incoming.path), self.desk
        assert found is not None
        body = json.loads(incoming.body) if incoming.body else {}
        request = desk.log.add(incoming.method, incoming.path, incoming.headers, body, desk.clock())
        status, payload = 200, {}
        with desk.lock:
            try:
                fail = desk.script.fails.draw("")
                if fail is not None:
                    raise Fault(fail.status, fail.message)
                if found["name"] is None:
                    payload = self._make(request, found["place"] or "", body)
                elif found["name"] not in self._caches:
                    raise Fault(404, "CachedContent not found")
                elif incoming.method == "PATCH":
                    payload = self._keep(request, found["name"], body)
                elif incoming.method == "DELETE":
                    del self._caches[found["name"]]
                else:
                    payload = self._shown(found["name"])
            except Fault as fault:
                status, payload = fault.status, {"error": {"code": fault.status, "message": fault.message}}
        desk.log.answered(request.number, status)
        odd = desk.script.odds.draw("")
        connection.answer_json(status, {}, payload if odd is None else odd.payload(payload))

    def _make(self, request: Request, place: str, body: dict[str, Any]) -> dict[str, Any]:
        model = str(body["model"]).rpartition("/")[2]
        url = f"/v1/models/{model}:generateContent"
        ask: Ask = self.desk.dialect_of("POST", url).read(url, body, self.desk.tokenizer)
        now = self._now()
        name = f"fake-{request.number:06d}"
        self._caches[name] = cache = _Cache(place, model, ask.input_tokens, now, now)
        self._charge(request, name, cache.tokens, _end(body, now), now)
        return self._shown(name)

    def _keep(self, request: Request, name: str, body: dict[str, Any]) -> dict[str, Any]:
        self._charge(request, name, 0, _end(body, self._now()), self._caches[name].expires)
        return self._shown(name)

    def _charge(self, request: Request, name: str, tokens: int, end: datetime, paid_until: datetime) -> None:
        """For input, and for what is kept longer than it was paid for.  A time that is cut short is not given back."""
        cache = self._caches[name]
        cache.expires = end
        milliseconds = max(0, (end - paid_until) // timedelta(milliseconds=1))
        micro_usd = round(STORAGE.get(cache.model, USUAL_STORAGE) * 1_000_000)
        picos = cache.tokens * milliseconds * micro_usd // 3_600_000
        price = price_of(cache.model, self.desk.prices)
        if price is None:
            raise Fault(404, f"models/{cache.model} is not found")
        self.desk.till.charge(
            price,
            BillLine(
                number=0,
                path=request.path,
                model=cache.model,
                stream=False,
                input_tokens=tokens,
                cached_tokens=0,
                cache_write_tokens=0,
                cache_write_1h_tokens=0,
                output_tokens=0,
                reasoning_tokens=0,
                usd_nanos=0,
                finished=True,
                request_id=request.request_id,
                response_id=f"cachedContents/{name}",
                at=self.desk.clock(),
                charges=(Charge("storage", 1, picos),),
            ),
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.desk.clock(), UTC)

    def _shown(self, name: str) -> dict[str, Any]:
        cache = self._caches[name]
        return {
            "name": f"{cache.place}cachedContents/{name}",
            "model": f"models/{cache.model}",
            "createTime": _time(cache.created),
            "updateTime": _time(self._now()),
            "expireTime": _time(cache.expires),
            "usageMetadata": {"totalTokenCount": cache.tokens},
        }


def _end(body: dict[str, Any], now: datetime) -> datetime:
    if "expireTime" in body:
        return datetime.fromisoformat(body["expireTime"])
    return now + timedelta(seconds=float(str(body.get("ttl", f"{USUAL_SECONDS}s")).removesuffix("s")))


def _time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
