"""A value that differs between the stores, as people read it."""

from collections.abc import Collection, Iterable

import msgspec

from ..errors import MAX_SHOWN, cut
from .explanation import MASK

_BEFORE = MAX_SHOWN // 3  # characters shown of what long values have in common


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A value that differs; `feature` is `*` where one side has no row, `key` also where that is so of a whole view."""

    key: str
    feature: str
    online: str
    offline: str
    cause: str

    def __str__(self) -> str:
        return f"{cut(self.key)} {self.feature}: online {self.online}, offline {self.offline}: {self.cause}"


def without_pii(differences: Iterable[Difference], pii: Collection[str]) -> tuple[Difference, ...]:
    """The same without the values of features that are `pii`: what differs is printed and kept in logs."""
    return tuple(
        msgspec.structs.replace(each, online=MASK, offline=MASK) if each.feature in pii else each
        for each in differences
    )


def described(key: str, places: Iterable[tuple[str, str, str]], cause: str) -> list[Difference]:
    """The differences of a key, given as name, online and offline value; long values cut to where they differ."""
    return [
        Difference(key=key, feature=name, online=one, offline=other, cause=cause)
        for name, *values in places
        for one, other in [_cut_to_difference(*values)]
    ]


def _cut_to_difference(one: str, other: str) -> tuple[str, str]:
    if max(len(one), len(other)) <= MAX_SHOWN:
        return one, other
    pairs = enumerate(zip(one, other, strict=False))
    start = next((at for at, (a, b) in pairs if a != b), min(len(one), len(other))) - _BEFORE
    if start > 0:
        one, other = f"...{one[start:]}", f"...{other[start:]}"
    return cut(one), cut(other)
