"""The API's description, OpenAPI 3.1: request and answer as msgspec sees them, the rest by hand."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec

from ..protocol import Error, GetOnlineFeatures, OnlineFeaturesResponse, PushEvents, PushResponse
from ..verify.explanation import Explanation
from .bodies import MAX_BODY_BYTES
from .explain import EXPLAIN_ROUTE
from .features import ROUTE
from .push import PUSH_ROUTE


@cache
def openapi() -> dict[str, Any]:
    """The description served at /openapi.json."""
    (request, response, error, events, pushed, explanation), schemas = msgspec.json.schema_components(
        [GetOnlineFeatures, OnlineFeaturesResponse, Error, PushEvents, PushResponse, Explanation],
        ref_template="#/components/schemas/{name}",
    )
    problem = {"application/json": {"schema": error}}

    def failing(*statuses: int) -> dict[str, Any]:
        return {str(status): {"description": _FAILURES[status], "content": problem} for status in statuses}

    def page(summary: str, *failures: int, name: bool = False, schema: dict[str, Any] | None = None) -> dict[str, Any]:
        content = {"application/json": {"schema": schema or {"type": "object"}}}
        parameters = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}] if name else []
        answers = {"200": {"description": "The answer.", "content": content}, **failing(400, 403, 421, *failures)}
        return {"get": {"summary": summary, "parameters": parameters, "responses": answers}}

    many = {"type": "array", "items": {"type": "object"}}
    read = {
        "summary": "Feature values of some entities now.",
        "description": _READ,
        "requestBody": _body(request),
        "responses": {
            "200": {"description": "The features.", "content": {"application/json": {"schema": response}}},
            **failing(400, 403, 404, 413, 421, 422, 500, 503),
        },
    }
    outcome = {"application/json": {"schema": {"anyOf": [pushed, error]}}}
    push = {
        "summary": "Take in live events: when the answer comes, reads see them.",
        "description": _PUSH,
        "requestBody": _body(events),
        "responses": {
            "200": {"description": "What was taken in.", "content": {"application/json": {"schema": pushed}}},
            "422": {"description": "No event could be taken in.", "content": outcome},
            **failing(400, 403, 404, 413, 415, 421, 500, 501, 503),
        },
    }
    paths = {
        ROUTE: {"post": read},
        PUSH_ROUTE: {"post": push},
        "/health": page("The process answers."),
        "/ready": _ready(page("Whether reads can be answered, and why not.")),
        "/metrics": _metrics(page("Metrics in Prometheus's text format.")),
        "/openapi.json": page("This description."),
        "/entities": page("All entities.", 503, schema=many),
        "/entities/{name}": page("An entity.", 404, 503, name=True),
        "/feature-views": page("All feature views, and what is online of each.", 503, schema=many),
        "/feature-views/{name}": page("A feature view, by name or name@v2.", 404, 503, name=True),
        "/feature-services": page("All feature services.", 503, schema=many),
        "/feature-services/{name}": page("A feature service.", 404, 503, name=True),
    }
    paths[EXPLAIN_ROUTE] = _explain(page("Why a stream view's feature has its value.", schema=explanation))
    paths[EXPLAIN_ROUTE]["get"]["responses"] |= failing(404, 422, 500, 501, 503)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Feature server", "version": _version()},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _explain(description: dict[str, Any]) -> dict[str, Any]:
    text = {"type": "string"}
    keys = {"type": "object", "additionalProperties": text}
    description["get"]["parameters"] = [
        {"name": "feature", "in": "query", "required": True, "schema": text, "description": "`view:feature`"},
        {"name": "at", "in": "query", "schema": text, "description": "An ISO 8601 time instead of now."},
        {
            "name": "key", "in": "query", "required": True, "style": "form", "explode": True, "schema": keys,
            "description": "The join keys' values, each by its name: `customer_id=42`.",
        },
    ]  # fmt: skip
    return description


def _metrics(description: dict[str, Any]) -> dict[str, Any]:
    description["get"]["responses"]["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    return description


def _ready(description: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}}
    description["get"]["responses"]["503"] = {"description": "Not ready.", "content": content}
    return description


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


_READ = (
    "Feast's protocol. An integer is exact; a decimal, date, timestamp (UTC) or UUID is a string; NaN and the "
    f'infinities are "NaN", "Infinity" and "-Infinity". A body has at most {MAX_BODY_BYTES:,} bytes.'
)
_PUSH = (
    "Feast's shape. An event that does not fit the source's columns is refused alone. An event sent twice "
    "counts once, so a push without an answer may be repeated."
)
_FAILURES = {
    400: "The body is not JSON, or a header is there twice.",
    403: "A page of another site asks.",
    404: "A name that the registry does not hold.",
    413: "The body is too large.",
    415: "The content type is not application/json.",
    421: "The host is not a name of this server.",
    422: "The request cannot be answered as asked.",
    500: "The server failed.",
    501: "This server's install or machine lacks what it takes.",
    503: "The online store does not answer, refuses or lacks the values yet; `Retry-After` where waiting helps.",
}


def _version() -> str:
    try:
        return version("feature-warehouse")
    except PackageNotFoundError:
        return "0"
