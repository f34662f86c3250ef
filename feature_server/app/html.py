"""The registry as pages for people: plain HTML, no script, nothing fetched from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from ..errors import FeatureStoreError
from ..online.live import LiveSource
from ..online.registry import OnlineRegistry
from ..verify.explanation import Explanation, bounds
from .describe import describe_service, describe_view, example_entities

NUMBERS = ("Features", "Rows")  # columns of a table that are set flush right
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent); }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; margin: .5rem 0; }}
h2 {{ font-size: 1.1rem; margin: 2rem 0 .5rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; vertical-align: top; padding: .35rem .9rem .35rem 0; }}
tr {{ border-bottom: 1px solid var(--line); }}
th {{ font-weight: 600; opacity: .7; }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
code, pre {{ font: 13px/1.5 ui-monospace, monospace; }}
pre {{ padding: .8rem 1rem; border: 1px solid var(--line); border-radius: 4px; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
a {{ color: light-dark(#0b57a4, #8ab8f0); text-decoration: none; }}
a:hover {{ text-decoration: underline; }}
.warning {{ border-left: 3px solid #c77700; padding: .2rem .8rem; }}
.quiet {{ opacity: .65; }}
</style>
</head>
<body>
<nav class="quiet"><a href="/">Features</a></nav>
{body}
</body>
</html>
"""


def index_page(online: OnlineRegistry, live: Sequence[LiveSource], now_us: int, clock: str | None) -> str:
    registry = online.registry
    parts = [f"<h1>{escape(registry.project)}</h1>"]
    if clock is not None:
        parts.append(f'<p class="warning">The clock is stopped at {escape(clock)} by FEATURES_CLOCK.</p>')
    services = [describe_service(online, service) for service in registry.feature_services]
    parts.append("<h2>Feature services</h2>")
    parts.append(
        _table(
            ("Service", "Features", "Owner", "Description"),
            (
                (
                    _link("feature-services", service["name"]),
                    _number(len(service["features"])),
                    _owner(service["owner"]),
                    escape(service["description"]),
                )
                for service in services
            ),
        )
    )
    parts.append("<h2>Feature views</h2>")
    rows = []
    for view in (describe_view(online, view) for view in registry.feature_views):
        stored = online.synced(view["id"])
        age = "not synced" if view["served"] else "not served"
        if stored is not None:
            age = "no rows" if stored.newest_event_us is None else _age(now_us - stored.newest_event_us)
        rows.append(
            (
                _link("feature-views", view["id"]),
                ", ".join(_link("entities", entity) for entity in view["entities"]),
                _number(len(view["features"])),
                _number(stored.rows if stored else 0),
                escape(age),
                escape(view["ttl"] or ""),
                _owner(view["owner"]),
                ", ".join(_link("feature-services", name) for name in view["feature_services"]),
            )
        )
    parts.append(_table(("View", "Entity", "Features", "Rows", "Newest event", "ttl", "Owner", "Used by"), rows))
    if live:
        parts += ["<h2>Event sources</h2>", _sources(online, live)]
    return _page(registry.project, parts)


def view_page(view: dict[str, Any], address: str) -> str:
    parts = [f"<h1>{escape(view['id'])}</h1>", f"<p>{escape(view['description'])}</p>"]
    state = view["online"]
    facts = {
        "Entity": ", ".join(_link("entities", entity) for entity in view["entities"]),
        "Join keys": _join_keys(view["join_keys"]),
        "Live events of": f"<code>{escape(view['stream'])}</code>" if view["stream"] else "",
        "Event timestamp": f"<code>{escape(view['event_timestamp'])}</code>",
        "ttl": escape(view["ttl"] or "none: a value never expires"),
        "Refresh": escape(view["refresh"] or ""),
        "Owner": _owner(view["owner"]),
        "Used by": ", ".join(_link("feature-services", name) for name in view["feature_services"]),
        "Rows online": f"{state['rows']:,}" if state else "not synced",
        "Newest event": escape(state["newest_event_timestamp"] or "") if state else "",
        "Synced": escape(state["synced_at"]) if state else "",
    }
    parts.append(_facts(facts))
    parts.append("<h2>Features</h2>")
    parts.append(_features(view["features"]))
    request = {
        "features": [f"{view['id']}:{feature['name']}" for feature in view["features"][:3]],
        "entities": example_entities(view["join_keys"]),
    }
    parts += ["<h2>Read them</h2>", _curl(address, request)]
    if view["stream"]:
        parts += ["<h2>Explain a value</h2>", _question(view)]
    return _page(view["id"], parts)


