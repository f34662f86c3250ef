"""The operations feed of the airports: when each event was known, and what it says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from examples import flights
from examples.payments import instant
from tests.dbt_project.world import FLIGHTS

YEAR = (instant("2013-01-01T00:00:00Z"), instant("2014-02-01T00:00:00Z"))
AIRPORTS = """
select * from (values
    ('JFK', 'America/New_York'), ('LAX', 'America/Los_Angeles'), ('HNL', 'Pacific/Honolulu')
) as airports (faa, tzone)
"""


def data(folder: Path, flown: str) -> Path:
    """A folder with flights of `flown`, rows of VALUES."""
    columns = "carrier, flight, dest, time_hour, minute, dep_delay, arr_time, sched_arr_time, arr_delay"
    with duckdb.connect() as connection:
        connection.execute(f"copy ({AIRPORTS}) to '{folder / 'airports.parquet'}' (format parquet)")
        connection.execute(
            f"copy (select * replace (time_hour::timestamptz as time_hour), 'EWR' as origin, 'N' || flight as tailnum"
            f" from (values {flown}) as flights ({columns})) to '{folder / 'flights.parquet'}' (format parquet)"
        )
    return folder


def by_carrier(events: pa.Table, *columns: str) -> dict[str, tuple[object, ...]]:
    rows = {row["carrier"]: tuple(row[column] for column in columns) for row in events.to_pylist()}
    return {
        carrier: tuple(f"{value:%m-%d %H:%M}" if isinstance(value, datetime) else value for value in row)
        for carrier, row in rows.items()
    }


def test_clock_times_become_utc(tmp_path: Path) -> None:
    """Midnight is 2400, arrivals are on the destination's wall clock, and two days have 23 and 25 hours."""
    folder = data(
        tmp_path,
        """
        ('ON', 1, 'LAX', '2013-01-01 10:00:00+00', 15, 2, 812, 819, -7),
        ('MN', 2, 'SJU', '2013-01-02 04:00:00+00', 59, 1, 2400, 445, null),
        ('ND', 3, 'SJU', '2013-01-02 04:00:00+00', 59, 30, 517, 445, 32),
        ('HI', 4, 'HNL', '2013-01-01 15:00:00+00', 0, -5, 1430, 1440, -10),
        ('SP', 5, 'SJU', '2013-03-10 04:00:00+00', 59, 150, 519, 345, 94),
        ('FA', 6, 'LAX', '2013-11-02 21:00:00+00', 18, 299, 114, 2015, 299)
        """,
    )
    assert by_carrier(flights.departures(folder, *YEAR), "scheduled_departure_at", "occurred_at", "ingested_at") == {
        "ON": ("01-01 10:15", "01-01 10:17", "01-01 10:17"),
        "MN": ("01-02 04:59", "01-02 05:00", "01-02 05:00"),
        "ND": ("01-02 04:59", "01-02 05:29", "01-02 05:29"),
        "HI": ("01-01 15:00", "01-01 14:55", "01-01 14:55"),
        "SP": ("03-10 04:59", "03-10 07:29", "03-10 07:29"),
        "FA": ("11-02 21:18", "11-03 02:17", "11-03 02:17"),
    }
    assert by_carrier(flights.arrivals(folder, *YEAR), "departed_at", "occurred_at", "ingested_at") == {
        "ON": ("01-01 10:17", "01-01 16:12", "01-01 16:12"),
        "MN": ("01-02 05:00", "01-03 04:00", "01-03 04:00"),
        "ND": ("01-02 05:29", "01-02 09:17", "01-02 09:17"),
        "HI": ("01-01 14:55", "01-02 00:30", "01-02 00:30"),
        "SP": ("03-10 07:29", "03-10 09:19", "03-10 09:19"),
        "FA": ("11-03 02:17", "11-03 08:14", "11-03 08:14"),
    }


def test_what_has_not_happened_is_not_sent(tmp_path: Path) -> None:
    """At 15:00 one flight has arrived, one is in the air, two are late or due, one was cancelled, one will be."""
    folder = data(
        tmp_path,
        """
        ('AR', 1, 'JFK', '2013-01-01 12:00:00+00', 0, 5, 855, 900, -5),
        ('AI', 2, 'JFK', '2013-01-01 13:00:00+00', 0, 20, 1025, 1000, 25),
        ('LA', 3, 'JFK', '2013-01-01 14:00:00+00', 0, 90, 1240, 1100, 100),
        ('CA', 4, 'JFK', '2013-01-01 15:00:00+00', 0, null, null, 1200, null),
        ('WI', 5, 'JFK', '2013-01-01 16:00:00+00', 0, null, null, 1300, null)
        """,
    )
    until = instant("2013-01-01T15:00:00Z")
    columns = ("departure_id", "is_cancelled", "departure_delay_minutes")
    assert by_carrier(flights.departures(folder, YEAR[0], until), *columns) == {
        "AR": (1, False, 5),
        "AI": (2, False, 20),
        "CA": (4, True, None),
    }
    columns = ("arrival_id", "departure_delay_minutes", "arrival_delay_minutes")
    assert by_carrier(flights.arrivals(folder, YEAR[0], until), *columns) == {"AR": (1, 5, -5)}
    later = flights.departures(folder, until, YEAR[1])
    assert by_carrier(later, "departure_id", "occurred_at") == {"LA": (3, "01-01 15:30"), "WI": (5, "01-01 16:00")}


