"""Warnings that point at the program's own line, not at one of ours or of an SDK."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Final

_logger = logging.getLogger("farebox")

_NOT_THE_PROGRAM: Final = ("farebox", "openai", "anthropic", "google", "mistralai", "cohere", "asyncio", "contextlib")


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line of the program that is the reason."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _NOT_THE_PROGRAM:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def warn_late(message: str, category: type[Warning]) -> None:
    """Warn; where warnings are errors log it, for neither a paid answer nor a budget that only warns may raise."""
    try:
        warn(message, category)
    except Warning:
        _logger.warning("%s", message)
