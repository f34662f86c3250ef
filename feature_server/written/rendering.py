"""Models rendered by a project's Jinja as dbt does in a whole build, but nothing is asked of dbt or of a warehouse.

What only those could say is an unknown name in the SQL, or nothing.
"""

import datetime
import itertools
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import SandboxedEnvironment

from ..errors import FeatureStoreError
from ..project.package import PACKAGE
from .bounded import TooMuch, bounded, range_of
from .files import ENCODING, files_in
from .marks import Written, marked, plain, unmarked
from .unknown import Nothing, Unknown

_MACRO = re.compile(r"{%-?\s*macro\s+(\w+)\s*\(")
_OWN = "own_"
_DISPATCHED = ("duckdb__", "default__")  # the names before a macro's that dbt looks for, in this order
_FUNCTIONS = ("datediff", "dateadd", "date_trunc", "last_day", "hash", "length", "position", "replace", "split_part")
_DEEPEST = 50  # macros that call one another
_LONGEST = 1_000_000  # characters of a model's SQL
_DEFAULTS: Mapping[str, Any] = {
    "materialized": "view",
    "enabled": True,
    "tags": [],
    "meta": {},
    "grants": {},
}  # dbt's own
_Macros = Mapping[str, Path]


class Unrendered(Exception):
    """What keeps a model from being rendered without dbt."""


class Rendered(msgspec.Struct, frozen=True):
    """A model's SQL, and what it reads: models by name and version, None for the latest, and sources; how it has itself
    materialized, its `meta`, and whether DuckDB holds its constraints; the names that only dbt knows and that it is
    `guessed` by. A model stands in the SQL as `reference` has it."""

    written: Written
    refs: tuple[tuple[str, str | None], ...]
    sources: tuple[tuple[str, str], ...]
    materialized: str | None = None
    meta: Mapping[str, Any] = {}
    enabled: bool = True
    is_constrained: bool = False
    guessed: tuple[str, ...] = ()


