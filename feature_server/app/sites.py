"""Under which names the server is asked: no page of another site asks, and on loopback no name is its but its own.

Who may do what is the `door`'s matter. While there are no keys of access a browser on the server's machine would
otherwise let any page that it shows push events (a form needs nobody's leave), and read them once that page's own name
resolves to the server.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

import msgspec

from ..errors import RequestError, SettingsError, shown

SETTING = "FEATURES_ALLOWED_HOSTS"
OPEN = "who is on this machine can read and push: there is no key of access yet (`features keys create`)"
_HOST = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]*)?")
_PAGES_ELSEWHERE = (b"cross-site", b"same-site")
_LINK = (b"navigate", b"document")
_ONCE = (b"host", b"origin", b"content-type", b"authorization")
_SECRET = (b"authorization",)


class UnknownHost(RequestError):
    """A request for a name that is not the server's."""

    status = 421


class ForeignPage(RequestError):
    """A request that a page of another site makes a browser send."""

    status = 403


class RepeatedHeader(RequestError):
    """A request whose headers say two things: a proxy may have gone by the other."""

    status = 400


class NoHost(RequestError):
    """A request in HTTP/1.1 that does not say whom it asks."""

    status = 400


class WrongContentType(RequestError):
    """A body that is not plain JSON, or does not say so: a page of another site cannot make a browser say that."""

    status = 415


class Sites(msgspec.Struct, frozen=True):
    """`hosts` are the names that are answered, `named` those that the setting gives.

    `beyond_loopback` when other machines reach the server: without the setting any name is answered then.
    """

    hosts: frozenset[str]
    named: frozenset[str]
    beyond_loopback: bool

    def check_keyed(self, keyed: bool | None, host: str) -> None:
        """SettingsError for a server that others reach at `host` where there are no keys of access; None: not known."""
        if self.beyond_loopback and keyed is False:
            raise SettingsError(
                "other machines would reach this server, and there is no key of access yet", where=f"--host {host}",
                expected="a key, or --host 127.0.0.1", got="no key",
                remedy="make one, `features keys create --owner me --scope admin`, and start the server again",
            )  # fmt: skip

    def check(self, method: str, headers: Mapping[bytes, bytes], *, http_version: str = "1.1") -> None:
        """NoHost, UnknownHost or ForeignPage for what must not be answered."""
        host = headers.get(b"host")
        if host is None:
            if http_version == "1.1":
                raise NoHost(
                    "the request does not say whom it asks", where="the header host", expected="one in HTTP/1.1",
                    remedy="send it",
                )  # fmt: skip
        else:
            name = host_name(host)
            if name not in self.hosts and (name is None or self.named or not self.beyond_loopback):
                raise UnknownHost(
                    "this server does not go by that name", where="the header host", got=_shown(host),
                    expected="one of " + ", ".join(sorted(self.hosts)),
                    remedy=f"name it in {SETTING} where the server runs, or ask under a name above",
                )  # fmt: skip
        origin = headers.get(b"origin")
        if origin is not None:
            _, _, site = origin.lower().partition(b"://")
            if not site or (site != (host or b"").lower() and host_name(site) not in self.named):
                raise _foreign("the header origin", origin, f"http://{(host or b'').decode('latin-1')}")
        elif headers.get(b"sec-fetch-site") in _PAGES_ELSEWHERE and not (
            method == "GET" and (headers.get(b"sec-fetch-mode"), headers.get(b"sec-fetch-dest")) == _LINK
        ):
            raise _foreign("the header sec-fetch-site", headers[b"sec-fetch-site"], "same-origin")


def headers_of(given: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """A request's headers by name; RepeatedHeader where one that decides who is answered is there twice."""
    headers = dict(given)
    if len(headers) < len(given):
        for name in _ONCE:
            values = [value for other, value in given if other == name]
            if len(values) > 1:
                raise RepeatedHeader(
                    "a header is there more than once", where=f"the header {name.decode()}", expected="one",
                    got=f"{len(values)} of them" if name in _SECRET else ", ".join(map(_shown, values)),
                    remedy="send it once",
                )  # fmt: skip
    return headers


def create_sites(bound: str, host: str, named: Iterable[str]) -> Sites:
    """For a server that was told to listen on `host`, bound to the address `bound`; SettingsError for a wrong name."""
    given = frozenset(map(_named, named))
    address = ip_address(bound.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    own = {f"[{bound}]" if ":" in bound else bound, host.lower(), "localhost", "127.0.0.1", "[::1]"}
    return Sites(given | own, given, not (mapped or address).is_loopback)


def check_json(headers: Mapping[bytes, bytes]) -> None:
    """WrongContentType for a body that does not say it is JSON."""
    given = headers.get(b"content-type", b"")
    if given.partition(b";")[0].strip().lower() != b"application/json":
        raise WrongContentType(
            "events are pushed as JSON", where="the header content-type", got=_shown(given),
            expected="application/json", remedy="send it; with curl: -H 'content-type: application/json'",
        )  # fmt: skip


def check_coding(headers: Mapping[bytes, bytes]) -> None:
    """WrongContentType for a compressed body."""
    given = headers.get(b"content-encoding", b"identity")
    if given.strip().lower() not in (b"identity", b""):
        raise WrongContentType(
            "bodies are read as they are", where="the header content-encoding", got=_shown(given),
            expected="none", remedy="send the body uncompressed",
        )  # fmt: skip


@lru_cache(maxsize=256)
def host_name(host: bytes) -> str | None:
    """The name in a header, without the port, in lower case; None when it is none."""
    found = _HOST.fullmatch(host.strip(b" \t").decode("latin-1").lower())
    return found and found[1]


def _named(text: str) -> str:
    name = host_name(text.encode())
    if name is None:
        raise SettingsError(
            "not a host name", where=SETTING, got=shown(text), expected="names such as features.internal or [fd00::7]",
            remedy="separate them by commas, without http:// and paths",
        )  # fmt: skip
    return name


def _foreign(where: str, got: bytes, own: str) -> ForeignPage:
    return ForeignPage(
        "a page of another site asks", where=where, got=_shown(got), expected=own,
        remedy=f"ask from the page's own server, or name its host in {SETTING} where the feature server runs",
    )  # fmt: skip


def _shown(value: bytes) -> str:
    return shown(value.decode("latin-1"))
