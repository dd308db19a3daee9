"""Where the requests of an SDK are read, published, rewritten and sent: a file for each build of SDK.

A provider names the build of its SDK as `seam`; the file is imported when the SDK is metered.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final

from farebox.providers import Provider
from farebox.seams._patches import CLIENT_MARK as CLIENT_MARK
from farebox.seams._patches import Patches as Patches

_KINDS: Final = {
    "stainless": "StainlessSeam",
    "google": "GoogleSeam",
    "mistral": "MistralSeam",
    "cohere": "CohereSeam",
}


def seam_of(provider: Provider) -> Patches:
    """The seam of a provider's SDK, which is still to be installed.

    Raises:
        ValueError: it names a build of SDK that nobody here knows.
    """
    kind = getattr(provider, "seam", "stainless")
    if kind not in _KINDS:
        raise ValueError(f"provider {provider.name!r} has seam={kind!r}; choose from {', '.join(map(repr, _KINDS))}")
    seam: Patches = getattr(import_module(f"farebox.seams.{kind}"), _KINDS[kind])(provider)
    return seam
