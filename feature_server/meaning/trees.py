"""Trees of plain lists as text."""

from typing import Any

import msgspec


def text_of(tree: Any) -> bytes:
    return msgspec.json.encode(tree, order="deterministic")
