"""Write the real departures and arrivals of New York's airports as their operations feed would have sent them.

    python -m examples.flights --out .features/landing [--until 2013-12-30T23:00:00Z] [--data data/nycflights13]

There is an event for each departure, sent when the plane leaves, for each cancellation, sent at the scheduled time, and
for each arrival, sent when the plane has arrived. The data does not say when a message came: `ingested_at` is
`occurred_at`. An event's id is the number of its flight in the order of the whole year's schedule, so other arguments
give the same event the same id.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from examples.payments import instant
from feature_server.durable import make_private

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START, END = "2013-01-01T00:00:00Z", "2013-12-30T23:00:00Z"


def _next_clock_time(after: str, clock: str) -> str:
    """SQL for the first instant later than `after` at which a clock in `time_zone` shows `clock`.

    That is an integer such as 5, 1430 or 2400: hours times 100 plus minutes, and 2400 is midnight.
    """
    shown = (
        f"date_trunc('day', timezone(time_zone, {after}))::timestamp + to_minutes({clock} // 100 * 60 + {clock} % 100)"
    )
    return (
        f"case when timezone(time_zone, {shown}) > {after} then timezone(time_zone, {shown})"
        f" else timezone(time_zone, {shown} + interval '1 day') end"
    )


# time_hour is UTC already, so adding minutes to it needs no calendar and survives daylight saving. Arrival times are a
# clock on the wall of the destination; the four destinations that the file of airports lacks are in Puerto Rico and on
# the Virgin Islands, which have one clock. The hour that a clock shows twice in autumn is settled by the delay; a
# diverted flight has the clock alone.
FLIGHTS = f"""
with scheduled as (
    select
        carrier,
        flight::integer as flight_number,
        origin as airport,
        dest as destination_airport,
        tailnum as tail_number,
        time_hour + to_minutes(minute) as scheduled_departure_at,
        time_hour + to_minutes(minute + dep_delay) as departed_at,
        dep_delay::integer as departure_delay_minutes,
        sched_arr_time,
        arr_time,
        arr_delay::integer as arrival_delay_minutes,
        coalesce(airports.tzone, 'America/Puerto_Rico') as time_zone
    from read_parquet($flights) as flights
    left join read_parquet($airports) as airports on flights.dest = airports.faa
)

select
    row_number() over (order by scheduled_departure_at, carrier, flight_number, airport) as number,
    *,
    coalesce(
        {_next_clock_time("scheduled_departure_at", "sched_arr_time")} + to_minutes(arrival_delay_minutes),
        {_next_clock_time("departed_at", "arr_time")}
    ) as arrived_at
from scheduled
"""

DEPARTURES = f"""
select
    number as departure_id,
    carrier,
    flight_number,
    airport,
    destination_airport,
    tail_number,
    scheduled_departure_at,
    departed_at is null as is_cancelled,
    departure_delay_minutes,
    coalesce(departed_at, scheduled_departure_at) as occurred_at,
    occurred_at as ingested_at
from ({FLIGHTS})
"""

# The data once has a plane arrive at two cities in the same minute: the flight that left last counts.
ARRIVALS = f"""
select
    number as arrival_id,
    carrier,
    flight_number,
    airport,
    destination_airport,
    tail_number,
    departed_at,
    departure_delay_minutes,
    arrival_delay_minutes,
    arrived_at as occurred_at,
    arrived_at as ingested_at
from ({FLIGHTS})
where arrived_at is not null
qualify row_number() over (partition by tail_number, arrived_at order by departed_at desc) = 1
"""


def departures(data: Path, since_us: int, until_us: int) -> pa.Table:
    """Departures and cancellations known after `since_us` and by `until_us`, microseconds since 1970, as they came."""
    return _known(DEPARTURES, data, since_us, until_us)


def arrivals(data: Path, since_us: int, until_us: int) -> pa.Table:
    """Arrivals known after `since_us` and by `until_us`, microseconds since 1970, as they came."""
    return _known(ARRIVALS, data, since_us, until_us)


def _known(events: str, data: Path, since_us: int, until_us: int) -> pa.Table:
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        return connection.sql(
            f"from ({events}) where epoch_us(ingested_at) > $since and epoch_us(ingested_at) <= $until"
            " order by ingested_at, #1",
            params={
                "flights": str(data / "flights.parquet"), "airports": str(data / "airports.parquet"),
                "since": since_us, "until": until_us,
            },
        ).to_arrow_table()  # fmt: skip


def land(events: pa.Table, directory: Path) -> int:
    """Write a file for each month of ingestion; return the number of rows."""
    make_private(directory)
    for stale in directory.glob("*.parquet"):
        stale.unlink()
    months = pc.strftime(events["ingested_at"], "%Y-%m").to_numpy(zero_copy_only=False)
    names, starts = np.unique(months, return_index=True)
    for name, first, after in zip(names, starts, [*starts[1:], len(months)], strict=True):
        pq.write_table(events.slice(first, after - first), directory / f"{name}.parquet")
    return events.num_rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m examples.flights", description="Write departures and arrivals as the airports' feed sends them."
    )
    parser.add_argument("--out", type=Path, required=True, help="directory to write to, such as .features/landing")
    parser.add_argument("--data", type=Path, default=Path("data/nycflights13"), help="folder of the real flights")
    parser.add_argument("--since", type=instant, default=START, help="only what is known after it, ISO, UTC")
    parser.add_argument("--until", type=instant, default=END, help="end of the world, ISO, UTC")
    given = parser.parse_args(arguments)
    if given.since >= given.until:
        parser.error("--since: expected a time before --until")
    if missing := [name for name in ("flights", "airports") if not (given.data / f"{name}.parquet").is_file()]:
        parser.error(f"--data: expected {missing[0]}.parquet in {given.data}, which is not there")
    counts = {
        "departures": land(departures(given.data, given.since, given.until), given.out / "departures"),
        "arrivals": land(arrivals(given.data, given.since, given.until), given.out / "arrivals"),
    }
    print(" ".join(f"{name}={count}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
