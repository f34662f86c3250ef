"""What compiling a stream view gives, apart from the compiler: where it is kept none is needed."""

import msgspec

from ..definitions.stream import StreamPlan


class Planned(msgspec.Struct, frozen=True):
    """A view's plan, and the relation of its source as the models write it."""

    plan: StreamPlan
    relation: str


class NoPlan(Exception):
    """Raised where it has been reported why a view has none."""
