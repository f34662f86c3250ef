"""Whether a view keeps its freshness promise and, where not, the first broken link of the chain that feeds it."""

import msgspec

from ..dbt.build import build_failure, read_last_run
from ..definitions.facts import FeatureView, Freshness
from ..publish.noted import Cause, Noted
from ..settings import Settings
from .lateness import span
from .promise import Standing, State, stands


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """How a promise stands: `age_seconds` is None where nothing is known; `cause` is None while it is kept."""

    state: State
    warn_seconds: float | None
    error_seconds: float | None
    age_seconds: float | None
    cause: Cause | None = None
    why: str = ""

    def __str__(self) -> str:
        limit = self.error_seconds if self.state == "error" else self.warn_seconds
        age = "nothing is known of it"
        if self.age_seconds is not None:
            age = f"what is known of it is {span(self.age_seconds)} old"
        promised = "" if limit is None else f", promised is at most {span(limit)}"
        return f"{age}{promised}; {self.cause}: {self.why}"


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the links of one view, in microseconds of time.

    `newest_us` is the newest event over all keys that readers see. `synced_run_us` is the instant that the last good
    run spoke of which is online. `waiting_us` is since when events wait to land. `stale` is a source that dbt found too
    old.
    """

    now_us: int
    newest_us: int | None
    noted: Noted
    online: bool = False
    synced_run_us: int | None = None
    waiting_us: int | None = None
    stale: str | None = None

    def standing(self, promise: Freshness) -> Standing:
        published_us = None if self.noted.good is None else self.noted.good.as_of_us
        return stands(
            promise,
            now_us=self.now_us,
            newest_us=self.newest_us,
            run_us=self.synced_run_us if self.online else published_us,
            waiting_us=self.waiting_us,
        )


def judge(view: FeatureView, promise: Freshness, chain: Chain, settings: Settings) -> Kept:
    """The state of a view's promise, and why it is not kept."""
    standing = chain.standing(promise)
    cause, why = (None, "") if standing.state == "pass" else first_broken(view, promise, chain, settings)
    return Kept(
        state=standing.state,
        warn_seconds=None if promise.warn_us is None else promise.warn_us / 1e6,
        error_seconds=None if promise.error_us is None else promise.error_us / 1e6,
        age_seconds=None if standing.age_us is None else standing.age_us / 1e6,
        cause=cause,
        why=why,
    )


def first_broken(view: FeatureView, promise: Freshness, chain: Chain, settings: Settings) -> tuple[Cause, str]:
    """The first broken link: applied, landed, data in the source, built, published, synced."""
    noted, limit_us = chain.noted, promise.warn_us or promise.error_us or 0
    if noted.cause == "not applied":
        return "not applied", f"{noted.said}; run `features plan`, then `features apply`"
    if chain.waiting_us is not None and chain.now_us - chain.waiting_us > limit_us and view.stream is not None:
        waits = span((chain.now_us - chain.waiting_us) / 1e6)
        return "not landed", f"events wait for {waits}; run `features stream {view.stream.source} --once`"
    if (stale := chain.stale or (noted.said if noted.cause == "no data" else None)) is not None:
        return "no data", f"{stale}; look at what loads it, then `dbt source freshness`"
    last = read_last_run(settings.target_path)
    said = None if last is None else build_failure(last, view.unique_id, settings.target_path)
    if said is not None or noted.cause == "build failed":
        return "build failed", f"{said or noted.said}; correct the data or the model, then `dbt build`"
    published_us = 0 if noted.good is None else noted.good.at_us
    unpublished = last is not None and view.unique_id in last.built() and last.began_us() > published_us
    if noted.cause == "not published" or unpublished:
        return "not published", f"{noted.said or 'it was built since'}; run `features publish {view.id}`"
    if chain.online and noted.good is not None and noted.good.as_of_us != chain.synced_run_us:
        return "not synced", f"it was published since; run `features sync {view.id}`"
    if noted.cause is None and noted.said:
        return "no data", f"{noted.said}; look at its source, or give the project the hooks of the dbt package"
    return "build failed", "no build of it since; look at its DAG's last run"
