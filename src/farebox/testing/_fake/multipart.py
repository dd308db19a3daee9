"""Multipart bodies: fields as text, files as bytes."""

from __future__ import annotations

from email.parser import BytesParser
from email.policy import HTTP
from typing import Any


def read_multipart(content_type: str, body: bytes) -> dict[str, Any]:
    """Fields and files by name; a name that comes again, or ends in "[]", has a list."""
    message = BytesParser(policy=HTTP).parsebytes(b"content-type: " + content_type.encode() + b"\r\n\r\n" + body)
    found: dict[str, Any] = {}
    for part in message.iter_parts():
        name = str(part.get_param("name", header="content-disposition"))
        content: Any = part.get_payload(decode=True)
        value = content if part.get_filename() is not None else content.decode()
        if name.endswith("[]") or name in found:
            name = name.removesuffix("[]")
            before = found.get(name, [])
            found[name] = [*(before if isinstance(before, list) else [before]), value]
        else:
            found[name] = value
    return found