def service_page(service: dict[str, Any], address: str) -> str:
    parts = [f"<h1>{escape(service['name'])}</h1>", f"<p>{escape(service['description'])}</p>"]
    parts.append(_facts({"Owner": _owner(service["owner"]), "Join keys": _join_keys(service["join_keys"])}))
    parts.append("<h2>Features</h2>")
    parts.append(
        _table(
            ("Feature", "Type", "View", "Description"),
            (
                (
                    f"<code>{escape(feature['name'])}</code>",
                    escape(feature["type"]),
                    _link("feature-views", feature["feature_view"]),
                    escape(feature["description"]),
                )
                for feature in service["features"]
            ),
        )
    )
    entities = example_entities(service["join_keys"])
    arguments = ", ".join(f"{name}={values[0]!r}" for name, values in entities.items())
    python = (
        "from feature_server import FeatureClient\n\n"
        f'with FeatureClient("{address}") as client:\n'
        f'    print(client.get("{service["name"]}", {arguments}).values)'
    )
    request = {"feature_service": service["name"], "entities": entities}
    parts += ["<h2>Read them</h2>", _curl(address, request), f"<pre>{escape(python)}</pre>"]
    return _page(service["name"], parts)


def entity_page(entity: dict[str, Any]) -> str:
    views = "".join(f"<li>{_link('feature-views', name)}</li>" for name in entity["feature_views"])
    return _page(
        entity["name"],
        [
            f"<h1>{escape(entity['name'])}</h1>",
            f"<p>{escape(entity['description'])}</p>",
            f"<p>Join keys: {_join_keys(entity['join_keys'])}</p>",
            f"<h2>Feature views</h2><ul>{views}</ul>",
        ],
    )


def explain_page(found: Explanation) -> str:
    view_id, _, _ = found.feature.partition(":")
    key = ", ".join(f"{name} = {value}" for name, value in found.key.items())
    parts = [f"<h1>{escape(found.feature)}</h1>"]
    if found.agree is False:
        wrong = f"SQL over the known events gives {found.warehouse}: run `features verify {view_id}`"
        parts.append(f'<p class="warning">{escape(wrong)}</p>')
    facts = {
        "Value": f"<b>{escape(str(found.value))}</b>",
        "Status": escape(found.status),
        "Key": escape(key),
        "At": escape(found.at.isoformat()),
        "Newest event": escape(found.newest_event.isoformat() if found.newest_event else "none"),
        "SQL": f"<code>{escape(found.sql)}</code>",
        "File": escape(found.file),
        "View": _link("feature-views", view_id),
    }
    parts.append(_facts(facts))
    for window in found.windows:
        parts += [f"<h2><code>{escape(window.aggregate)}</code></h2>", f"<p>{escape(bounds(window))}</p>"]
        if window.events > len(window.shown):
            parts.append(f'<p class="quiet">The last {len(window.shown)} of them:</p>')
        parts.append(_events(window.shown))
    if found.latest is not None:
        parts += ["<h2>Latest event</h2>", _events([found.latest])]
    return _page(found.feature, parts)


def error_page(error: FeatureStoreError) -> str:
    return _page(error.what, [f"<h1>{escape(error.what)}</h1>", f"<pre>{escape(str(error))}</pre>"])


