"""The second stack of Google's SDK: `client.interactions` and what else is made of `_gaos`, which has plumbing of its own."""

from __future__ import annotations

from typing import Any, Final

from farebox.seams._patches import Patches, incompatible
from farebox.seams._speakeasy import Stack, sends

MODULE: Final = "google.genai._gaos.basesdk"
#: The base classes, the method of each that sends, and the HTTP client that it sends through: as this stack calls it, and as
#: the SDK's other one does, whose clients are marked.
_STACKS: Final = (
    ("BaseSDK", "do_request", "client", "_httpx_client"),
    ("AsyncBaseSDK", "do_request_async", "async_client", "_async_httpx_client"),
)


def stacks(module: Any, sdk: Any) -> list[tuple[type, str, str, str]]:
    """The classes to wrap, with the names of `_STACKS`.

    Raises:
        IncompatibleSDK: they look different.
    """
    found = []
    for cls, method, *clients in _STACKS:
        base = getattr(module, cls, None)
        if base is None or not sends(base, method):
            raise incompatible(sdk, f"{cls} has no `{method}` as it had")
        found.append((base, method, *clients))
    return found


class Interactions(Stack):
    """What is put over one of the two methods."""

    def __init__(self, seam: Patches, client_name: str, twin_name: str) -> None:
        super().__init__(seam, client_name)
        self._twin_name = twin_name

    def mark_of(self, sdk: Any) -> Any:
        sender = getattr(sdk.sdk_configuration, self.client_name, None)
        return next((one for one in list(self.seam.clients) if getattr(one, self._twin_name, None) is sender), None)
