"""An identity provider on loopback: keys that it shows, and tokens that it signs."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

AUDIENCE = "features"
DISCOVERY, KEYS = "/.well-known/openid-configuration", "/keys"


@cache
def private_key(kid: str, kind: str = "RSA") -> Any:
    """The same for a name throughout the tests: making an RSA key takes long."""
    if kind == "RSA":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ed25519.Ed25519PrivateKey.generate() if kind == "OKP" else ec.generate_private_key(ec.SECP256R1())


class Provider:
    """Shows `shown` (JWKs), or answers with `status`; `asked` has the paths that were asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.shown: list[dict[str, Any]] = []
        self.status, self.described = 200, dict[str, Any]()
        provider = self

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked.append(self.path)
                found = {DISCOVERY: provider.description(), KEYS: {"keys": provider.shown}}.get(self.path)
                self.send_response(provider.status if found is not None else 404)
                self.end_headers()
                self.wfile.write(json.dumps(found).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.issuer = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def environment(self) -> dict[str, str]:
        return {"FEATURES_OIDC_ISSUER": self.issuer, "FEATURES_OIDC_AUDIENCE": AUDIENCE}

    def description(self) -> dict[str, Any]:
        return {"issuer": self.issuer, "jwks_uri": self.issuer + KEYS} | self.described

    def show(self, *kids: str, kind: str = "RSA", **more: Any) -> None:
        """Show the public keys of these names, and no other."""
        to_jwk: Any = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}[kind].to_jwk
        self.shown = [
            {"kid": kid, "use": "sig"} | more | to_jwk(private_key(kid, kind).public_key(), as_dict=True)
            for kid in kids
        ]

    def token(
        self, *groups: str, kid: str | None = "first", kind: str = "RSA", alg: str = "RS256", key: Any = None,
        header: dict[str, Any] | None = None, **claims: Any,
    ) -> str:  # fmt: skip
        """Signed, with what makes it valid for five minutes; a claim that is None is left out."""
        now = int(time.time())
        all_claims = {
            "iss": self.issuer, "aud": AUDIENCE, "sub": "ada", "iat": now, "exp": now + 300, "groups": list(groups),
        } | claims  # fmt: skip
        headers = ({} if kid is None else {"kid": kid}) | (header or {})
        payload = {name: value for name, value in all_claims.items() if value is not None}
        return jwt.encode(payload, key or private_key(kid or "first", kind), algorithm=alg, headers=headers)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def provider(*kids: str) -> Iterator[Provider]:
    running = Provider()
    running.show(*kids)
    running._thread.start()
    try:
        yield running
    finally:
        running.stop()


def forged(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"x") -> str:
    """A token of any header and claims, whatever its signature is."""
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts).decode()
