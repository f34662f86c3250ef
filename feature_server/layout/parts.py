"""The names under which Redis holds what is pii.

Redis gives and denies whole keys, by patterns of names that a user may read: so the row of a key of a batch view with
pii features is in two parts, the others' and theirs, each a row as any other. The code of theirs begins with `!`, as no
other does. The events of a stream view are one part: under such a code where anything of them is pii.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from ..definitions.facts import FeatureView
from ..times import from_us
from .row import RowDecoder

PII = "pii"  # in `needs` of what is online: a reader must know of these names
MARK = "!"


def pii_code(code: str) -> str:
    """The code of the part that is pii; a namespace stays before it."""
    namespace, colon, rest = code.rpartition(":")
    return f"{namespace}{colon}{MARK}{rest}"


def is_pii_code(code: str) -> bool:
    return code.rpartition(":")[2].startswith(MARK)


def row_parts(view: FeatureView, code: str) -> tuple[tuple[str, FeatureView], ...]:
    """The parts of a view's rows: the code of each, and the view with the features that it has; none without any."""
    if view.stream is not None or not view.pii_names:
        return ((code, view),)
    others = tuple(feature for feature in view.features if not feature.pii)
    theirs = tuple(feature for feature in view.features if feature.pii)
    parts = ((code, others), (pii_code(code), theirs))
    return tuple((of, msgspec.structs.replace(view, features=features)) for of, features in parts if features)


class PartsDecoder:
    """Decodes the rows of one feature view, of all their parts; `codes` are those of the parts."""

    def __init__(self, view: FeatureView, code: str) -> None:
        parts = row_parts(view, code)
        self.codes = tuple(of for of, _ in parts)
        self._decoders = [RowDecoder(part.features) for _, part in parts]
        held = [name for decoder in self._decoders for name in decoder.names]
        self._order = [held.index(name) for name in view.feature_names]

    def decode(self, parts: Sequence[bytes | None]) -> tuple[int, list[Any]]:
        """As `RowDecoder.decode`; ValueError also where the parts are not of one row."""
        decoded = [
            decoder.decode(part) for decoder, part in zip(self._decoders, parts, strict=True) if part is not None
        ]
        if len(decoded) < len(parts):
            raise ValueError("a part of it is gone")
        if len({event_us for event_us, _ in decoded}) > 1:
            raise ValueError(f"its parts are of {' and '.join(str(from_us(event_us)) for event_us, _ in decoded)}")
        values = [value for _, held in decoded for value in held]
        return decoded[0][0], [values[place] for place in self._order]
