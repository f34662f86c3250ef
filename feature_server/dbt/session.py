"""The session that dbt builds in: refused where its profile, its hooks or its host set what changes values.

A relation that is a table was reckoned in that session, one that is a view is reckoned again in a session of ours
(`offline.session`), which has DuckDB's own settings and UTC. Only where the two agree does the same SQL give one value
as either, and on any host. Most profiles can be read as they stand; where one has expressions, dbt is asked: that takes
seconds.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import WarehouseError
from ..kept import Kept
from ..offline.sql import literal
from ..project.package import LOADER
from ..project.process import profiles_dir
from ..project.target import VALUE_SETTINGS, target_of
from ..settings import Settings
from .artifacts import Manifest, read_manifest
from .parse import asked_of_run

HOST_ZONE = "the time zone of this host: the profile sets none"
_UTC = re.compile(r"(etc/)?(utc|uct|zulu|universal|greenwich|gmt([+-]?0)?)", re.IGNORECASE)
_SET = re.compile(
    rf"(?:\A|;)\s*((?:set|pragma)\s+(?:(?:global|session|local)\s+)?[\"']?(?:{'|'.join(VALUE_SETTINGS)})\b[^;\n]*)",
    re.IGNORECASE,
)
_COMMENT = re.compile(r"/\*.*?\*/|--[^\n]*|\{#.*?#\}", re.DOTALL)
_TAG, _CALL = re.compile(r"\{%.*?%\}", re.DOTALL), re.compile(r"\b(\w+)\s*\(")
NO_PROFILES = (yaml.YAMLError, UnicodeDecodeError, AttributeError, TypeError, OSError)
NOTHING_KEPT = Kept()
_ORDERS = {"ASC": "ASCENDING"}
Statements = Iterable[tuple[str, str]]  # where each stands, and its text


def check_session(
    settings: Settings,
    ran: Mapping[str, Any] | None = None,
    manifest: Manifest | None = None,
    kept: Kept = NOTHING_KEPT,
) -> None:
    """WarehouseError if a build by the project's profile, or by the arguments `ran` of one, is in another session.

    Its hooks are those of the `manifest`, or of the one that dbt wrote last. Of a profile without a time zone it is not
    `kept` that the two agree: they never do; of others it hangs on the host by its locale alone.
    """
    hooks = list(_hooks(settings.target_path, manifest))
    asked = settings.asked if ran is None else asked_of_run(settings, ran)
    outputs = _plain_outputs(profiles_dir(asked.project_dir, asked.environ) / "profiles.yml")
    different = [output for number, output in enumerate(outputs or ()) if output not in (outputs or ())[:number]]
    host = {name: text for name, text in asked.environ.items() if name == "LANG" or name.startswith("LC_")}

    def agree() -> bool:
        return not any(_differences(output, hooks) for output in different)

    if outputs is not None and kept.get(["session", different, hooks, host], bool, agree):
        return
    target = target_of(asked)
    given = target.config_options | target.settings
    if target.kind != "duckdb" or not (found := _differences(given, hooks)):
        return
    profile = f"target {target.name} of profile {target.profile}"
    zone = "TimeZone" in found
    others = [name for name in found if name != "TimeZone"]
    todo = ["write `settings: {TimeZone: UTC}` into the target in profiles.yml"] if zone else []
    todo += [f"take {', '.join(others)} out of the profile or hook, and say in the SQL what is meant"] if others else []
    raise WarehouseError(
        "dbt builds in a session by which the same SQL gives other values",
        where=profile,
        expected="; ".join(f"{name} {expected!r}" for name, (expected, *_) in found.items()),
        got="; ".join(f"{name} {got!r}, {where}" for name, (_, got, where) in found.items()),
        remedy=f"{'; '.join(todo)}; then `dbt build --full-refresh`",
    )


def _differences(given: Mapping[str, Any], hooks: Statements) -> dict[str, tuple[str, str, str]]:
    """By setting: what it is in our sessions, what in dbt's, and who says so."""
    from ..offline.session import settings_after  # DuckDB, which a check of what is kept does without

    told = [
        ("set by the profile", f"set {name} = {literal(str(value))}")
        for name, value in given.items()
        if name.lower() in map(str.lower, VALUE_SETTINGS)
    ]
    told += hooks
    first, *states = settings_after([statement for _, statement in told], VALUE_SETTINGS)
    own, last, found = first | {"TimeZone": "UTC"}, first, {}
    who = {"TimeZone": HOST_ZONE}
    for (where, statement), state in zip(told, states, strict=True):
        if state is not None:
            named = [name for name in VALUE_SETTINGS if name.lower() in statement.lower() or state[name] != last[name]]
            who |= dict.fromkeys(named, where)
            last = state
        elif "{{" in statement:  # what else DuckDB refuses here, it refuses in dbt's session
            found[statement] = ("a value that stands there", statement, where)
    for name, value in last.items():
        if _ORDERS.get(value, value) != own[name] and not (name == "TimeZone" and _UTC.fullmatch(value)):
            found[name] = (own[name], value, who[name])
    if "timezone" not in map(str.lower, given):  # in UTC on this host, by chance
        found.setdefault("TimeZone", (own["TimeZone"], last["TimeZone"], who["TimeZone"]))
    return found


def read_profiles(path: Path) -> tuple[Any, list[dict[str, Any]]]:
    """What a file of profiles holds, and in it the targets of type duckdb; one of NO_PROFILES where it is none."""
    profiles = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)
    return profiles, [
        output
        for name, profile in profiles.items()
        if name != "config" and isinstance(profile, dict)
        for output in (profile.get("outputs") or {}).values()
        if output.get("type") == "duckdb"
    ]


def _plain_outputs(path: Path) -> list[dict[str, Any]] | None:
    """The settings of each DuckDB target in a file of profiles; None if they cannot be read without dbt."""
    if not path.is_file():
        return [{}]
    try:
        _, outputs = read_profiles(path)
        found = [(output.get("config_options") or {}) | (output.get("settings") or {}) for output in outputs]
    except NO_PROFILES:
        return None
    return None if any("{{" in str(given) for given in found) else found


def _hooks(target_path: Path, manifest: Manifest | None) -> Iterator[tuple[str, str]]:
    """The statements of a project's hooks that set what changes values, and where each stands."""
    if manifest is None:
        if not (target_path / "manifest.json").is_file():
            return
        manifest = read_manifest(target_path)
    for node in manifest.nodes.values():
        texts = [node.raw_code] if node.resource_type == "operation" else []
        for name in ("pre-hook", "post-hook"):
            hooks = node.config.get(name) or []
            texts += [hook.get("sql") or "" if isinstance(hook, dict) else str(hook) for hook in hooks]
        for text in [*texts, *_called(texts, manifest)]:
            for statement in _SET.findall(_TAG.sub(";", _COMMENT.sub(" ", text)).strip()):
                yield f"set by a hook of {node.name}", statement.strip()


def _called(texts: Iterable[str], manifest: Manifest) -> list[str]:
    """The texts of the macros that the Jinja of hooks calls, themselves or through others."""
    named = {name for text in texts if "{{" in text or "{%" in text for name in _CALL.findall(text)}
    called = [unique_id for unique_id in manifest.macros if unique_id.rpartition(".")[2] in named] if named else []
    return [macro.macro_sql for macro in manifest.macros_under(called).values()]
