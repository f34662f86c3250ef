"""What a model reads: models, seeds, snapshots and sources, itself or through others."""

from collections.abc import Callable, Iterable, Iterator

from ..dbt.artifacts import Manifest, Node


def parents(node: Node, manifest: Manifest) -> Iterator[Node]:
    """What a model names in its SQL, or for dbt's order of building."""
    for unique_id in node.depends_on.nodes:
        if (parent := manifest.nodes.get(unique_id) or manifest.sources.get(unique_id)) is not None:
            yield parent


def relations(node: Node, manifest: Manifest) -> Iterator[Node]:
    """The same, but for ephemeral models what they read: their SQL stands in its own."""
    for parent in parents(node, manifest):
        if parent.config.get("materialized") == "ephemeral":
            yield from relations(parent, manifest)
        else:
            yield parent


def walk(node: Node, below: Callable[[Node], Iterable[Node]]) -> Iterator[Node]:
    """A node and all that it reads, itself or through others, each once."""
    waiting, seen = [node], {node.unique_id}
    while waiting:
        yield (reader := waiting.pop())
        found = {read.unique_id: read for read in below(reader) if read.unique_id not in seen}
        seen.update(found)
        waiting += found.values()
