"""Mistral's wire format: documents that are read, paid by the page.

Field names: mistralai 3.7.0, `client/models/ocrrequest.py`, `ocrusageinfo.py` (read 2026-11-30).  A page that is annotated
costs one price and not two, as genai-prices 0.2.3 has it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from farebox._call import Call, Usage
from farebox.providers._openai_usage import read_head
from farebox.providers._reading import UnreadableUsage, count, fields, listed, text_of

OCR: Final = "/ocr"
#: Most pages of a document (https://docs.mistral.ai/capabilities/document_ai/basic_ocr, as told by
#: https://github.com/icereed/paperless-gpt, `docs/mistral_llm.md`, read 2026-11-30).
_MOST_PAGES: Final = 1_000
#: What is asked for where the request names no model.
_DEFAULT_MODEL: Final = "mistral-ocr-latest"
_RANGE: Final = re.compile(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?")


def read_ocr_request(provider_name: str, body: Mapping[str, Any], server_address: str) -> Call | None:
    """The call that a document makes; None for a malformed one."""
    document = fields(body.get("document"))
    if not document:
        return None
    call = Call(provider_name, "ocr", OCR, text_of(body.get("model")) or _DEFAULT_MODEL, server_address)
    call.choices, call.accepts_cap, call.has_images, call.messages = 0, False, True, 1
    pages = 1 if document.get("type") == "image_url" else _asked_for(body.get("pages"))
    call.unbounded = () if pages is not None else ("document (of so many pages)",)
    call.most_units = {_unit_of(body): _MOST_PAGES if pages is None else pages}
    return call


def _asked_for(pages: Any) -> int | None:
    """How many pages a request asks for, in a list or as "0-5,7"; None where it asks for all, or nobody can tell."""
    if isinstance(pages, str):
        asked = 0
        for part in pages.split(","):
            found = _RANGE.fullmatch(part)
            if found is None:
                return None
            first, last = int(found[1]), int(found[2] or found[1])
            asked += max(0, last - first) + 1
        return min(asked, _MOST_PAGES)
    items = listed(pages)
    return min(len(items), _MOST_PAGES) if items else None


def _unit_of(body: Mapping[str, Any]) -> str:
    annotates = body.get("bbox_annotation_format") or body.get("document_annotation_format")
    return "annotated_pages" if annotates else "pages"


def read_ocr_answer(call: Call, found: Mapping[str, Any]) -> None:
    """How many pages were read."""
    read_head(call, found)
    try:
        pages = count(fields(found.get("usage_info")), "pages_processed", required=True)
    except UnreadableUsage as reason:
        call.doubt = str(reason)
        return
    if pages:
        call.usage = Usage(**dict.fromkeys(call.most_units, pages))
    else:
        call.doubt = "usage.pages_processed is 0"
