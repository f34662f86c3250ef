"""What Redis answers instead of a result → the error that says so: whether waiting helps, else what is missing.

The only place that tells such answers apart: reads, pushes, the worker and every command go through it. Some answers
are those of a server that was demoted, or is not yet or no longer the one to ask: the address may lead elsewhere by now
(`elsewhere`), so whoever gets one leaves the connection, and asks once more over another where that is safe.
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
    "UNBLOCKED": _Answer("this Redis was made a replica", "the same call then goes to the primary", 1),
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
_ELSEWHERE = {"LOADING", "MASTERDOWN", "READONLY", "UNBLOCKED", "MISCONF", "NOREPLICAS", "CLUSTERDOWN", "TRYAGAIN"}
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
        refused = kind(found.what, where=where, got=text, remedy=remedy)
        refused.elsewhere = code in _ELSEWHERE
        return refused
    error = OnlineStoreUnavailable(found.what, where=where, got=text, remedy=remedy)
    error.retry_after_seconds, error.elsewhere = found.wait_seconds, code in _ELSEWHERE
    return error


def leads_elsewhere(reply: str) -> bool:
    """Whether an error reply is one after which the address is to be looked up again."""
    return reply.removeprefix(_BECAUSE).partition(" ")[0] in _ELSEWHERE


def _missing_right(text: str) -> str | None:
    found = _RIGHT.search(text)
    if found is None:
        return None
    right = f"+{found[1].lower()}" if found[2] == "command" else f"~{found[1] or '*'}"
    return f"give the user of FEATURES_REDIS_URL that right: ACL SETUSER <user> {right}"
