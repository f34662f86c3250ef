"""The API's description, OpenAPI 3.1: request and answer as msgspec sees them, the rest by hand."""

from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec

from ..definitions.deprecation import DEPRECATED, DEPRECATION
from ..errors import Error
from ..protocol import PUSH_PATH, READ_PATH, GetOnlineFeatures, OnlineFeaturesResponse, PushEvents, PushResponse
from ..verify.explanation import Explanation
from .bodies import MAX_BODY_BYTES
from .explain import EXPLAIN_ROUTE

Described = dict[str, Any]
JSON = "application/json"
_TEXT = {"type": "string"}
_OBJECT = {"type": "object"}
_MANY = {"type": "array", "items": _OBJECT}
_NAME: list[Described] = [{"name": "name", "in": "path", "required": True, "schema": _TEXT}]
_QUESTION: list[Described] = [
    {"name": "feature", "in": "query", "required": True, "schema": _TEXT, "description": "`view:feature`"},
    {"name": "at", "in": "query", "schema": _TEXT, "description": "An ISO 8601 time instead of now."},
    {
        "name": "key", "in": "query", "required": True, "style": "form", "explode": True,
        "schema": {"type": "object", "additionalProperties": _TEXT},
        "description": "The join keys' values, each by its name: `customer_id=42`.",
    },
]  # fmt: skip


@cache
def openapi() -> Described:
    """The description served at /openapi.json."""
    (request, response, error, events, pushed, explanation), schemas = msgspec.json.schema_components(
        [GetOnlineFeatures, OnlineFeaturesResponse, Error, PushEvents, PushResponse, Explanation],
        ref_template="#/components/schemas/{name}",
    )

    def answers(good: Described, *failures: int) -> Described:
        return good | {str(status): _answer(_FAILURES[status], error) for status in failures}

    def page(
        summary: str, *failures: int, schema: Described = _OBJECT, kind: str = JSON, asked: Sequence[Described] = ()
    ) -> Described:
        responses = answers({"200": _answer("The answer.", schema, kind)}, *_ANY, *failures)
        return {"get": {"summary": summary, "parameters": list(asked), "responses": responses}}

    def posted(summary: str, description: str, body: Described, responses: Described) -> Described:
        asked = {"summary": summary, "description": description, "requestBody": {"required": True, **_content(body)}}
        return {"post": asked | {"responses": responses}}

    features = _answer("The features.", response) | {"headers": _DEPRECATED}
    read = answers({"200": features}, *_ANY, 404, 413, 415, 422, 500, 503)
    taken_in = {
        "200": _answer("What was taken in.", pushed),
        "422": _answer("No event could be taken in.", {"anyOf": [pushed, error]}),
    }
    push = answers(taken_in, *_ANY, 404, 413, 415, 500, 501, 503)
    health, ready = page("The process answers."), page("Whether reads can be answered, and why not.")
    for page_of_all in (health, ready):
        page_of_all["get"]["security"] = []
    ready["get"]["responses"]["503"] = _answer("Not ready.", _OBJECT)
    why = "Why a stream view's feature has its value."
    paths = {
        READ_PATH: posted("Feature values of some entities now.", _READ, request, read),
        PUSH_PATH: posted("Take in live events: when the answer comes, reads see them.", _PUSH, events, push),
        "/health": health,
        "/ready": ready,
        "/metrics": page("Metrics in Prometheus's text format.", schema=_TEXT, kind="text/plain"),
        "/openapi.json": page("This description."),
        "/entities": page("All entities.", 503, schema=_MANY),
        "/entities/{name}": page("An entity.", 404, 503, asked=_NAME),
        "/feature-views": page("All feature views, and what is online of each.", 503, schema=_MANY),
        "/feature-views/{name}": page("A feature view, by name or name@v2.", 404, 503, asked=_NAME),
        "/feature-services": page("All feature services.", 503, schema=_MANY),
        "/feature-services/{name}": page("A feature service.", 404, 503, asked=_NAME),
        EXPLAIN_ROUTE: page(why, 404, 422, 500, 501, 503, schema=explanation, asked=_QUESTION),
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Feature server", "version": _version()},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": _KEY}},
        "security": [{"key": []}, {}],  # the latter: none, until the first key is made
    }


def _answer(description: str, schema: Described, kind: str = JSON) -> Described:
    return {"description": description, **_content(schema, kind)}


def _content(schema: Described, kind: str = JSON) -> Described:
    return {"content": {kind: {"schema": schema}}}


_KEY = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key of access, or a token of the identity provider that the server takes tokens of.",
}
_DEPRECATED = {
    DEPRECATION: {"description": "From when on a view that was read should not be (RFC 9745).", "schema": _TEXT},
    DEPRECATED: {"description": "Each such view, as `view=date`.", "schema": _TEXT},
}
_READ = (
    "Feast's protocol. An integer is exact; a decimal, date, timestamp (UTC) or UUID is a string; NaN and the "
    f'infinities are "NaN", "Infinity" and "-Infinity". A body has at most {MAX_BODY_BYTES:,} bytes.'
)
_PUSH = (
    "Feast's shape. An event that does not fit the source's columns is refused alone. An event sent twice "
    "counts once, so a push without an answer may be repeated."
)
_ANY = (400, 401, 403, 408, 421, 431)  # of any request
_FAILURES = {
    400: "The body is not JSON, a header is there twice, or this is no HTTP/1.1.",
    401: "The request shows no key of access, or token, that opens anything.",
    403: "The key may not do this, or a page of another site asks.",
    404: "A name that the registry does not hold.",
    408: "The request did not arrive in time.",
    413: "The body is too large.",
    415: "The content type is not application/json.",
    421: "The host is not a name of this server.",
    422: "The request cannot be answered as asked.",
    431: "The request line and headers are too large.",
    500: "The server failed.",
    501: "This server's install or machine lacks what it takes.",
    503: "The online store does not answer, refuses or lacks the values yet; `Retry-After` where waiting helps.",
}


def _version() -> str:
    try:
        return version("feature-warehouse")
    except PackageNotFoundError:
        return "0"
