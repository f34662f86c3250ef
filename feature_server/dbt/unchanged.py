"""Whether the compiled SQL of a model is what it was: by all that its Jinja, and the macros that it calls, can read.

What may read something else, such as the clock or the graph, is never unchanged. Whether it asked the warehouse, or has
the run's own id in it, is seen when it is compiled: with the same of all else it would again, or again not.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from dbt.contracts.graph.manifest import Manifest
from dbt_common.clients.jinja import get_environment
from jinja2 import TemplateError, meta, nodes

from ..kept import digest
from ..project.package import PACKAGE, SHIPPED

OWN = ("dbt", "dbt_duckdb")  # packages whose version says what is in them
# What gives the same for the same project, target and variables.
_SETTLED = frozenset((
    "ref", "source", "var", "env_var", "config", "this", "target", "return", "exceptions", "execute", "is_incremental",
    "should_full_refresh", "project_name", "namespace", "range", "dict", "cycler", "joiner", "zip", "set", "set_strict",
    "zip_strict", "tojson", "fromjson", "toyaml", "fromyaml", "local_md5", "log", "print", "none", "caller", "varargs",
    "kwargs", "run_query", "statement", "load_result", "load_relation", "invocation_id",
))  # fmt: skip
_SETTLED_OF = {
    "modules": ("re", "itertools"), "adapter": ("dispatch", "quote", "get_relation", "get_columns_in_relation"),
    "flags": ("WHICH", "FULL_REFRESH"),
}  # fmt: skip
_OF_A_RUN = (  # what differs from one run to the next and is no part of a model, or follows from what is
    "created_at", "compiled", "compiled_code", "compiled_path", "extra_ctes", "extra_ctes_injected", "build_path",
    "doc_blocks",
)  # fmt: skip
_UTILITIES = "macros/utils/"  # of dbt's own macros those that only write SQL
_INSTANT, _CLOCK = "instant_of_build", frozenset(("run_started_at", "modules"))


class Read(msgspec.Struct, frozen=True):
    """What a text of Jinja reads: names, attributes of these, environment variables, macros that it dispatches.

    None of it is `settled` where it may read anything else by a name that it makes up.
    """

    names: frozenset[str] = frozenset()
    attributes: frozenset[tuple[str, str]] = frozenset()
    variables: frozenset[str] = frozenset()
    dispatched: frozenset[str] = frozenset()
    settled: bool = True


class Unchanged:
    """What the models of a manifest are compiled from. `given` is what all of them share.

    `plain` says that no variable of the project, or of a package, has Jinja in it.
    """

    def __init__(self, manifest: Manifest, environ: Mapping[str, str], given: Any, *, plain: bool) -> None:
        self.manifest, self.environ = manifest, environ
        self._settled = _SETTLED if plain else _SETTLED - {"var"}
        self._macros: dict[str, list[str]] = {}
        self._own = {
            macro.name for macro in manifest.macros.values()
            if macro.package_name in OWN and macro.original_file_path.startswith(_UTILITIES)
        }  # fmt: skip
        for unique_id, macro in manifest.macros.items():
            if macro.package_name not in OWN:
                for name in {macro.name, macro.name.partition("__")[2] or macro.name}:
                    self._macros.setdefault(name, []).append(unique_id)
        self._packages = {macro.package_name for macro in manifest.macros.values()}
        self._read: dict[str, Read] = {}
        if (instant := self._instant_of_build()) is not None:
            read = _read(instant)
            self._read[instant] = msgspec.structs.replace(read, names=read.names - _CLOCK)
        self.variables: set[str] = set()  # of the environment, that a model asked for its key reads
        self._given = digest([given, sorted(manifest.macros), self._overriding()])

    def key(self, unique_id: str) -> str | None:
        """A hash of all that a model's compiled SQL is made from; None where that cannot be told beforehand."""
        node = self.manifest.nodes[unique_id]
        texts, variables = {"": node.raw_code}, set[str]()
        waiting = [node.raw_code]
        for text in waiting:  # the list grows
            read = self._reads(text)
            if not read.settled or not self._is_known(read):
                return None
            variables |= read.variables
            self.variables |= read.variables
            for macro in (macro for name in self._called(read) for macro in self._macros.get(name, ())):
                if macro not in texts:
                    texts[macro] = self.manifest.macros[macro].macro_sql
                    waiting.append(texts[macro])
        parents = [self._parent(parent) for parent in node.depends_on.nodes]
        if any(parent is None for parent in parents):
            return None
        values = {name: self.environ.get(name) for name in variables}
        return digest([self._given, _facts(node), texts, parents, values])

    def _instant_of_build(self) -> str | None:
        """The macro of our package that looks at the clock where no `as_of` is given; models are compiled with one."""
        macro = self.manifest.macros.get(f"macro.{PACKAGE}.{_INSTANT}")
        text = None if macro is None else macro.macro_sql
        shipped = (SHIPPED / "macros" / "as_of.sql").read_text(encoding="utf-8")
        return text if text is not None and text.strip() in shipped else None

    def _overriding(self) -> list[str]:
        """The texts of macros by the names of dbt's own, which those call of one another."""
        own = {macro.name for macro in self.manifest.macros.values() if macro.package_name in OWN}
        own |= {name.partition("__")[2] for name in own}
        found = {unique_id for name in own & self._macros.keys() for unique_id in self._macros[name]}
        return [self.manifest.macros[unique_id].macro_sql for unique_id in sorted(found)]

    def _is_known(self, read: Read) -> bool:
        """Whether a text reads nothing but what is settled, and macros that are looked into."""
        for name in read.names - self._settled - self._macros.keys() - self._own:
            found = {attribute for of, attribute in read.attributes if of == name}
            known = set(_SETTLED_OF.get(name, ()))
            if name in self._packages:
                known |= {*self._macros, *self._own}
            if not found or found - known:
                return False
        return True

    def _called(self, read: Read) -> Iterator[str]:
        """The names of macros that a text may call."""
        yield from read.names
        yield from (attribute for of, attribute in read.attributes if of in self._packages)
        yield from read.dispatched

    def _parent(self, unique_id: str) -> Any:
        """What a model's SQL says of one that it reads; of an ephemeral one that is its SQL."""
        node = self.manifest.nodes.get(unique_id)
        if node is None:
            source = self.manifest.sources.get(unique_id)
            return None if source is None else _facts(source)
        inner = self.key(unique_id) if node.config.materialized == "ephemeral" else ""
        return None if inner is None else [unique_id, node.relation_name, inner, node.config.materialized]

    def _reads(self, text: str) -> Read:
        if text not in self._read:
            self._read[text] = _read(text)
        return self._read[text]


