"""A leak test of a project: builds as of pairs of instants, and what of each model is not the same in both."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from ..asof.scratch import SUCCESS, Answer, Asking, Build, Pair, build_as_of, file_of, instant, parsed
from ..errors import SettingsError
from ..project.process import check_project
from ..settings import PROJECT_FILE, Settings, parse_time
from ..times import to_us
from .claims import Claim, Project, claims, landings, read_project
from .compare import Compared, Table, compare
from .reads import Reads, failures

Verdict = Literal["leaks", "clean", "untestable", "nothing compared"]


class Compare(msgspec.Struct, frozen=True, kw_only=True):
    """A pair of instants, and what differs; of a `replayed` view, which had the same events both times."""

    first: str
    later: str
    replayed: bool
    found: Compared


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of a model: `reasons` say why one without differences is not clean."""

    view: str
    verdict: Verdict
    keys: tuple[str, ...]
    known_at: str
    pairs: tuple[Compare, ...]
    reasons: tuple[str, ...] = ()


class LeakTest(msgspec.Struct, frozen=True, kw_only=True):
    views: tuple[Found, ...]

    @property
    def leaks(self) -> bool:
        return any(view.verdict == "leaks" for view in self.views)

    @property
    def clean(self) -> bool:
        return all(view.verdict == "clean" for view in self.views)


def leaktest(
    settings: Settings,
    names: Sequence[str] = (),
    *,
    first: Sequence[str] = (),
    later: str | None = None,
    pairs: int = 1,
    known_at: str | None = None,
    keys: Sequence[str] = (),
    landed: Sequence[str] = (),
    variables: str | None = None,
) -> LeakTest:
    """Build the models named, or every feature view, as of each `first` instant and as of `later`, and compare.

    Without instants `later` is the project's own `as_of`, else the newest landing, and `first` are chosen by when rows
    landed, as many as `pairs`. `variables` are dbt's, in YAML. Nothing of the project is written.
    """
    check_project(settings.project_dir)
    asking = _asking(settings, first, later, pairs)
    (given, column), own = _landed(landed), _variables(variables)
    with tempfile.TemporaryDirectory(prefix="features-leaktest-") as name:
        folder = Path(name)
        project = read_project(parsed(settings, folder, own))
        wanted = claims(project, names, known_at=known_at, keys=keys)
        sources = landings(project, project.under([claim.unique_id for claim in wanted]), given)
        answer = build_as_of(
            settings, folder, sources=sources, landed=column, variables=own, asking=asking,
            models=[claim.unique_id for claim in wanted],
            replayed=[claim.unique_id for claim in wanted if claim.stream],
            events=[uid for uid in sources if project.sources[uid].id in {claim.stream for claim in wanted}],
        )  # fmt: skip
        reads = Reads(project, answer)
        return LeakTest(views=tuple(_tested(claim, project, answer, reads, folder) for claim in wanted))


def _tested(claim: Claim, project: Project, answer: Answer, reads: Reads, folder: Path) -> Found:
    found, reasons = [], dict.fromkeys(reads.reasons(claim))
    for pair in answer.pairs:
        builds = _builds(pair, claim)
        for build in builds:
            reasons |= dict.fromkeys(failures(answer.built[build.name], claim, project))
        if not all(_is_built(answer, build, claim) for build in builds):
            continue
        one, other = (_table(folder, build, answer, claim) for build in builds)
        compared = compare(one, other, known_at=claim.known_at, by_us=pair.first.as_of_us, keys=claim.keys)
        if compared.unclaimed:
            reasons[f"{compared.unclaimed:,} of its rows have no {claim.known_at}"] = None
        found.append(
            Compare(
                first=instant(pair.first.as_of_us), later=instant(pair.later.as_of_us),
                replayed=claim.stream is not None, found=compared,
            )
        )  # fmt: skip
    return Found(
        view=claim.id, verdict=_verdict(found, reasons), keys=claim.keys, known_at=claim.known_at, pairs=tuple(found),
        reasons=tuple(reasons),
    )  # fmt: skip


