"""Where the requests of a client go, worked out once: for farebox, which has to know, and for the SDK, which would each time.

An SDK merges the path of each request with the address of its client, and parses both anew: as long as all of farebox takes
before a call.  The same two give the same address, which nobody can change (httpx 0.28.1 `_urls.py`: a URL has no setter;
read 2026-11-30), so that the SDK gets the one it made before.
"""

from __future__ import annotations

import inspect
from typing import Any, Final

_MARK: Final = "_farebox_addresses"
_WORKED_OUT: Final = object()
#: Paths that are kept of a client: some have the id of an answer in them, and are asked for once.
_MOST_PATHS: Final = 64


class Addresses:
    """What is known of a client at one address.

    Attributes:
        stored_url: The address in `_base_url` of the client, the very object, as it is never changed and only replaced;
            where the client does not keep it there, but works it out each time it is asked, what nobody keeps.
        base_url: The address.
        read: Path, host and reader of what is asked for, by what the SDK is asked for; whoever reads requests fills it.
        urls: What the SDK makes of it.
    """

    __slots__ = ("base_url", "read", "stored_url", "urls")

    def __init__(self, base_url: Any, stored_url: Any) -> None:
        self.base_url = base_url
        self.stored_url = stored_url
        self.read: dict[str, tuple[str, str, Any]] = {}
        self.urls: dict[str, Any] = {}


def addresses(client: Any) -> Addresses:
    """What is known of the addresses of `client`, which is nothing once it has another."""
    fields = client.__dict__
    known: Addresses | None = fields.get(_MARK)
    if known is None or known.stored_url is not fields.get("_base_url"):
        base_url = client.base_url
        if known is None or known.base_url is not base_url:
            known = fields[_MARK] = Addresses(base_url, base_url if _is_stored(type(client)) else _WORKED_OUT)
    return known


def _is_stored(kind: type) -> bool:
    """Whether clients of this class keep their address in `_base_url`, as those of an SDK do.

    One of the program's own may work it out, and so does the client behind the functions of `openai` itself, whose
    `openai.base_url` anybody can set (openai 3.57.0 `__init__.py` line 285, read 2026-11-30).
    """
    sdk = next(cls for cls in reversed(kind.__mro__) if "_prepare_url" in vars(cls)).__module__.partition(".")[0]
    base_url = next(vars(cls)["base_url"] for cls in kind.__mro__ if "base_url" in vars(cls))
    # Not the module of the class: an SDK gives it the name that users know.
    if not isinstance(base_url, property) or not base_url.fget.__module__.startswith(f"{sdk}."):
        return False
    return not any("_base_url" in vars(cls) for cls in kind.__mro__)


def keep(known: dict[str, Any], path: str, what: Any) -> None:
    """Remember what a path stands for, and forget them all where a program has asked for too many."""
    if len(known) >= _MOST_PATHS:
        known.clear()
    known[path] = what


def can_remember(cls: type) -> bool:
    """Whether `_prepare_url` of a class is its SDK's own: one that was put over it may send each request elsewhere."""
    method = vars(cls)["_prepare_url"]
    is_own = method.__module__ == cls.__module__ and not hasattr(method, "__wrapped__")
    return is_own and list(inspect.signature(method).parameters) == ["self", "url"]


def remember_urls(original: Any) -> Any:
    """Wrap `_prepare_url` of an SDK's base client."""

    def _prepare_url(client: Any, url: str) -> Any:
        known = addresses(client)
        found = known.urls.get(url)
        if found is None:
            found = original(client, url)
            if addresses(client) is known:  # else somebody has set another meanwhile, and it may be of that one
                keep(known.urls, url, found)
        return found

    return _prepare_url
