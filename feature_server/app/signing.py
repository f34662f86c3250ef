"""Signing in to the pages: a browser shows its key of access in a cookie that no script reads and no other site sends.

The cookie opens pages alone, which change nothing: a read or a push shows its key in a header, which no form can send.
"""

import secrets
from urllib.parse import parse_qs

from starlette.requests import Request, cookie_parser
from starlette.responses import Response

from ..access.keys import TEXT
from ..errors import RequestError

SIGN_IN, SIGN_OUT = "/sign-in", "/sign-out"
MAX_FORM = 4_096  # bytes
_KEY, _FORM = "features_key", "features_form"  # cookies: the key, and what a form of ours has in it


def shown_by_cookie(headers: dict[bytes, bytes]) -> bytes:
    """What a page's request shows: the header, or the key of the cookie as a header would show it; no token, which was
    given to another program than this browser."""
    if b"authorization" in headers or b"cookie" not in headers:
        return headers.get(b"authorization", b"")
    key = cookie_parser(headers[b"cookie"].decode("latin-1")).get(_KEY, "")
    return b"Bearer " + key.encode() if TEXT.fullmatch(key) else b""


def new_form() -> str:
    """What a form and a cookie of its page have in common."""
    return secrets.token_urlsafe(32)


def with_form(response: Response, form: str, request: Request) -> Response:
    """The page that has a form in it, with its cookie."""
    _set(response, _FORM, form, request)
    return response


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form of ours; RequestError for any other."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_FORM:
            raise RequestError("the form is too large", where="body", expected=f"at most {MAX_FORM:,} bytes")
    fields = {name: values[-1] for name, values in parse_qs(body.decode("latin-1")).items()}
    expected = request.cookies.get(_FORM, "")
    if not expected or not secrets.compare_digest(fields.get("form", "").encode(), expected.encode()):
        raise RequestError(
            "the form is not the one that this server gave", where="form", expected="the form of /sign-in",
            remedy="open /sign-in again, with cookies allowed",
        )  # fmt: skip
    return fields


def signed_in(request: Request, key: str) -> Response:
    """Leads to the pages, with the key in a cookie that lasts as long as the browser runs."""
    response = Response(status_code=303, headers={"location": "/"})
    _set(response, _KEY, key, request)
    response.delete_cookie(_FORM)
    return response


def signed_out() -> Response:
    response = Response(status_code=303, headers={"location": SIGN_IN})
    response.delete_cookie(_KEY)
    response.delete_cookie(_FORM)
    return response


def _set(response: Response, name: str, value: str, request: Request) -> None:
    secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
    response.set_cookie(name, value, httponly=True, samesite="strict", secure=secure)
