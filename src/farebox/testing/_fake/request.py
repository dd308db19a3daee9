"""What the fake provider saw of one HTTP request."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import attrs

from farebox.testing._fake.google import model_in

_SECRET = {"authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie"}


@attrs.frozen(kw_only=True)
class Request:
    """One HTTP request, billed or not. Keys are never kept."""

    number: int  # 1, 2, 3, ... in the order of arrival
    method: str
    path: str  # without the query
    headers: Mapping[str, str]  # names in lower case; those that carry a key are left out
    has_key: bool  # whether one of those was there
    body: dict[str, Any] | None  # None if it was not a JSON object
    status: int | None  # None: not answered yet, or never
    request_id: str
    at: float  # epoch seconds

    @property
    def model(self) -> str:
        """The model asked for, "" if none was."""
        model = (self.body or {}).get("model")
        return model if isinstance(model, str) else model_in(self.path)

    @property
    def stream(self) -> bool:
        return (self.body or {}).get("stream") is True or self.path.endswith(":streamGenerateContent")


class RequestLog:
    """All requests in the order of arrival; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: list[Request] = []

    def add(
        self, method: str, path: str, headers: Mapping[str, str], body: dict[str, Any] | None, at: float
    ) -> Request:
        with self._lock:
            number = len(self._requests) + 1
            request = Request(
                number=number,
                method=method,
                path=path,
                headers={name: value for name, value in headers.items() if name not in _SECRET},
                has_key=not _SECRET.isdisjoint(headers),
                body=body,
                status=None,
                request_id=f"req_fake_{number:06d}",
                at=at,
            )
            self._requests.append(request)
            return request

    def answered(self, number: int, status: int) -> None:
        with self._lock:
            self._requests[number - 1] = attrs.evolve(self._requests[number - 1], status=status)

    def all(self) -> list[Request]:
        with self._lock:
            return list(self._requests)
