"""Trees of plain lists as text, and as hashes."""

from hashlib import blake2b
from typing import Any

import msgspec


def digest(tree: Any) -> str:
    return blake2b(text_of(tree), digest_size=8).hexdigest()


def text_of(tree: Any) -> bytes:
    return msgspec.json.encode(tree, order="deterministic")
