"""Tokens of an identity provider (OIDC): who shows one, and the groups he is in.

PyJWT checks signature and claims. Only signatures that the issuer alone can make are taken, by the key that it shows:
what the token says of it decides nothing. A token that was checked is remembered until it expires, for checking costs
more than a read.
"""

import re
import time
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import jwt
import msgspec

from ..errors import NotSignedIn, cut, shown
from ..oidc import Oidc
from .issuer import Issuer

TEXT = re.compile(rb"[A-Za-z0-9_=-]+\.[A-Za-z0-9_=-]+\.[A-Za-z0-9_=-]*")
MAX_BYTES = 16_384
MAX_KNOWN = 4_000
LEEWAY_SECONDS = 30  # by which clocks may differ
# RFC 8725: a token says what it is for, so that one for another use is none of access.
TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_IN_ONE_TEXT = frozenset({"scope", "scp"})  # claims whose text has several names in it
# Beside PyJWT's own: what it lets through of numbers and nested JSON.
_WRONG = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError, AttributeError)
WHERE = "the header authorization"


class Token(msgspec.Struct, frozen=True):
    """What is known of a token that was checked: its subject, the groups of its claim, and until when it holds."""

    subject: str
    groups: frozenset[str]
    until_us: int


class Tokens:
    """Tokens of one issuer."""

    def __init__(self, oidc: Oidc) -> None:
        self._oidc, self.issuer = oidc, Issuer(oidc)
        self._known: dict[bytes, Token] = {}

    async def check(self, text: bytes) -> None:
        """Have a token known; NotSignedIn for one that opens nothing, IssuerUnavailable where that cannot be told."""
        place = sha256(text).digest()
        if place in self._known:
            return
        if len(text) > MAX_BYTES:
            raise _refused("the token is too large", expected=f"at most {MAX_BYTES:,} bytes", got=f"{len(text):,}")
        try:
            header = jwt.get_unverified_header(text)
        except _WRONG as error:
            raise _refused("the token cannot be read", got=cut(str(error))) from None
        kid, use = header.get("kid"), header.get("typ", "JWT")
        if not isinstance(use, str) or use.lower() not in TYPES:
            raise _refused("the token is not one of access", expected="typ JWT or at+jwt", got=shown(use))
        key = await self.issuer.key(kid)
        try:
            claims = jwt.decode(
                text, key.key, algorithms=key.algorithms, audience=self._oidc.audience, issuer=self._oidc.issuer,
                leeway=LEEWAY_SECONDS, options={"require": ["exp", "iss", "aud", "sub"]},
            )  # fmt: skip
            until_us = (int(claims["exp"]) + LEEWAY_SECONDS) * 1_000_000
        except _WRONG as error:
            raise _refused("the token opens nothing", got=cut(str(error))) from None
        found = Token(claims["sub"], _groups(claims, self._oidc.groups), until_us)
        while len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[place] = found

    def known(self, text: bytes) -> Token | None:
        """A token that was checked; NotSignedIn where it has expired since."""
        place = sha256(text).digest()
        found = self._known.get(place)
        if found is not None and found.until_us <= time.time_ns() // 1000:
            del self._known[place]
            raise _refused("the token has expired")
        return found


def _groups(claims: Mapping[str, Any], name: str) -> frozenset[str]:
    """The names in a claim, by its name or, nested, by a path with dots; none where it is absent."""
    found: Any = claims.get(name)
    if found is None:
        found = claims
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, str):
        found = found.split() if name in _IN_ONE_TEXT else [found]
    if found is None:
        return frozenset()
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        kind = type(found).__name__
        raise _refused(f"the claim {shown(name)} of the token holds no groups", expected="names as text", got=kind)
    return frozenset(found)


def _refused(what: str, **told: str) -> NotSignedIn:
    return NotSignedIn(what, where=WHERE, remedy="get a new token of the issuer, for this server's audience", **told)
