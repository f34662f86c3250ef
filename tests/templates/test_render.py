"""What templates print is escaped for the page's language; a name that is not there is an error, no empty place."""

from __future__ import annotations

from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from jinja2 import UndefinedError

from feature_server.app.describe import (
    Seen,
    describe_entity,
    describe_service,
    describe_view,
    service_request,
    view_request,
)
from feature_server.catalog.status import Status
from feature_server.definitions.facts import Entity, Feature, FeatureRef, FeatureService, FeatureView, JoinKey, Owner
from feature_server.definitions.registry import Registry
from feature_server.dtypes import parse_dtype
from feature_server.history.live import LiveSource
from feature_server.online.registry import OnlineRegistry, OnlineView
from feature_server.templates.render import render
from feature_server.verify.explanation import Explanation, Window, bounds

ODD = """</title><script>alert('1 & "2"')</script>"""
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = JoinKey(ODD, parse_dtype("int64"))
OWNER = Owner(name=ODD, email=ODD)
VIEW = FeatureView(
    name=ODD, entities=(ODD,), join_keys=(KEY,), description=ODD, owner=OWNER, refresh=ODD, event_timestamp=ODD,
    features=(Feature(name=ODD, dtype=parse_dtype("int64"), description=ODD),),
)  # fmt: skip
SERVICE = FeatureService(name=ODD, description=ODD, owner=OWNER, features=(FeatureRef(ODD, ODD, ODD),))
STORED = OnlineView(
    code="a",
    definition=VIEW,
    table_version=0,
    synced_at_us=0,
    rows=1234,
    newest_event_us=0,
    table_id="t",
    expires=False,
)
ONLINE = OnlineRegistry(
    registry=Registry(
        project=ODD,
        entities=(Entity(name=ODD, join_keys=(KEY,), description=ODD),),
        feature_views=(VIEW,),
        feature_services=(SERVICE,),
    ),
    views={VIEW.id: STORED},
)
EXPLAINED = Explanation(
    feature=f"{ODD}:{ODD}", key={ODD: ODD}, at=NOW, value=ODD, status="PRESENT", warehouse=ODD, agree=False, sql=ODD,
    windows=(Window(aggregate=ODD, start=None, end=NOW, events=2, shown=({ODD: ODD},)),), latest={ODD: ODD},
    newest_event=None, file=ODD,
)  # fmt: skip


def odd_pages() -> dict[str, str]:
    """Every HTML page, with ODD wherever a text can stand."""
    view = describe_view(Seen(ONLINE), VIEW) | {"stream": ODD}
    service = describe_service(Seen(ONLINE), SERVICE)
    live = [LiveSource(source=ODD, pushes=1, oldest_seconds=150.0, unread=2)]
    facts = {
        "index.html": {
            "online": ONLINE, "live": live, "now_us": -1, "clock": ODD, "standings": {},
        },
        "view.html": {"view": view, "address": ODD, "example": view_request(view, most=3)},
        "service.html": {"service": service, "address": ODD, "example": service_request(service)},
        "entity.html": {"entity": describe_entity(Seen(ONLINE), ONLINE.registry.entities[0])},
        "explain.html": {"found": EXPLAINED, "bounds": bounds},
        "error.html": {"what": ODD, "text": ODD},
    }  # fmt: skip
    return {name: render(name, **given) for name, given in facts.items()}


class Reader(HTMLParser):
    """Tags with their attributes and the text between them, as a browser reads a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize(("name", "page"), odd_pages().items())
def test_no_text_of_a_definition_or_event_becomes_markup(name: str, page: str) -> None:
    read = Reader(page)
    assert read.texts.count(ODD) >= 2, "the title and the heading, as they were written"
    assert "script" not in read.tags
    allowed = {"lang", "charset", "name", "content", "class", "href", "action", "aria-label", "required", "placeholder"}
    assert {name for name, _ in read.attributes} <= allowed


def test_a_name_in_a_link_is_quoted_and_an_address_keeps_its_quotes() -> None:
    addresses = [value for name, value in Reader(odd_pages()["view.html"]).attributes if name == "href"]
    quoted = "%3C/title%3E%3Cscript%3Ealert%28%271%20%26%20%222%22%27%29%3C/script%3E"
    assert addresses == [
        "/", f"/entities/{quoted}", f"mailto:{ODD}", f"/feature-services/{quoted}",
    ]  # fmt: skip


def test_numbers_and_ages_are_written_for_people() -> None:
    texts = Reader(odd_pages()["index.html"]).texts
    assert "1,234" in texts
    assert "in the future" in texts, "the newest event is a microsecond from now"
    assert "1 push, the first 2 min ago" in texts
    assert "2 events" in texts


def test_a_fact_without_a_value_has_no_row() -> None:
    view = describe_view(Seen(ONLINE), VIEW) | {"online": None, "refresh": None, "owner": None}
    texts = Reader(render("view.html", view=view, address="", example=view_request(view, most=1))).texts
    assert [text for text in ("ttl", "Refresh", "Owner", "Rows online", "Synced") if text in texts] == [
        "ttl", "Rows online",
    ]  # fmt: skip


def test_a_fact_that_a_page_needs_and_is_not_given_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="entity"):
        render("entity.html")


def test_markdowns_own_characters_are_entities_and_a_text_is_one_line() -> None:
    page = render(
        "overview.md", registry=Registry(project="a|b *c*\n`d` [e]_f_ <g> & h"), status=Status(at=NOW, views=()),
        own_text="", freshness=[], services=[], entities=[], picture="", grouped=False,
    )  # fmt: skip
    assert page.splitlines()[0] == (
        "# Features of a&#124;b &#42;c&#42; &#96;d&#96; &#91;e&#93;&#95;f&#95; &#60;g&#62; &#38; h"
    )
    assert "0 feature views with 0 features of 0 entities" in page
    assert "freshness is that of 2026-03-01 12:00 UTC." in page
