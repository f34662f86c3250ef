"""The join key columns of a request → the names of the rows they ask for."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from .definitions import JoinKey
from .dtypes import INTEGER_WIDTHS
from .keys import key_encoder

NO_ENTITY = b"{}"  # an entity with a null key: no row has this name, because even an empty string is written as `%`
_ESCAPED = re.compile(r"[%|{}]")


def text_encoder(key: JoinKey) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """A function from a column of join key values to what stands for each in a row key: text or int, None for null.

    What `keys.key_encoder` does value by value, with a short cut for columns of plain integers or plain strings.
    """
    one = key_encoder(key)
    kind = key.dtype.kind
    if kind in INTEGER_WIDTHS:
        bits = INTEGER_WIDTHS[kind] * 8
        low, high = (0, 2**bits - 1) if kind.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)

        def integers(values: Sequence[Any]) -> Sequence[Any]:
            if set(map(type, values)) == {int} and low <= min(values) and max(values) <= high:
                return values
            return [one(value) for value in values]

        return integers
    if kind == "string":

        def strings(values: Sequence[Any]) -> Sequence[Any]:
            if set(map(type, values)) == {str} and "" not in values and not _ESCAPED.search("".join(values)):
                return values
            return [one(value) for value in values]

        return strings
    return lambda values: [one(value) for value in values]


def row_keys(code: bytes, columns: Sequence[Sequence[Any]]) -> list[bytes]:
    """The row key of each entity, from the encoded columns of its join keys: `keys.row_key`, many at a time."""
    if len(columns) > 1:
        return [
            code + (NO_ENTITY if None in parts else ("{" + "|".join(map(str, parts)) + "}").encode())
            for parts in zip(*columns, strict=True)
        ]
    (column,) = columns
    if not column:
        return []
    if type(column[0]) is int:  # then all are: see `text_encoder`
        return (b"%b{%%d}\0" % code * len(column) % tuple(column)).split(b"\0")[:-1]
    if None in column:
        return [code + NO_ENTITY if value is None else b"%b{%b}" % (code, str(value).encode()) for value in column]
    code_text = code.decode()
    return [f"{code_text}{{{value}}}".encode() for value in column]
