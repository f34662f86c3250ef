"""What a user of Redis must be allowed for each way to use the store, as ACL rules of Redis 7 and Valkey.

Patterns of names only allow. Those of rows are exact, so that they take in no other store's: a code of rows is up to
CODE_LENGTH letters and digits, for the counter or the time that is drawn from.
"""

from collections.abc import Sequence

from ..errors import RequestError
from . import keys
from .keys import Names
from .parts import MARK

CODE_LENGTH = 6
_READING = ("mget", "get", "info", "ping", "client|setname")  # Redis 7.0 has no `client|setinfo`, nobody needs it
_TRANSACTION = ("watch", "unwatch", "multi", "exec")
COMMANDS: dict[str, tuple[str, ...]] = {
    "reader": _READING,
    "reader-pii": _READING,
    "pusher": (*_READING, *_TRANSACTION, "exists", "append", "pexpireat", "set", "unlink", "xadd", "xlen"),
    "syncer": (
        *_READING, *_TRANSACTION,
        "append", "del", "exists", "hdel", "hget", "hgetall", "hincrby", "hset", "incrby", "mset",
        "pexpireat", "scan", "set", "time", "type", "unlink", "xack", "xadd", "xautoclaim", "xclaim", "xdel",
        "xgroup|create", "xgroup|delconsumer", "xinfo|groups", "xinfo|consumers", "xinfo|stream", "xlen",
        "xpending", "xrange", "xreadgroup", "xrevrange", "xtrim",
    ),
}  # fmt: skip
ROLES = tuple(COMMANDS)
_TOLD = (keys.REGISTRY, keys.EPOCH, keys.KEYS, keys.VERIFIED + b"*")  # what readers are told beside rows


def acl_rules(roles: Sequence[str], names: Names, *, select: bool = False) -> str:
    """The rules of a user that has all of these roles; `select`: it uses another database than 0."""
    for role in roles:
        if role not in COMMANDS:
            raise RequestError("no role of a Redis user", where=role, expected=", ".join(ROLES), got=role)
    commands = sorted({command for role in roles for command in COMMANDS[role]} | ({"select"} if select else set()))
    patterns = dict.fromkeys(pattern for role in roles for pattern in _patterns(role, names))
    return " ".join(["reset", "on", *patterns, "-@all", *(f"+{command}" for command in commands)])


def _patterns(role: str, names: Names) -> list[str]:
    prefix = f"{names.namespace}:" if names.namespace else ""
    rows = [
        f"{prefix}{'[0-9a-zA-Z]' * length}{base}{{*"
        for length in range(1, CODE_LENGTH + 1)
        for base in ("", keys.BASE.decode())
    ]
    told, pii = [prefix + name.decode() for name in _TOLD], f"{prefix}{MARK}*"
    match role:
        case "syncer":
            whole = [f"{prefix}*"] if prefix else ["features:*", *rows, pii]
            return [f"~{name}" for name in whole]
        case "pusher":  # what is pii it writes and does not read
            written = [pii, f"{prefix}{keys.LOG.decode()}*"]
            read = [prefix + name.decode() for name in (keys.REGISTRY, keys.EPOCH)]
            return [
                *(f"%R~{name}" for name in read),
                *(f"~{name}" for name in rows),
                *(f"%W~{name}" for name in written),
            ]
    return [f"%R~{name}" for name in (*told, *rows, *([pii] if role == "reader-pii" else []))]
