"""Marks in a template's text, so that each place of what it renders is known by the file and line it was written on."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence

import msgspec
from jinja2 import Environment

_BEGIN, _END = "\ue000", "\ue001"  # of Unicode's private use: no SQL has them
_MARK = re.compile(f"{_BEGIN}([0-9]+):([0-9]+){_END}")


class Place(msgspec.Struct, frozen=True, order=True):
    """A line of a file of the project."""

    file: str
    line: int


class Written(msgspec.Struct, frozen=True):
    """Rendered SQL; `places` are those of its parts, each from an offset on."""

    sql: str
    offsets: tuple[int, ...]
    places: tuple[Place, ...]

    def place(self, offset: int) -> Place:
        """Where the character at an offset was written."""
        return self.places[max(bisect_right(self.offsets, offset) - 1, 0)]


def marked(environment: Environment, text: str, file: int) -> str:
    """A template that leaves a mark before each line of its own text, and where text goes on after an expression."""
    return "".join(_marked(environment, text, file))


def _marked(environment: Environment, text: str, file: int) -> Iterator[str]:
    for line, kind, value in environment.lex(text):
        if kind != "data":
            yield value
            continue
        parts = value.splitlines(keepends=True)
        for number, part in enumerate(parts):
            yield f"{_BEGIN}{file}:{line + number}{_END}{part}"
        if value.endswith("\n"):  # what an expression gives begins on the next line
            yield f"{_BEGIN}{file}:{line + len(parts)}{_END}"


def unmarked(text: str, files: Sequence[str], own: str) -> Written:
    """Rendered text of file `own` without its marks, which say where its parts are from; `files` by their numbers."""
    sql, offsets, places, length = list[str](), [0], [Place(own, 1)], 0
    end = 0
    for mark in _MARK.finditer(text):
        sql.append(text[end : mark.start()])
        length += len(sql[-1])
        offsets.append(length)
        places.append(Place(files[int(mark[1])], int(mark[2])))
        end = mark.end()
    return Written("".join([*sql, text[end:]]), tuple(offsets), tuple(places))


def plain(text: str) -> str:
    """Text without marks."""
    return _MARK.sub("", text)
