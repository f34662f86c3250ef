"""When something is late, by the cadence of its refreshes; and lengths of time as words."""

from datetime import timedelta

_ALLOWED = {"hourly": timedelta(hours=2), "daily": timedelta(days=2), "weekly": timedelta(weeks=2)}


def allowed_delay(refresh: str | None) -> timedelta | None:
    """Twice the time between the refreshes of a cadence; None for one without a schedule."""
    return _ALLOWED.get(refresh or "")


def span(seconds: float) -> str:
    """A length of time in the two largest of its units: `2 h 5 min`, `41 d`."""
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days >= 3:
        return f"{days} d"
    parts = ((days, "d"), (hours, "h"), (minutes, "min"))
    return " ".join([f"{number} {unit}" for number, unit in parts if number][:2])
