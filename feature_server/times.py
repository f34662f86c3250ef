"""Instants as whole microseconds since 1970-01-01 UTC, and back."""

from datetime import UTC, date, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_DAY = date(1970, 1, 1).toordinal()
NEVER = 2**63 - 1  # in microseconds: later than every clock


def to_us(moment: datetime) -> int:
    """Microseconds since 1970-01-01 UTC, exactly; a naive time is UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return length_us(moment - EPOCH)


def length_us(length: timedelta) -> int:
    """A length of time in microseconds, exactly."""
    return (length.days * 86_400 + length.seconds) * 1_000_000 + length.microseconds


def from_us(microseconds: int) -> datetime:
    """The aware UTC instant; OverflowError outside the years 1 to 9999."""
    return EPOCH + timedelta(0, 0, microseconds)


YEARS_US = to_us(datetime.min), to_us(datetime.max)  # the first and the last instant that a datetime can be
