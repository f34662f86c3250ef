"""The names of everything kept in Redis. `docs/redis_layout.md` says the same for readers in other languages.

A row's key is `<code>{<entity>}`: the code of the view's generation, then the join key values in braces, so that on
Redis Cluster the rows of one entity share a slot. An integer is its decimal digits, a string is itself, a date is ISO,
a UUID is canonical lower case, a boolean is `true` or `false`; several keys are joined by `|`. In a string, `%`, `|`,
`{` and `}` are written as `%25`, `%7C`, `%7B`, `%7D`, the empty string as `%`, so that no two entities share a key.
"""

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

from ..definitions.facts import JoinKey
from ..dtypes import INTEGER_WIDTHS, integer_bounds
from ..errors import NO_UTF8, RequestError, shown

REGISTRY = b"features:registry"  # the online registry, JSON (see `online.OnlineRegistry`)
EPOCH = b"features:epoch"  # changes whenever REGISTRY does; read with every batch of rows
NEXT_CODE = b"features:next_code"  # counter that row key codes are drawn from
CODES = b"features:codes"  # hash: code → `online.Generation`, every code under which there may be rows
ROWS = b"features:rows"  # hash: code → how many rows were written under it, less those deleted
FENCE = b"features:fence:"  # + view id: the token of the sync that may write
LOG = b"features:log:"  # + event source: stream of the events pushed, until the warehouse has them
VERIFIED = b"features:verified:"  # + view id: what the last `features verify` found, JSON
EVENTS = b"features:events:"  # + event source: stream that producers write to, read by the consumer group GROUP
DEAD = b"features:dead:"  # + event source: stream of those refused
GROUP = b"features"
LOCK = b"features:lock:"  # + view id: who is syncing, with an expiry
KEYS = b"features:keys"  # keys of access, JSON: a copy of the file beside the registry
LANDING = b"features:landing:"  # + event source: first and last entry of the log that the next landed file holds
BASE = b".base"  # between code and braces: the base of the key's lifetime windows; no code has a dot

NAMESPACE = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Names:
    """The names of one store's keys: those above, and the codes of its rows, behind its `namespace` and a colon."""

    def __init__(self, namespace: str = "") -> None:
        self.namespace = namespace
        self._prefix = f"{namespace}:".encode() if namespace else b""
        self.registry, self.epoch = self._prefix + REGISTRY, self._prefix + EPOCH
        self.next_code, self.codes, self.rows = self._prefix + NEXT_CODE, self._prefix + CODES, self._prefix + ROWS
        self.reload = [self.epoch, self.registry]
        self.keys = self._prefix + KEYS

    def code(self, number: int) -> str:
        """The code of rows that has this number."""
        return self._prefix.decode() + code_text(number)

    def fence(self, view: str) -> bytes:
        return self._prefix + FENCE + view.encode()

    def lock(self, view: str) -> bytes:
        return self._prefix + LOCK + view.encode()

    def verified(self, view: str) -> bytes:
        return self._prefix + VERIFIED + view.encode()

    def log(self, source: str) -> bytes:
        return self._prefix + LOG + source.encode()

    def landing(self, source: str) -> bytes:
        return self._prefix + LANDING + source.encode()

    def events(self, source: str) -> bytes:
        return self._prefix + EVENTS + source.encode()

    def dead(self, source: str) -> bytes:
        return self._prefix + DEAD + source.encode()


NAMES = Names()  # of a store without a namespace

ESCAPES = {"%": "%25", "|": "%7C", "{": "%7B", "}": "%7D"}  # "%" first: the others write one
_INTEGER = re.compile(r"-?[0-9]{1,1000}")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def code_text(number: int) -> str:
    """A counter as a short row key code: 0 → `0`, 61 → `Z`, 62 → `10`."""
    text = _DIGITS[number % 62]
    while number := number // 62:
        text = _DIGITS[number % 62] + text
    return text


def row_key(code: bytes, parts: Sequence[str]) -> bytes:
    return b"%b{%b}" % (code, "|".join(parts).encode())