def _facts(node: Any) -> dict[str, Any]:
    """What Jinja may be told of a model or source itself."""
    facts: dict[str, Any] = node.to_dict(omit_none=True)
    return {name: value for name, value in facts.items() if name not in _OF_A_RUN}


def _read(text: str) -> Read:
    try:
        tree = get_environment(None).parse(text)
    except TemplateError:
        return Read(settled=False)
    variables = [_first(call) for call in _calls(tree, "env_var")]
    calls = tree.find_all(nodes.Call)
    dispatched = [_first(call) for call in calls if _attribute(call.node) == ("adapter", "dispatch")]
    read = [pair for one in tree.find_all(nodes.Getattr) if (pair := _attribute(one)) is not None]
    named = [one.name for one in tree.find_all(nodes.Name) if one.name in _SETTLED_OF or one.name == "env_var"]
    looked_into = [of for of, _ in read if of in _SETTLED_OF] + ["env_var" for _ in variables]
    return Read(
        names=frozenset(meta.find_undeclared_variables(tree)),
        attributes=frozenset(read),
        variables=frozenset(name for name in variables if name is not None),
        dispatched=frozenset(name for name in dispatched if name is not None),
        settled=None not in (*variables, *dispatched) and sorted(named) == sorted(looked_into),
    )


def _calls(tree: nodes.Node, name: str) -> Iterator[nodes.Call]:
    return (one for one in tree.find_all(nodes.Call) if isinstance(one.node, nodes.Name) and one.node.name == name)


def _attribute(node: nodes.Node) -> tuple[str, str] | None:
    if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
        return node.node.name, node.attr
    return None


def _first(call: nodes.Call) -> str | None:
    """The text that a call is given first; None where that is an expression."""
    first = call.args[0] if call.args else next((each.value for each in call.kwargs), None)
    return first.value if isinstance(first, nodes.Const) and isinstance(first.value, str) else None