class _Returned(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


class _OfTheRun:
    """What is another in each run of dbt: written into SQL it stays known by its name, whatever is made of it."""

    unsafe_callable = alters_data = False  # as Jinja's sandbox asks

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self

    __add__ = __radd__ = __sub__ = __rsub__ = __getitem__ = __call__


CLOCK, RUN = _OfTheRun("run_started_at()"), _OfTheRun("invocation_id()")


class _Datetime(datetime.datetime):
    """datetime, but for what time it is."""

    now = utcnow = today = staticmethod(lambda *_: CLOCK)  # type: ignore[assignment]


class _Date(datetime.date):
    """date, but for which day it is."""

    today = staticmethod(lambda: CLOCK)  # type: ignore[assignment]


# What lint takes our package's macros for: the instant of a build, by design, and a source's rows with live ones.
_OF_PACKAGE: Mapping[str, Callable[..., str]] = {
    "as_of": lambda: "timestamptz '2000-01-01T00:00:00Z'",
    "instant_of_build": lambda: "2000-01-01T00:00:00Z",
    "with_live": lambda source: str(source),
}


class _OtherBlocks(Extension):
    """dbt's other blocks: of a snapshot its SQL stays, tests and materializations are no text."""

    tags = {"test", "data_test", "materialization", "snapshot", "docs"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        tag = next(parser.stream)
        while parser.stream.current.type != "block_end":
            next(parser.stream)
        body = parser.parse_statements((f"name:end{tag.value}",), drop_needle=True)
        return body if tag.value == "snapshot" else []


class Rendering:
    """Renders the models of one project. `variables` are those of dbt_project.yml, `packages` the macros' files of each
    package by its name, the project's own among them as `project`."""

    def __init__(self, root: Path, project: str, variables: Mapping[str, Any], packages: Mapping[str, _Macros]) -> None:
        self.root, self.project, self.variables, self.packages = root, project, variables, packages
        self._environment = SandboxedEnvironment(extensions=["jinja2.ext.do", _OtherBlocks], undefined=Unknown)
        self._files: list[str] = []
        self._macros: dict[Path, dict[str, nodes.Macro]] = {}  # of a file, as they are written
        self._callable: dict[tuple[Path, str], Any] = {}  # those that were called
        self._depth = 0
        self._refs: list[tuple[str, str | None]] = []
        self._sources: list[tuple[str, str]] = []
        self._configured: dict[str, Any] = {}
        names = {name for macros in packages.values() for name in macros}
        self._environment.globals |= {name: _Later(self, name) for name in names}
        self._environment.globals |= {package: _Package(self, package) for package in packages}
        self._environment.globals |= self._given()

    def render(self, path: Path, configured: Mapping[str, Any]) -> Rendered:
        """A model by its file, with what YAML configures it by; Unrendered where it cannot be."""
        self._refs, self._sources, self._configured = [], [], dict(configured)
        Unknown.asked.clear()
        try:
            with bounded():
                text = self._text(path)
        except Unrendered:
            raise
        except TooMuch as error:
            raise Unrendered(f"its Jinja is endless or huge: {error}") from None
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the project's own Jinja makes of what is not known here
            said = plain(str(error)) or type(error).__name__
            raise Unrendered(f"its Jinja cannot be rendered without dbt: {said}") from None
        written = unmarked(text, self._files, self._named(path))
        if len(written.sql) > _LONGEST:
            raise Unrendered(f"its SQL has {len(written.sql)} characters, more than {_LONGEST} are not looked at")
        materialized, contract = self._configured.get("materialized"), self._configured.get("contract")
        return Rendered(
            written,
            tuple(dict.fromkeys(self._refs)),
            tuple(dict.fromkeys(self._sources)),
            materialized if isinstance(materialized, str) else None,
            meta=meta if isinstance(meta := self._configured.get("meta"), dict) else {},
            enabled=self._configured.get("enabled") is not False,
            is_constrained=materialized in ("table", "incremental")
            and isinstance(contract, dict)
            and contract.get("enforced") is True,
            guessed=tuple(Unknown.asked),
        )

    def _text(self, path: Path) -> str:
        try:
            return self._environment.from_string(self._parsed(path)).render()
        except _Returned as returned:
            return str(returned.value)

    def call(self, name: str, package: str | None, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """What a macro gives, of a package or of whichever has it: the project's own first."""
        if package == PACKAGE and name in _OF_PACKAGE:
            return _OF_PACKAGE[name](*arguments)
        places = [package] if package else [self.project, *self.packages]
        path = next((self.packages[place][name] for place in places if name in self.packages.get(place, {})), None)
        if path is None:
            return Unknown(name=name)
        if self._depth >= _DEEPEST:
            raise Unrendered(f"macro {name} calls itself again and again")
        self._depth += 1
        try:
            return self._macro(path, name)(*arguments, **named)
        except _Returned as returned:
            return returned.value
        finally:
            self._depth -= 1

    def dispatch(self, name: str, package: str | None = None) -> Callable[..., Any]:
        """dbt's choice among the macros of a name that each database has its own of."""
        places = dict.fromkeys([self.project, *([package] if package else []), *self.packages])
        for place in places:
            for before in (*_DISPATCHED, ""):
                if before + name in self.packages.get(place, {}):
                    return _Later(self, before + name, place)
        return Unknown(name=name)

    def _macro(self, path: Path, name: str) -> Any:
        """A macro of a file, as a template of its own: what one returns to another goes through `call`."""
        if path not in self._macros:
            self._macros[path] = {macro.name: macro for macro in self._parsed(path).find_all(nodes.Macro)}
        if (path, name) not in self._callable:
            template = self._template(self._macros[path][name])
            self._callable[path, name] = getattr(template.module, _OWN + name)
        return self._callable[path, name]

    def _template(self, macro: nodes.Macro) -> Template:
        named = nodes.Macro(_OWN + macro.name, macro.args, macro.defaults, macro.body)  # it calls itself by `call`, too
        named.set_lineno(macro.lineno).set_environment(self._environment)
        return self._environment.from_string(nodes.Template([named], lineno=macro.lineno))

    def _parsed(self, path: Path) -> nodes.Template:
        self._files.append(self._named(path))
        text = path.read_text(encoding=ENCODING)
        return self._environment.parse(marked(self._environment, text, len(self._files) - 1))

    def _named(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def _given(self) -> dict[str, Any]:
        """dbt's own names that a model's text may depend on."""
        times = SimpleNamespace(
            datetime=_Datetime, date=_Date, time=datetime.time, timedelta=datetime.timedelta, tzinfo=datetime.tzinfo,
            timezone=datetime.timezone,
        )  # fmt: skip
        patterns = SimpleNamespace(**{name: getattr(re, name) for name in re.__all__})
        modules = SimpleNamespace(re=patterns, datetime=times, itertools=itertools)
        return {
            "ref": self._ref, "source": self._source, "var": self._var, "env_var": self._env_var,
            "config": _Config(self._configure, lambda: self._configured), "range": range_of,
            "is_incremental": lambda: False, "execute": Unknown(name="execute"), "return": _return,
            "log": lambda *_, **__: "",
            "print": lambda *_, **__: "", "set": set, "zip": zip, "modules": modules, "this": '"this"',
            "exceptions": SimpleNamespace(raise_compiler_error=_refuse, warn=lambda *_, **__: ""),
            "adapter": _Adapter(self), "tojson": lambda value, *_, **__: msgspec.json.encode(value).decode(),
            "fromjson": msgspec.json.decode, "dbt": _Dbt(), "run_started_at": CLOCK, "invocation_id": RUN,
            **({} if self._has("current_timestamp") else {"current_timestamp": lambda: "now()"}),
        }  # fmt: skip

    def _has(self, macro: str) -> bool:
        return any(macro in macros for macros in self.packages.values())

    def _ref(self, *names: str, v: Any = None, version: Any = None) -> str:
        number = v if v is not None else version
        names = tuple(map(str, names))
        self._refs.append((names[-1], None if number is None else str(number)))
        return reference(names[-1], None if number is None else str(number))

    def _configure(self, said: Mapping[str, Any]) -> None:
        self._configured = merged(self._configured, said)

    def _source(self, name: str, table: str) -> str:
        self._sources.append((name, table))
        return f'"{name}"."{table}"'

    def _var(self, name: str, default: Any = None) -> Any:
        own = self.variables.get(self.project)
        found = own.get(name) if isinstance(own, dict) and name in own else self.variables.get(name, default)
        return Nothing(name=name) if found is None else found

    def _env_var(self, var: str, default: Any = None) -> Any:
        found = os.environ.get(var, default)
        return Unknown(name=var) if found is None else found


class _Later:
    """A macro that is read when it is called."""

    def __init__(self, rendering: Rendering, name: str, package: str | None = None) -> None:
        self._rendering, self._name, self._package = rendering, name, package

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._rendering.call(self._name, self._package, arguments, named)


class _Package:
    def __init__(self, rendering: Rendering, package: str) -> None:
        self._rendering, self._package = rendering, package

    def __getattr__(self, name: str) -> _Later:
        return _Later(self._rendering, name, self._package)


class _Dbt:
    """dbt's own macros: the clock, and those that are a function of the same arguments; others are unknown."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("current_timestamp"):
            return lambda *_, **__: "now()"
        if name in _FUNCTIONS:
            return lambda *given, **named: f"{name}({', '.join(map(str, (*given, *named.values())))})"
        return Unknown(name=name)


class _Adapter(Unknown):
    def __init__(self, rendering: Rendering) -> None:
        super().__init__(name="adapter")
        self.dispatch = lambda macro_name, macro_namespace=None: rendering.dispatch(macro_name, macro_namespace)


class _Config:
    """`config(…)` is no text but noted; what is asked of it is what it was told, or the YAML says."""

    def __init__(self, note: Callable[[Mapping[str, Any]], None], noted: Callable[[], Mapping[str, Any]]) -> None:
        self._note, self._noted = note, noted

    def __call__(self, *said: Any, **named: Any) -> str:
        for each in [*(one for one in said if isinstance(one, dict)), named]:
            self._note(each)
        return ""

    def get(self, name: str, default: Any = None, *_: Any, **__: Any) -> Any:
        return self._noted().get(name, _DEFAULTS.get(name, default))

    def meta_get(self, name: str, default: Any = None, *_: Any, **__: Any) -> Any:
        meta = self._noted().get("meta")
        return meta.get(name, default) if isinstance(meta, dict) else default

    require, meta_require = get, meta_get


def reference(name: str, version: str | None) -> str:
    """How a model, a seed or a snapshot stands in rendered SQL."""
    return f'"model"."ref"."{name}{"" if version is None else f" v{version}"}"'


def _return(value: Any = None) -> Any:
    raise _Returned(value)


def _refuse(message: Any = "", *_: Any) -> Any:
    raise TemplateError(str(message))


def merged(first: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """What two places configure, as dbt does: all tags, of meta each key as the later one says, else the later one."""
    tags = [tag for each in (first, then) for tag in _listed(each.get("tags"))]
    metas = [each["meta"] for each in (first, then) if isinstance(each.get("meta"), dict)]
    meta = {key: value for each in metas for key, value in each.items()}
    return {**first, **then, **({"tags": tags} if tags else {}), **({"meta": meta} if meta else {})}


def _listed(said: Any) -> list[Any]:
    return [said] if isinstance(said, str) else said if isinstance(said, list) else []


def macros_of(folders: list[Path]) -> dict[str, Path]:
    """Which file has which macro."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in files_in(folder, "sql"):
            try:
                found |= dict.fromkeys(_MACRO.findall(path.read_text(encoding=ENCODING)), path)
            except (OSError, UnicodeDecodeError) as error:
                raise FeatureStoreError("a macro's file cannot be read", where=str(path), got=str(error)) from None
    return found
