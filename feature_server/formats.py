"""Which layout stored bytes are written in: a number, `format`, looked at before anything else of them is decoded.

Where there is none it is 1. A version that changes a layout gives it the next number, and reads the one before too.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec

# Of what Redis is told anew. Of 1 a record's flags are `counts` alone; from 3 on a view says what readers must know
# (`needs`), so that no later number is needed for one that says more.
ONLINE_FORMAT = 3
BASED_FORMAT = 2  # of stream views that need nothing


class _Numbered(msgspec.Struct):
    format: Annotated[int, msgspec.Meta(ge=1)] = 1


def check_format(
    stored: bytes | Mapping[str, Any],
    what: str,
    newest: int,
    *,
    kind: Callable[..., Exception],
    where: str,
    remedy: str,
) -> int:
    """The number of what is stored, as JSON or decoded from it; raises `kind` where this version does not read it.

    Raises msgspec.DecodeError where that is no such number.
    """
    if isinstance(stored, bytes):
        found = msgspec.json.decode(stored, type=_Numbered).format
    else:
        found = msgspec.convert(stored, _Numbered).format
    if found > newest:
        known = [str(number) for number in range(1, newest + 1)]
        reads = known[0] if newest == 1 else f"{', '.join(known[:-1])} and {known[-1]}"
        raise kind(
            f"{what} is written in format {found}, this version reads {reads}",
            where=where, expected=f"format {reads}", got=f"format {found}", remedy=remedy,
        )  # fmt: skip
    return found
