"""What Redis answers instead of a result → the error that says so: whether waiting helps, else what is missing.

The only place that tells such answers apart: reads, pushes, the worker and every command go through it.
"""

import re
from typing import NamedTuple

from ..errors import OnlineStoreError, OnlineStoreRefused, OnlineStoreUnavailable


class _Answer(NamedTuple):
    """What an answer means; `wait_seconds` None where the same call fails until somebody has changed something."""

    what: str
    remedy: str
    wait_seconds: int | None = None


_CLUSTER = _Answer(
    "this Redis is a node of a Redis Cluster, over which transactions of the feature store would spread",
    "set FEATURES_REDIS_URL to a server that is no part of a cluster, with replicas if need be",
)
_ANSWERS = {
    "LOADING": _Answer("Redis is still loading its data", "wait until it has", 1),
    "BUSY": _Answer("Redis is busy with a script", "wait, or end it with SCRIPT KILL", 1),
    "MASTERDOWN": _Answer("this replica has lost its primary", "bring that back; the same call then succeeds", 1),
    "READONLY": _Answer(
        "this Redis is a replica, which takes no writes",
        "wait if it is being promoted, else set FEATURES_REDIS_URL to the primary",
        1,
    ),
    "OOM": _Answer("Redis' memory is full", "raise its maxmemory; pushes, syncs and landing then go on", 10),
    "MISCONF": _Answer(
        "Redis cannot save its data and takes no writes", "see Redis' log, and whether its disk is full", 10
    ),
    "NOREPLICAS": _Answer("Redis has too few replicas to take writes", "bring its replicas back", 10),
    "NOGROUP": _Answer("the producers' stream was emptied", "the worker begins it again", 1),
    "MAXCLIENTS": _Answer("Redis takes no more connections", "raise its maxclients, or end clients", 1),
    "NOAUTH": _Answer("Redis wants a password", "put user and password in FEATURES_REDIS_URL"),
    "WRONGPASS": _Answer("Redis does not know this user and password", "correct them in FEATURES_REDIS_URL"),
    "NOPERM": _Answer("the Redis user lacks a right", "see what Redis answered, and ACL SETUSER"),
    "DENIED": _Answer(
        "this Redis is in protected mode: it answers its own machine alone",
        "give it a password or a user (requirepass, ACL) and put that in FEATURES_REDIS_URL",
    ),
    "WRONGTYPE": _Answer(
        "a key of the feature store holds what another program wrote",
        "delete that key (TYPE tells it); where it held a view's values, `features sync --full` writes them anew",
    ),
    "EXECABORT": _Answer("Redis refuses a transaction", "see Redis' log"),
    **dict.fromkeys(("MOVED", "ASK", "CROSSSLOT", "CLUSTERDOWN", "TRYAGAIN"), _CLUSTER),
}
_OTHER = _Answer("Redis refuses a command", "see Redis' log")
_WORDS = {"max number of clients": "MAXCLIENTS", "AUTH": "WRONGPASS", "invalid password": "WRONGPASS"}  # after ERR
_BECAUSE = "EXECABORT Transaction discarded because of: "
_RIGHT = re.compile(r"'([^']+)' (command|key)|(access a key)")


def refusal(reply: str, *, where: str | None = None) -> OnlineStoreError:
    """The error for an error reply of Redis, given with its first word, the code."""
    text = reply.removeprefix(_BECAUSE).partition(", with args beginning with: ")[0]  # of AUTH, the password
    code = text.partition(" ")[0]
    if code == "ERR":
        code = next((code for words, code in _WORDS.items() if words in text), code)
    found = _ANSWERS.get(code, _OTHER)
    remedy = (_missing_right(text) if code == "NOPERM" else None) or found.remedy
    if found.wait_seconds is None:
        kind = OnlineStoreError if found is _OTHER else OnlineStoreRefused
        return kind(found.what, where=where, got=text, remedy=remedy)
    error = OnlineStoreUnavailable(found.what, where=where, got=text, remedy=remedy)
    error.retry_after_seconds = found.wait_seconds
    return error


def _missing_right(text: str) -> str | None:
    found = _RIGHT.search(text)
    if found is None:
        return None
    right = f"+{found[1].lower()}" if found[2] == "command" else f"~{found[1] or '*'}"
    return f"give the user of FEATURES_REDIS_URL that right: ACL SETUSER <user> {right}"
