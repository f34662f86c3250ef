"""dbt asked to read the project: what has changed of it, or the whole, where dbt itself would miss something.

dbt keeps what it parsed, and looks at files and at the environment variables that it saw models and YAML read. A model
that dispatches to another macro, or has its config of one, is not read again by dbt; nor is one whose schema a macro
makes of a variable, nor a service that has one in its description. Imports dbt.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from dbt.cli.exceptions import DbtUsageException
from dbt.cli.main import dbtRunner
from dbt.contracts.files import ParseFileType
from dbt.contracts.graph.manifest import Manifest

from ..durable import write_whole
from ..errors import UNREADABLE
from ..kept import digest
from ..project.target import fingerprint
from .compiled import Request
from .unchanged import OWN

_FILE = "kept_reading.json"
_CONFIG = re.compile(r"\bconfig\s*\(")
_CALL = re.compile(r"\A[^}]*\w\s*\(")  # of anything within what follows


_NAMED = re.compile(r"""\benv_var\s*\(\s*\\?['"]+(\w+)""")
_UNNAMED = re.compile(r"""\benv_var\s*\(\s*[^\s'"\\]""")


class Failed(Exception):
    """dbt did not succeed; it has printed why."""


class LastRead(msgspec.Struct, frozen=True):
    """What dbt read last: the macros, each with a hash of its text, and the environment variables, of their values."""

    macros: dict[str, str]
    environ: dict[str, str]


def invoke(runner: dbtRunner, arguments: list[str]) -> Any:
    """What a command of dbt gives; Failed where it does not succeed."""
    run = runner.invoke(["--no-use-colors", *arguments])
    if not run.success:
        say(run)
        raise Failed
    return run.result


def say(run: Any) -> None:
    """Print what dbt itself does not print of a run that failed."""
    if isinstance(run.exception, DbtUsageException):
        print(f"Error: {run.exception}")


def parse(request: Request) -> tuple[Manifest, dict[str, str]]:
    """The project, and a fingerprint of each environment variable that it reads.

    Where the last reading did not end nothing is known of what dbt kept, so it reads the whole; so it does where a
    variable's name is no text.
    """
    path = Path(request.folder) / _FILE
    last = _read(path)
    path.unlink(missing_ok=True)
    command = ["parse", *request.arguments, "--target-path", request.folder]
    anew = [*command, "--no-partial-parse"]
    if last is not None and any(fingerprint(request.environ.get(key)) != one for key, one in last.environ.items()):
        last = None
    manifest: Manifest = invoke(dbtRunner(), anew if last is None else command)
    macros = {name: digest(macro.macro_sql) for name, macro in sorted(manifest.macros.items())}
    before = macros if last is None else last.macros
    if before.keys() != macros.keys() or (before != macros and _configured_by_macros(manifest)):
        manifest = invoke(dbtRunner(), anew)
    texts = "\n".join(_texts(manifest))
    names = {*manifest.env_vars, *_NAMED.findall(texts)}
    environ = {name: fingerprint(request.environ.get(name)) for name in sorted(names)}
    if not _UNNAMED.search(texts):
        write_whole(path, lambda file: file.write(msgspec.json.encode(LastRead(macros, environ))))
    return manifest, environ


def _read(path: Path) -> LastRead | None:
    with suppress(OSError, *UNREADABLE):
        return msgspec.json.decode(path.read_bytes(), type=LastRead)
    return None


def _configured_by_macros(manifest: Manifest) -> bool:
    """Whether what a macro gives may be part of a model's config, or a macro sets it."""
    own = [macro.macro_sql for macro in manifest.macros.values() if not macro.package_name.startswith("dbt")]
    texts = [node.raw_code for node in manifest.nodes.values() if node.resource_type in ("model", "snapshot")]
    return any(_CONFIG.search(text) for text in own) or any(
        _CALL.search(part) for text in texts for part in _CONFIG.split(text)[1:]
    )


def _texts(manifest: Manifest) -> Iterator[str]:
    """The Jinja of macros that are not dbt's, of models, and in YAML, as far as it reads the environment."""
    texts = [macro.macro_sql for macro in manifest.macros.values() if macro.package_name not in OWN]
    texts += [node.raw_code for node in manifest.nodes.values()]
    described = (file.path for file in manifest.files.values() if file.parse_file_type == ParseFileType.Schema)
    for path in [Path("dbt_project.yml"), *(Path(one.full_path) for one in described if one is not None)]:
        with suppress(OSError):
            texts.append(path.read_text(encoding="utf-8", errors="replace"))
    return (text for text in texts if "env_var" in text)
