"""Fills in the templates of this folder. What they print is escaped for the page's language, whatever it holds."""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_ENTITIES = str.maketrans({character: f"&#{ord(character)};" for character in "&<>|`*_[]"})


def render(name: str, **facts: Any) -> str:
    """The page that the template of that name makes of the facts."""
    environment = _MARKDOWN if name.endswith(".md") else _HTML
    return environment.get_template(name).render(facts)


def compile_pages() -> None:
    """Compile the HTML pages now, lest a read wait until the first of them is."""
    for name in _HTML.list_templates(extensions=["html", "css"]):
        _HTML.get_template(name)


def _ago(seconds: int) -> str:
    """A whole number of seconds before now."""
    if seconds < 0:
        return "in the future"
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size:,} {unit} ago"
    return f"{seconds} s ago"


def _markdown(value: object) -> Markup:
    """Text on one line, with the characters that Markdown would take for its own written as entities."""
    return value if isinstance(value, Markup) else Markup(" ".join(str(value).split()).translate(_ENTITIES))


_HTML = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    auto_reload=False,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_HTML.filters |= {"ago": _ago, "json": json.dumps, "number": "{:,}".format}
_MARKDOWN = _HTML.overlay(finalize=_markdown)