@pytest.fixture(scope="module")
def year() -> tuple[pa.Table, pa.Table]:
    return flights.departures(FLIGHTS, *YEAR), flights.arrivals(FLIGHTS, *YEAR)


def ask(query: str, **tables: pa.Table) -> list[tuple[object, ...]]:
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        for name, table in tables.items():
            connection.register(name, table)
        return connection.sql(query).fetchall()


def test_every_flight_leaves_or_is_cancelled_and_most_arrive(year: tuple[pa.Table, pa.Table]) -> None:
    departures, arrivals = year
    query = "select count(*), count(distinct departure_id), count(*) filter (where is_cancelled) from departures"
    assert ask(query, departures=departures) == [(336_776, 336_776, 8_255)]
    query = """
        select count(*), count(distinct arrival_id), count(distinct (arrivals.tail_number, arrivals.occurred_at)),
            count(*) filter (arrivals.carrier = departures.carrier and arrivals.departed_at = departures.occurred_at)
        from arrivals join departures on arrival_id = departure_id
    """
    left_and_clocked_in, two_cities = 336_776 - 8_255 - 458, 1
    assert ask(query, departures=departures, arrivals=arrivals) == [(left_and_clocked_in - two_cities,) * 4]
    assert departures["ingested_at"].combine_chunks() == departures["occurred_at"].combine_chunks()


def test_a_plane_that_arrives_in_two_cities_at_once_is_where_it_went_last(year: tuple[pa.Table, pa.Table]) -> None:
    arrived = ask(
        "select destination_airport, departed_at from arrivals where tail_number = 'N710TW'"
        " and departed_at between '2013-04-18 04:00:00+00' and '2013-04-19 04:00:00+00'",
        arrivals=year[1],
    )
    left = ask(
        f"select dest, time_hour + to_minutes(minute + dep_delay) as left_at from '{FLIGHTS}/flights.parquet'"
        " where tailnum = 'N710TW' and month = 4 and day = 18 order by left_at"
    )
    assert [dest for dest, _ in left] == ["SEA", "LAX"]
    assert arrived == left[1:]


def test_the_past_and_what_follows_it_are_the_whole(year: tuple[pa.Table, pa.Table]) -> None:
    cut = instant("2013-07-04T12:00:00Z")
    for events, whole in zip((flights.departures, flights.arrivals), year, strict=True):
        parts = [events(FLIGHTS, YEAR[0], cut), events(FLIGHTS, cut, YEAR[1])]
        assert min(part.num_rows for part in parts) > 100_000
        assert pa.concat_tables(parts).combine_chunks() == whole.combine_chunks()


def test_files_are_named_for_the_month_and_the_same_again(tmp_path: Path) -> None:
    def make(out: Path) -> dict[str, bytes]:
        flights.main(
            ["--out", str(out), "--data", str(FLIGHTS), "--since", "2013-11-20T00:00:00Z", "--until", "2013-12-03"]
        )
        return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.parquet"))}

    written = make(tmp_path / "one")
    assert list(written) == [
        f"{name}/2013-{month}.parquet" for name in ("arrivals", "departures") for month in (11, 12)
    ]
    assert make(tmp_path / "two") == written
    for name in ("arrivals", "departures"):
        first, last = duckdb.sql(
            f"select min(ingested_at), max(ingested_at) from '{tmp_path}/one/{name}/2013-12.parquet'"
        ).fetchall()[0]
        assert datetime(2013, 12, 1, tzinfo=UTC) <= first < last <= datetime(2013, 12, 3, tzinfo=UTC)
        assert last - first > timedelta(days=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--since", "2013-12-31T00:00:00Z"], "--since: expected a time before --until"),
        (["--data", "nowhere"], "--data: expected flights.parquet in nowhere, which is not there"),
        (["--until", "tomorrow"], "argument --until: invalid instant value: 'tomorrow'"),
    ],
)
def test_a_bad_argument_is_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        flights.main(["--out", str(tmp_path / "out"), *arguments])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
