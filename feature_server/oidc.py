"""The identity provider (OIDC) whose tokens feature servers take, as the environment says it."""

import re
from collections.abc import Mapping

import msgspec

from .errors import SettingsError, shown

_PREFIX = "OIDC_"
_URL = re.compile(r"https://[^/@\s]+(/\S*)?|http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?(/[^@\s]*)?")


class Oidc(msgspec.Struct, frozen=True, kw_only=True):
    """Each field is set by FEATURES_, OIDC_ and its name in capitals.

    `issuer` and `audience` as tokens have them, `jwks_url` where its keys are if its own description does not say so,
    `groups` the claim that holds the groups of who shows a token.
    """

    issuer: str
    audience: str
    jwks_url: str | None = None
    groups: str = "groups"


def oidc_of(environ: Mapping[str, str]) -> Oidc | None:
    """None where nothing is set; SettingsError for what is not enough to check a token by."""
    variables = {name: f"FEATURES_{_PREFIX}{name.upper()}" for name in Oidc.__struct_fields__}
    given = {name: text for name, variable in variables.items() if (text := environ.get(variable))}
    if not given:
        return None
    for name, claim in (("issuer", "iss"), ("audience", "aud")):
        if name not in given:
            raise SettingsError(
                "tokens cannot be checked without it", where=variables[name], got="nothing",
                expected=f"what tokens for this server have as `{claim}`",
                remedy=f"set it, or unset {', '.join(variables[other] for other in given)}",
            )  # fmt: skip
    for name in ("issuer", "jwks_url"):
        check_issuer_url(given.get(name), where=variables[name])
    return Oidc(**given)


def check_issuer_url(url: str | None, *, where: str) -> None:
    """SettingsError for a URL by which others could give their keys for the issuer's."""
    if url is not None and not _URL.fullmatch(url):
        raise SettingsError(
            "keys from there could be anybody's", where=where, expected="https://…, or http:// of this machine",
            got="a user and a password" if "@" in url else shown(url), remedy="name an address with TLS",
        )  # fmt: skip
