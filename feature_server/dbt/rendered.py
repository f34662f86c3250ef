"""Models as dbt compiled them, for `lint`, which renders their files itself but where only dbt can."""

from collections.abc import Callable
from pathlib import PurePath

from ..written.marks import Place, Written
from ..written.rendering import Rendered, reference
from .artifacts import Node
from .compiled import Parsed


def rendered_by_dbt(parsed: Parsed) -> Callable[[str], Rendered | None]:
    """The SQL of a model by the name of its file without an ending, with what it reads by name; None where dbt has
    compiled none, as of a Python model. All of it stands on line 1 of the model's file: its own lines are not known."""
    manifest, texts = parsed.manifest, parsed.compiled.texts.full if parsed.compiled is not None else {}
    models = {PurePath(node.original_file_path).stem: node for node in manifest.models() if node.unique_id in texts}

    def rendered(name: str) -> Rendered | None:
        node = models.get(name)
        return None if node is None else _rendered(node, texts[node.unique_id], parsed)

    return rendered


def _rendered(node: Node, sql: str, parsed: Parsed) -> Rendered:
    refs, sources = list[tuple[str, str | None]](), list[tuple[str, str]]()
    relations = dict[str, str]()
    for unique_id in node.depends_on.nodes:
        read = parsed.manifest.nodes.get(unique_id) or parsed.manifest.sources.get(unique_id)
        if read is None:
            continue
        if read.resource_type == "source":
            sources.append((read.source_name, read.name))
            written = f'"{read.source_name}"."{read.name}"'
        else:
            version = None if read.version is None else str(read.version)
            refs.append((read.name, version))
            written = reference(read.name, version)
        if read.relation_name:
            relations[read.relation_name] = written
    for relation in sorted(relations, key=len, reverse=True):  # one may begin as another does
        sql = sql.replace(relation, relations[relation])
    contract = node.config.get("contract")
    return Rendered(
        Written(sql, (0,), (Place(node.original_file_path, 1),)),
        tuple(refs),
        tuple(sources),
        node.config.get("materialized"),
        meta=node.meta,
        is_constrained=isinstance(contract, dict) and contract.get("enforced") is True,
    )
