"""Why a model cannot be evaluated on live events."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import msgspec
from sqlglot import exp

WRITTEN = "written"  # key of a node's meta: its SQL before it was qualified
LONGEST = 300  # characters of an expression that are shown


class Refusal(msgspec.Struct, frozen=True):
    """One expression that cannot be kept in real time, and what to write instead."""

    expression: str
    what: str
    instead: str

    def __str__(self) -> str:
        return f"{self.what}: {self.expression}\n  write instead: {self.instead}"


class Refused(Exception):
    """Raised with every refusal found in a model."""

    def __init__(self, refusals: list[Refusal]) -> None:
        self.refusals = tuple(refusals)
        super().__init__("\n".join(map(str, refusals)))


class Refusals:
    """Collects refusals while a model is read, each once."""

    def __init__(self) -> None:
        self.found: list[Refusal] = []

    def add(self, expression: exp.Expr | str, what: str, instead: str) -> None:
        """Refuse an expression, shown as the model has it where that was noted."""
        if isinstance(expression, exp.Expr):
            expression = str(expression.meta.get(WRITTEN) or expression.sql(dialect="duckdb"))
        text = expression if len(expression) <= LONGEST else f"{expression[: LONGEST - 2]} …"
        refusal = Refusal(text, what, instead)
        if refusal not in self.found:
            self.found.append(refusal)

    def refuse(self, expression: exp.Expr | str, what: str, instead: str) -> NoReturn:
        """Refuse an expression that nothing more can be said without."""
        self.add(expression, what, instead)
        raise Refused(self.found)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Note what a block refuses, and go on after it."""
        try:
            yield
        except Refused as refused:
            self.found += [refusal for refusal in refused.refusals if refusal not in self.found]

    def check(self) -> None:
        """Raise Refused if anything was refused so far."""
        if self.found:
            raise Refused(self.found)
