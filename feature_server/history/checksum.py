"""A checksum of a Parquet file, in its own metadata: Parquet readers see no byte that has changed within a value."""

import re
from hashlib import blake2b

KEY, BLANK = "features_checksum", "0" * 32
_PLACE = re.compile(KEY.encode() + rb"\x18\x20(.{32})", re.DOTALL)  # a text of 32 bytes in Thrift's compact protocol


def sealed(content: bytes) -> bytes:
    """A file that was written with BLANK under KEY, with its checksum there instead."""
    match = list(_PLACE.finditer(content))[-1]
    return content[: match.start(1)] + _checksum(content) + content[match.end(1) :]


def is_whole(content: bytes) -> bool | None:
    """Whether a file has the bytes that it was written with; None for one without a checksum."""
    found = _PLACE.findall(content)
    if not found:
        return None
    place = content.rindex(found[-1])
    return found[-1] == _checksum(content[:place] + BLANK.encode() + content[place + len(BLANK) :])


def _checksum(content: bytes) -> bytes:
    return blake2b(content, digest_size=len(BLANK) // 2).hexdigest().encode()
