"""The signing keys that an identity provider shows, as this server knows them.

They are fetched in a thread, again every few minutes, and where a token names one that is not known, though not often.
Where the provider does not answer those known stay.
"""

import asyncio
import json
import logging
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import msgspec

from ..errors import IssuerUnavailable, NotSignedIn, SettingsError, cut, shown
from ..oidc import Oidc, check_issuer_url

LIFE_SECONDS = 300.0  # after which keys are fetched again
APART_SECONDS = 5.0  # at least, between fetches
FETCH_SECONDS = 5.0  # for one answer
MAX_BYTES = 1 << 20  # of an answer
WHERE = "the header authorization"
DISCOVERY = "/.well-known/openid-configuration"
# By the type of a key, those by which the issuer alone can sign: the key that it shows is not the one it signs with.
ALGORITHMS = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "EC": ("ES256", "ES384", "ES512"),
    "OKP": ("EdDSA",),
}
log = logging.getLogger("feature_server")


class SigningKey(msgspec.Struct, frozen=True):
    """A public key, and what may be signed by it: where the issuer names one algorithm that alone."""

    kid: str | None
    algorithms: tuple[str, ...]
    key: Any


class Issuer:
    """The keys of one issuer. `failure` says why the last fetch brought none."""

    def __init__(self, oidc: Oidc) -> None:
        self._oidc = oidc
        self._keys: list[SigningKey] = []
        self._fetching: asyncio.Task[None] | None = None
        self._fetched = self._tried = float("-inf")
        self.failure: str | None = None

    async def key(self, kid: str | None) -> SigningKey:
        """The key that a token names, or the only one; NotSignedIn for none, IssuerUnavailable where that is open."""
        if time.monotonic() - self._fetched > LIFE_SECONDS:
            self.begin()  # who asks does not wait, unless no key is known
        found = self._find(kid)
        if found is None:
            self.begin()
            if self._fetching is not None:
                await asyncio.shield(self._fetching)
            found = self._find(kid)
        if found is not None:
            return found
        if self.failure is not None:
            raise IssuerUnavailable(
                "tokens cannot be checked: the issuer does not show its keys", where=self._oidc.issuer,
                got=self.failure, remedy="try again, or send a key of access; see that the server reaches the issuer",
            )  # fmt: skip
        raise NotSignedIn(
            "the token is signed by no key of the issuer", where=WHERE, got="no key id" if kid is None else shown(kid),
            expected=f"one of the {len(self._keys)} that {self._oidc.issuer} shows",
            remedy="get a new token of the issuer",
        )  # fmt: skip

    def begin(self) -> None:
        """Fetch the keys, if that was not tried just before."""
        if self._fetching is None and time.monotonic() - self._tried >= APART_SECONDS:
            self._fetching = asyncio.create_task(self._fetch())

    def _find(self, kid: str | None) -> SigningKey | None:
        if kid is None:
            return self._keys[0] if len(self._keys) == 1 else None
        return next((key for key in self._keys if key.kid == kid), None)

    async def _fetch(self) -> None:
        try:
            self._keys = await asyncio.to_thread(fetch_keys, self._oidc)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, RecursionError, SettingsError) as error:
            failure = cut(str(error).splitlines()[0] if str(error) else type(error).__name__)
            if self.failure is None:
                log.error("the keys of %s cannot be fetched: %s", self._oidc.issuer, failure)
            self.failure = failure
        else:
            if self.failure is not None or self._fetched == float("-inf"):
                log.info("keys of %s: %d", self._oidc.issuer, len(self._keys))
            self.failure, self._fetched = None, time.monotonic()
        finally:
            self._tried, self._fetching = time.monotonic(), None


def fetch_keys(oidc: Oidc) -> list[SigningKey]:
    """From the URL that is set, or from the one that the issuer's own description names."""
    with httpx.Client(timeout=FETCH_SECONDS, headers={"accept": "application/json"}) as client:
        url = oidc.jwks_url
        if url is None:
            described = _json_of(client, oidc.issuer.rstrip("/") + DISCOVERY)
            if described.get("issuer") != oidc.issuer:
                raise ValueError(f"{DISCOVERY} is of the issuer {shown(described.get('issuer'))}")
            url = described.get("jwks_uri")
            if not isinstance(url, str):
                raise ValueError(f"{DISCOVERY} names no jwks_uri")
            check_issuer_url(url, where="jwks_uri")
        shown_keys = _json_of(client, url).get("keys")
    keys = list(filter(None, map(_signing_key, shown_keys if isinstance(shown_keys, list) else ())))
    if not keys:
        raise ValueError(f"{urlsplit(url).path} holds no key that signs")
    return keys


def _signing_key(told: Any) -> SigningKey | None:
    """None for a key of another use, or one that cannot be read."""
    if not isinstance(told, dict) or told.get("use", "sig") != "sig":
        return None
    kind, named = told.get("kty"), told.get("alg")
    allowed = ALGORITHMS.get(kind, ()) if isinstance(kind, str) else ()
    algorithms = tuple(name for name in allowed if named in (None, name))
    if not algorithms:
        return None
    try:
        return SigningKey(told.get("kid"), algorithms, jwt.PyJWK(told, algorithms[0]).key)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None


def _json_of(client: httpx.Client, url: str) -> dict[str, Any]:
    deadline, body = time.monotonic() + FETCH_SECONDS, b""
    with client.stream("GET", url) as answer:
        if answer.status_code != 200:
            raise ValueError(f"{urlsplit(url).path} answered {answer.status_code}")
        for piece in answer.iter_bytes():
            body += piece
            if len(body) > MAX_BYTES or time.monotonic() > deadline:
                raise ValueError(f"{urlsplit(url).path} does not end in time, or is too large")
    found = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError(f"{urlsplit(url).path} is no JSON object")
    return found
