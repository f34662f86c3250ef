"""What only dbt or the warehouse could say, where a project's Jinja is rendered without them."""

from collections.abc import Iterator
from typing import Any, ClassVar

from jinja2 import ChainableUndefined
from jinja2.utils import missing


class Unknown(ChainableUndefined):
    """What only dbt or the warehouse could say: called, iterated or looked into, it stays unknown. Where a text depends
    on it, by a loop or a test, its name is noted in `asked`: the text is but a guess."""

    asked: ClassVar[dict[str, None]] = {}

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self

    def __str__(self) -> str:
        return "unknown"

    def __iter__(self) -> Iterator[Any]:
        self._ask()
        return iter(())

    def __bool__(self) -> bool:
        self._ask()
        return False

    def __len__(self) -> int:
        self._ask()
        return 0

    def __eq__(self, other: object) -> bool:
        self._ask()
        return type(self) is type(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = ChainableUndefined.__hash__

    def _ask(self) -> None:
        if self._undefined_hint is None and self._undefined_obj is missing:  # else it is nothing to dbt either
            self.asked[self._undefined_name or "it"] = None


class Nothing(Unknown):
    """A variable that is null, as it is in dbt."""

    def _ask(self) -> None:
        pass
