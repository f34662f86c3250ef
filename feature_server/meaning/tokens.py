"""What a build tells the definition of each model by: a file of tokens, changed by one process at a time."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from ..definitions.registry import Registry
from ..durable import changing, make_private, write_whole
from ..errors import UNREADABLE

_MARK = "!"  # before the build by which a view was refused
Tokens = Mapping[str, str]


def write_definitions(path: Path, registry: Registry) -> None:
    """Write of each model its view's fingerprint, if it has one, and its meaning.

    What `distrust` has put behind that, so that a model is built anew, stays.
    """
    views = {view.unique_id: view.fingerprint for view in registry.feature_views}
    tokens = {model.unique_id: f"{views.get(model.unique_id, '')}.{model.meaning}" for model in registry.models}

    def change(kept: Tokens) -> Tokens:
        return tokens | {name: text for name, text in kept.items() if text.partition(_MARK)[0] == tokens.get(name)}

    make_private(path.parent)
    _change(path, change)


def distrust(path: Path, refused: Mapping[str, str]) -> None:
    """Have the next build of each refused model make it whole: what builds tell its definition by is another then.

    `refused` maps unique ids to the invocation that was the last. Where there is no file, or none that can be read, the
    next `features apply` writes it.
    """
    if path.exists():
        _change(
            path,
            lambda tokens: {
                **tokens,
                **{
                    name: f"{tokens[name].partition(_MARK)[0]}{_MARK}{of}"
                    for name, of in refused.items()
                    if name in tokens
                },
            },
        )


def _change(path: Path, change: Callable[[Tokens], Tokens]) -> None:
    with changing(path):
        tokens: Tokens = {}
        with suppress(OSError, *UNREADABLE):
            tokens = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
        text = msgspec.json.format(msgspec.json.encode(change(tokens)), indent=1)
        write_whole(path, lambda file: file.write(text))
