"""A Redis URL → where to connect and how to introduce oneself, in redis-py's forms; and one blocking connection.

Packed commands go out over that, replies are read by hiredis.
"""

import os
import socket
import ssl
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import hiredis
import msgspec

from ..errors import OnlineStoreUnavailable, SettingsError
from ..layout.keys import NAMES, NAMESPACE, Names
from .refusals import refusal

_EXPECTED = "redis://[user:password@]host[:port][/db], rediss://… with TLS, or unix:///path/to/socket[?db=0]"
_ESCAPE = "in user and password write / as %2F, # as %23, ? as %3F and @ as %40"
_SECRETS = ("username", "password")
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_OPTIONS = {"db", "namespace", *_SECRETS, "ssl_cert_reqs", *_TLS_FILES}
KEPT_BUFFER_BYTES = 8 << 20  # of a connection; by default hiredis gives back more than 16 KiB after each reply


class RedisAddress(msgspec.Struct, frozen=True, kw_only=True):
    """One Redis server and database, and whose keys in it are meant. `shown` is the URL without user and password, for
    messages."""

    shown: str
    names: Names = NAMES
    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    db: int = 0
    username: str | None = None
    password: str | None = None
    tls: dict[str, str] | None = None

    def __repr__(self) -> str:
        return f"RedisAddress({self.shown!r})"

    def greeting(self) -> list[bytes]:
        """The commands that open a connection, packed; each is answered with OK."""
        commands: list[bytes] = []
        if self.username is not None or self.password is not None:
            login = () if self.username is None else (self.username,)
            commands.append(hiredis.pack_command(("AUTH", *login, self.password or "")))
        if self.db:
            commands.append(hiredis.pack_command(("SELECT", str(self.db))))
        return commands

    def connect(self, timeout: float) -> socket.socket:
        """A connection to the server, before its greeting; `timeout` in seconds. Raises OSError."""
        if self.path is not None:
            link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            link.settimeout(timeout)
            link.connect(self.path)
            return link
        link = socket.create_connection((self.host, self.port), timeout=timeout)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.secured(link)

    def secured(self, link: socket.socket) -> socket.socket:
        """The connection with TLS over it, where the URL asks for that."""
        context = self.ssl_context()
        return link if context is None else context.wrap_socket(link, server_hostname=self.host)

    def ssl_context(self) -> ssl.SSLContext | None:
        if self.tls is None:
            return None
        context = ssl.create_default_context(cafile=self.tls.get("ssl_ca_certs"))
        if self.tls.get("ssl_cert_reqs") == "none":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if "ssl_certfile" in self.tls:
            context.load_cert_chain(self.tls["ssl_certfile"], self.tls.get("ssl_keyfile"))
        return context

    def unavailable(self, error: BaseException | str) -> OnlineStoreUnavailable:
        """The error for a server that cannot be reached or does not answer as it should."""
        got = error if isinstance(error, str) else (str(error) or type(error).__name__)
        return OnlineStoreUnavailable(
            "Redis does not answer",
            where=self.shown,
            got=got,
            remedy="start Redis, or correct FEATURES_REDIS_URL; the same call then succeeds",
        )


def shown_url(url: str) -> str:
    """A URL of Redis or of a feature server without user and password: the only form in which one is ever shown.

    Raises SettingsError for one that cannot be used.
    """
    if not url.startswith(("http://", "https://")):
        return parse_redis_url(url).shown
    try:
        parts = urlsplit(url)
        host, port, behind = parts.hostname, parts.port, f"{parts.path}{parts.query}{parts.fragment}"
    except ValueError:
        host, port, behind = None, None, ""
    if not host or "@" in behind or parts.query or parts.fragment:
        raise SettingsError("not a URL of a feature server", expected="http://host:6566", remedy=_ESCAPE)
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}{f':{port}' if port else ''}{parts.path.rstrip('/')}"


def http_login(url: str) -> tuple[str, str] | None:
    """User and password of a feature server's URL. They are sent apart from it: the HTTP library logs what it asks."""
    parts = urlsplit(url)
    return (unquote(parts.username or ""), unquote(parts.password or "")) if "@" in parts.netloc else None