def _verdict(found: Sequence[Compare], reasons: Mapping[str, None]) -> Verdict:
    if not all(each.found.same for each in found):
        return "leaks"
    if reasons:
        return "untestable"
    return "clean" if any(each.found.rows for each in found) else "nothing compared"


def _builds(pair: Pair, claim: Claim) -> tuple[Build, Build]:
    """Every build reckons a stream view anew of all events, which reads take by when they were known."""
    return pair.first, pair.replay if claim.stream and pair.replay is not None else pair.later


def _is_built(answer: Answer, build: Build, claim: Claim) -> bool:
    built = answer.built[build.name].get(claim.unique_id)
    return built is not None and built.status == SUCCESS


def _table(folder: Path, build: Build, answer: Answer, claim: Claim) -> Table:
    built = answer.built[build.name][claim.unique_id]
    return Table(file_of(folder, build, built.database), built.schema, built.table)


def _asking(settings: Settings, first: Sequence[str], later: str | None, pairs: int) -> Asking:
    firsts = tuple(sorted({to_us(parse_time(text, where="--as-of")) for text in first}))
    later_us = None if later is None else to_us(parse_time(later, where="--then"))
    if later_us is None:
        later_us = _own_as_of(settings.project_dir)
    if firsts and pairs > 1:
        raise SettingsError(
            "the first instants are given, so none are chosen", where="--pairs", got=str(pairs),
            expected="--as-of or --pairs", remedy="leave one of them out",
        )  # fmt: skip
    if later_us is not None and any(us >= later_us for us in firsts):
        raise SettingsError(
            "the first instant is not before the later one", where="--as-of", got=instant(firsts[-1]),
            expected=f"before {instant(later_us)}", remedy="give an earlier --as-of, or a later --then",
        )  # fmt: skip
    return Asking(first_us=firsts, later_us=later_us, pairs=pairs)


def _own_as_of(project_dir: Path) -> int | None:
    """The project's own value of the variable `as_of`, where it is an instant."""
    try:
        project: Any = yaml.safe_load((project_dir / PROJECT_FILE).read_text(encoding="utf-8"))
        given = project.get("vars") or {}
        own = given.get(project.get("name")) or {}
        value = own.get("as_of") or given.get("as_of")
        return None if value is None else to_us(parse_time(str(value), where="vars: as_of"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, SettingsError):
        return None


def _landed(given: Sequence[str]) -> tuple[dict[str, str], str | None]:
    """Columns by source, of `source.table=COLUMN`, and the one of all others, of `COLUMN`."""
    named = {name.strip(): sql for name, mark, sql in (each.partition("=") for each in given) if mark}
    plain = [each for each in given if "=" not in each]
    if len(plain) > 1:
        raise SettingsError(
            "two columns for the same sources", where="--landed", got=", ".join(plain),
            expected="one COLUMN, and source.table=COLUMN for others", remedy="name the source of one of them",
        )  # fmt: skip
    return named, plain[0] if plain else None


def _variables(text: str | None) -> dict[str, Any]:
    """dbt's variables as --vars has them; SettingsError for as_of, which each build has of its instant."""
    try:
        found: Any = yaml.safe_load(text or "{}")
        if isinstance(found, dict) and all(isinstance(name, str) for name in found):
            found = msgspec.json.decode(msgspec.json.encode(found))  # dates as text
        else:
            raise ValueError(type(found).__name__)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise SettingsError(
            "the variables cannot be read", where="--vars", expected="YAML or JSON such as '{name: value}'",
            got=" ".join(str(error).split()), remedy="write them as dbt's own --vars has them",
        ) from None  # fmt: skip
    if "as_of" in found:
        raise SettingsError(
            "each build has its own as_of", where="--vars", got=f"as_of: {found['as_of']}",
            expected="other variables", remedy="give the instants with --as-of and --then",
        )  # fmt: skip
    return dict(found)
