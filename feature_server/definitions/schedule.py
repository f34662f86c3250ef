"""What a schedule has to know of a project: the file that Airflow's DAGs are made of.

`features check` and `features apply` write it of good definitions; a check that finds a mistake leaves it as it is. It
is small, and read without dbt, DuckDB or the registry: each task of Airflow reads it anew.

What is built and published is decided when a run runs, by the project and the definitions in force: where the file is
old there are other tasks than there should be, but nothing is built or published that is not to be. It says
whose it is: another project's is neither scheduled nor overwritten.
"""

from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from ..durable import make_private, write_whole
from ..errors import UNREADABLE, FeatureStoreError
from ..formats import check_format
from .facts import Owner
from .owner import Owner as StoreOwner
from .owner import check_owner

SCHEDULE_FORMAT = 1
CADENCES = ("hourly", "daily", "weekly")  # what views may say as `refresh`, beside manual
REMEDY = "run `features check` in the dbt project"
_HOME = "give each project, and each target of it, a FEATURES_HOME of its own"


class ScheduledView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A feature view as a schedule sees it: `id`, its model's `unique_id`, and of its definition what tasks need.

    `source` is the event source of a stream view, `promised` whether the view promises its freshness.
    """

    id: str
    unique_id: str
    refresh: str | None = None
    entities: tuple[str, ...] = ()
    ttl: str | None = None
    source: str | None = None
    promised: bool = False
    owner: Owner | None = None


class ScheduledModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model, seed or snapshot: what it is made from, its tests, and by what it is chosen.

    `task` names it among all, `entity` is the one that it defines, `tags` are its own and those of its tests.
    """

    unique_id: str
    task: str
    group: str | None = None
    entity: str | None = None
    upstream: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """All feature views of a project by id, and all that dbt can build by unique id.

    `project` and `target` are whose it is, empty where it was not recorded yet.
    """

    format: int = SCHEDULE_FORMAT
    project: str = ""
    target: str = ""
    views: tuple[ScheduledView, ...] = ()
    models: tuple[ScheduledModel, ...] = ()

    @property
    def owner(self) -> StoreOwner | None:
        return StoreOwner(self.project, self.target) if self.project else None

    def views_of(self, refresh: str) -> tuple[ScheduledView, ...]:
        """The feature views of one cadence."""
        return tuple(view for view in self.views if view.refresh == refresh)

    def built_for(self, refresh: str, tags: Iterable[str] = ()) -> tuple[ScheduledModel, ...]:
        """What a cadence builds: its views, the entities they name, what has one of the tags, and all upstream."""
        views = self.views_of(refresh)
        entities, wanted = {entity for view in views for entity in view.entities}, {view.unique_id for view in views}
        tagged, by_id = set(tags), {model.unique_id: model for model in self.models}
        waiting = [
            model.unique_id
            for model in self.models
            if model.unique_id in wanted or model.entity in entities or not tagged.isdisjoint(model.tags)
        ]
        found = set(waiting)
        for name in waiting:  # the list grows
            more = [upstream for upstream in by_id[name].upstream if upstream not in found]
            found.update(more)
            waiting += more
        return tuple(model for model in self.models if model.unique_id in found)


def read_schedule(path: Path, meant: StoreOwner | None = None) -> Schedule:
    """What the last good `features check` or `apply` wrote; FeatureStoreError where there is none to read.

    So it is where it is another's than that of `meant`.
    """
    schedule = _read(path)
    if meant is not None:
        check_owner(schedule.owner, meant, (), what=str(path), remedy=_HOME)
    return schedule


def _read(path: Path) -> Schedule:
    try:
        stored = path.read_bytes()
        check_format(stored, path.name, SCHEDULE_FORMAT, kind=FeatureStoreError, where=str(path), remedy=REMEDY)
        return msgspec.json.decode(stored, type=Schedule)
    except FileNotFoundError:
        raise FeatureStoreError(
            "nothing says what there is to schedule", where=str(path),
            expected="the file that `features check` and `features apply` write", remedy=REMEDY,
        ) from None  # fmt: skip
    except (OSError, *UNREADABLE) as error:
        raise FeatureStoreError(
            "what there is to schedule cannot be read", where=str(path), got=str(error), remedy=REMEDY
        ) from None


def write_schedule(path: Path, schedule: Schedule, adopted: Collection[str] = ()) -> None:
    """Write the file whole, in a folder of its owner's alone; one that says the same already stays as it is.

    FeatureStoreError where it is another's, `adopted` names excepted; one that cannot be read is written anew.
    """
    found = None
    with suppress(FeatureStoreError):
        found = _read(path)
    if found is not None and schedule.owner is not None:
        check_owner(found.owner, schedule.owner, adopted, what=str(path), remedy=_HOME)
    text = msgspec.json.format(msgspec.json.encode(schedule), indent=1)
    make_private(path.parent)
    if not path.is_file() or path.read_bytes() != text:
        write_whole(path, lambda file: file.write(text))