def parse_redis_url(url: str) -> RedisAddress:
    """The address that a URL names; SettingsError says what is wrong with it, and nothing that may be a password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _wrong("what is no URL") from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise _wrong("another scheme" if "@" in url else f"scheme {parts.scheme!r}")
    if not url.startswith(f"{parts.scheme}://"):
        raise _wrong("another beginning than redis://, rediss:// or unix://")
    options = _options(parts)
    tls = _tls(options) if parts.scheme == "rediss" else None
    host, port, path, db = "localhost", 6379, None, options.get("db")
    if parts.scheme == "unix":
        path = unquote(parts.path)
        if not path:
            raise _wrong("no path")
        shown = f"unix://{path}"
    else:
        host, port = _host_and_port(parts)
        db = db or unquote(parts.path).strip("/")
        shown = f"{parts.scheme}://{host}:{port}" + (f"/{db}" if db else "")
    if db and not db.isdecimal():
        raise _wrong(f"database {db!r}")
    namespace = options.get("namespace", "")
    if "namespace" in options and not NAMESPACE.fullmatch(namespace):
        raise _wrong("a namespace that is not 1 to 64 letters, digits, - and _")
    shown += f"?namespace={namespace}" if namespace else ""
    username, password = (
        unquote(given or "") or options.get(name) or None
        for name, given in zip(_SECRETS, (parts.username, parts.password), strict=True)
    )
    return RedisAddress(
        shown=shown, names=Names(namespace), host=host, port=port, path=path, db=int(db or 0), username=username,
        password=password, tls=tls,
    )  # fmt: skip


def _wrong(got: str) -> SettingsError:
    return SettingsError(
        "not a Redis URL that can be used", where="redis_url", expected=_EXPECTED, got=got, remedy=_ESCAPE
    )


def _options(parts: SplitResult) -> dict[str, str]:
    """What stands behind the question mark, refused where it may be the rest of a password."""
    options = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    elsewhere = [parts.path, *options, *(value for name, value in options.items() if name not in _SECRETS)]
    if parts.fragment or any("@" in part for part in elsewhere):
        raise _wrong("a # or an @ where none can be")
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        tail = options.keys() & set(_SECRETS)  # what looks like an option's name may be the end of a password
        named = "an option" if tail else f"option {unknown[0]!r}"
        raise _wrong(f"{named} that is none of {', '.join(sorted(_OPTIONS))}")
    for name in options:
        if name.startswith("ssl_") and parts.scheme != "rediss":
            raise _wrong(f"option {name!r} without rediss://")
    return options


def _host_and_port(parts: SplitResult) -> tuple[str, int]:
    host = unquote(parts.hostname or "localhost")
    try:
        host.encode("idna")  # as every look-up does
    except UnicodeError:
        raise _wrong("a host that cannot be looked up") from None
    try:
        return host, parts.port or 6379
    except ValueError:
        raise _wrong("a port that is not a number up to 65535") from None


def _tls(options: dict[str, str]) -> dict[str, str]:
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    for name in _TLS_FILES:
        if name in tls and not os.path.exists(tls[name]):
            raise _wrong(f"{name}: no file {tls[name]}")
    if "ssl_keyfile" in tls and "ssl_certfile" not in tls:
        raise _wrong("ssl_keyfile without ssl_certfile")
    if tls.get("ssl_cert_reqs", "required") not in ("none", "required"):
        raise _wrong(f"ssl_cert_reqs {tls['ssl_cert_reqs']!r}, which is neither none nor required")
    return tls


def reply_parser() -> hiredis.Reader:
    """Parses one connection's replies; memory for long ones is kept, getting it anew costs more than they do."""
    parser = hiredis.Reader()
    parser.setmaxbuf(KEPT_BUFFER_BYTES)
    return parser


def check_reply(address: RedisAddress, reply: Any) -> Any:
    """The reply; the error that it stands for if it is one."""
    if isinstance(reply, hiredis.ReplyError):
        raise refusal(str(reply), where=address.shown)
    return reply


class Connection:
    """Made and introduced at once, raising OSError or what Redis refuses; `timeout` in seconds, for each step.

    After an error replies may still be to come: close it then.
    """

    def __init__(self, address: RedisAddress, timeout: float) -> None:
        self._link: socket.socket = address.connect(timeout)
        self.parser = reply_parser()
        try:
            for command in address.greeting():
                check_reply(address, self.ask(command))
        except BaseException:
            self.close()
            raise

    def ask(self, command: bytes) -> Any:
        """The reply to one command: an error is given, not raised."""
        self._link.sendall(command)
        return self.reply()

    def send(self, commands: bytes | memoryview) -> None:
        self._link.sendall(commands)

    def reply(self) -> Any:
        """The next reply."""
        while (reply := self.parser.gets()) is False:
            self.parser.feed(self.receive())
        return reply

    def receive(self) -> bytes:
        """What Redis has sent, for `parser`; raises ConnectionError when it has closed the connection."""
        data = self._link.recv(1 << 18)
        if not data:
            raise ConnectionError("connection closed by Redis")
        return data

    def close(self) -> None:
        self._link.close()