def _page(title: str, parts: Iterable[str]) -> str:
    return _PAGE.format(title=escape(title), body="\n".join(parts))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    heads = "".join(f'<th class="number">{name}</th>' if name in NUMBERS else f"<th>{name}</th>" for name in head)
    lines = ["<table>", f"<thead><tr>{heads}</tr></thead>" if head else "", "<tbody>"]
    for row in rows:
        cells = "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row)
        lines.append(f"<tr>{cells}</tr>")
    return "\n".join([*lines, "</tbody></table>"])


def _facts(facts: dict[str, str]) -> str:
    return _table((), ((f"<b>{name}</b>", value) for name, value in facts.items() if value))


def _features(features: Iterable[dict[str, Any]]) -> str:
    return _table(
        ("Feature", "Type", "Description"),
        (
            (f"<code>{escape(feature['name'])}</code>", escape(feature["type"]), escape(feature["description"]))
            for feature in features
        ),
    )


def _sources(online: OnlineRegistry, live: Sequence[LiveSource]) -> str:
    """What waits of each event source, and the views that its events go to."""
    rows = []
    for source in live:
        views = [view for view in online.registry.feature_views if view.stream and view.stream.source == source.source]
        rows.append(
            (
                f"<code>{escape(source.source)}</code>",
                ", ".join(_link("feature-views", view.id) for view in views),
                escape(f"{source.pushes:,} push{'es' * (source.pushes != 1)}" + _since(source.oldest_seconds)),
                escape(f"{source.unread:,} event{'s' * (source.unread != 1)}" + _since(source.unread_seconds)),
                escape(f"{source.dead_letters:,}"),
            )
        )
    return _table(("Source", "Views", "Not landed", "Not taken in", "Dead letters"), rows)


def _since(seconds: float | None) -> str:
    return "" if seconds is None else f", the first {_age(int(seconds * 1_000_000))}"


def _events(events: Sequence[dict[str, Any]]) -> str:
    if not events:
        return ""
    cells = ([escape(str(value)) for value in event.values()] for event in events)
    return _table([f"<code>{escape(name)}</code>" for name in events[0]], cells)


def _question(view: dict[str, Any]) -> str:
    """A form that asks /explain."""
    ids = (f"{view['id']}:{feature['name']}" for feature in view["features"])
    options = "".join(f"<option>{escape(feature)}</option>" for feature in ids)
    keys = " ".join(
        f'<label>{escape(key["name"])} <input name="{escape(key["name"])}" required></label>'
        for key in view["join_keys"]
    )
    at = '<label>at <input name="at" placeholder="now"></label>'
    feature = f'<select name="feature" aria-label="Feature">{options}</select>'
    return f'<form action="/explain">{feature} {keys} {at} <button>Explain</button></form>'


def _link(kind: str, name: str) -> str:
    return f'<a href="/{kind}/{quote(name)}">{escape(name)}</a>'


def _number(number: int) -> str:
    return f'<td class="number">{number:,}</td>'


def _owner(owner: dict[str, str | None] | None) -> str:
    if owner is None:
        return ""
    name = escape(owner["name"] or "")
    return f'<a href="mailto:{escape(owner["email"])}">{name}</a>' if owner["email"] else name


def _join_keys(keys: Iterable[dict[str, str]]) -> str:
    return ", ".join(f"<code>{escape(key['name'])}</code> ({escape(key['type'])})" for key in keys)


def _curl(address: str, request: dict[str, Any]) -> str:
    command = f"curl {address}/get-online-features -d '{json.dumps(request)}'"
    return f"<pre>{escape(command)}</pre>"


def _age(microseconds: int) -> str:
    seconds = microseconds // 1_000_000
    if seconds < 0:
        return "in the future"
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size:,} {unit} ago"
    return f"{seconds} s ago"