def key_encoder(key: JoinKey) -> Callable[[object], str | None]:
    """A function from one join key value, as JSON or Python gives it, to its text in a row key; None stays None.

    Raises RequestError for a value that is not of the key's type: nothing is coerced but a date or UUID given as text.
    """
    if key.dtype.kind in INTEGER_WIDTHS:
        return _integer_encoder(key)
    type_, parse, text = _TEXTS[key.dtype.kind]

    def encode(value: object) -> str | None:
        if value is None:
            return None
        try:
            found = parse(value) if isinstance(value, str) and parse is not None else value
        except ValueError:
            raise wrong_type(key, value) from None
        if not isinstance(found, type_) or isinstance(found, datetime):  # which is a date
            raise wrong_type(key, found)
        if isinstance(found, str) and not found.isascii() and NO_UTF8.search(found):
            raise wrong_type(key, found, "text that UTF-8 can hold: half of a surrogate pair is no character")
        return text(found)

    return encode


def _integer_encoder(key: JoinKey) -> Callable[[object], str | None]:
    low, high = integer_bounds(key.dtype.kind)

    def encode(value: object) -> str | None:
        if value is None:
            return None
        if type(value) is not int:
            if isinstance(value, bool) or not hasattr(value, "__index__"):
                raise wrong_type(key, value)
            value = operator.index(value)  # type: ignore[arg-type]
        if not low <= value <= high:
            raise wrong_type(key, value)
        return str(value)

    return encode


def _is_plain(text: str) -> bool:
    return not ("%" in text or "|" in text or "{" in text or "}" in text)  # a tenth of a regular expression's time


def _escaped(text: str) -> str:
    if not _is_plain(text):
        for character, escaped in ESCAPES.items():
            text = text.replace(character, escaped)
    return text


# Each other type, what reads it from text, if anything, and its text in a row key.
_TEXTS: dict[str, tuple[type, Callable[[str], object] | None, Callable[[Any], str]]] = {
    "string": (str, None, lambda value: _escaped(value) or "%"),
    "date": (date, date.fromisoformat, date.isoformat),
    "uuid": (UUID, UUID, str),
    "bool": (bool, None, lambda value: "true" if value else "false"),
}


def key_value(key: JoinKey, text: str) -> Any:
    """The value that a text stands for; what is no such value stays text, and is refused by the key's encoder."""
    if key.dtype.kind == "bool":
        return {"true": True, "false": False}.get(text, text)
    return int(text) if key.dtype.kind in INTEGER_WIDTHS and _INTEGER.fullmatch(text) else text


def entity_text(keys: Iterable[JoinKey], values: Mapping[str, str]) -> str:
    """An entity, given as text, as `customer_id=42|merchant_id=7`: names sorted, values as in row keys."""
    texts = [(key.name, key_encoder(key)(key_value(key, values[key.name]))) for key in keys]
    return "|".join(f"{name}={text}" for name, text in sorted(texts, key=operator.itemgetter(0)))


def wrong_type(key: JoinKey, value: object, example: str | None = None) -> RequestError:
    if isinstance(value, float) and value != value:
        example = 'null for a key that is missing; in pandas, the dtypes "Int64" and "string" keep it'
    return RequestError(
        f"a value of join key {key.name!r} has the wrong type",
        where=f"entities.{key.name}",
        expected=f"{key.dtype}",
        got=f"{shown(value)} ({type(value).__name__})",
        remedy=f"send {key.name} as {example or _EXAMPLES.get(key.dtype.kind, 'an integer, e.g. 42')}",
    )


_EXAMPLES = {
    "string": 'a string, e.g. "…"',
    "date": 'an ISO date, e.g. "2013-12-31"',
    "uuid": 'a UUID, e.g. "123e4567-e89b-12d3-a456-426614174000"',
    "bool": "true or false",
}


NO_ENTITY = b"{}"  # an entity with a null key: no row has this name, because even an empty string is written as `%`


def text_encoder(key: JoinKey) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """A function from a column of join key values to what stands for each in a row key: text or int, None for null.

    What `layout.keys.key_encoder` does value by value, with a short cut for columns of plain integers or plain strings.
    """
    one, kind = key_encoder(key), key.dtype.kind
    low, high = integer_bounds(kind) if kind in INTEGER_WIDTHS else (0, 0)

    def encode(values: Sequence[Any]) -> Sequence[Any]:
        types = set(map(type, values))
        if kind == "string":
            plain = (
                types == {str}
                and "" not in values
                and _is_plain(text := "".join(values))
                and (text.isascii() or not NO_UTF8.search(text))
            )
        else:
            plain = kind in INTEGER_WIDTHS and types == {int} and low <= min(values) and max(values) <= high
        return values if plain else [one(value) for value in values]

    return encode


def row_keys(code: bytes, columns: Sequence[Sequence[Any]]) -> list[bytes]:
    """The row key of each entity, from the encoded columns of its join keys: `layout.keys.row_key`, many at a time."""
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
