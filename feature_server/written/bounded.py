"""What somebody else's templates may take of this process: so much CPU time and so much more memory."""

import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

SECONDS, MORE_BYTES = 2.0, 1 << 30
MAX_RANGE = 100_000  # as in dbt's own Jinja


class TooMuch(Exception):
    """More than a template may take."""


@contextmanager
def bounded(seconds: float = SECONDS, more_bytes: int = MORE_BYTES) -> Iterator[None]:
    """TooMuch where what is within takes more CPU, which only the main thread can be told of, or more memory."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGVTALRM, _end) if is_main else None
    try:
        with suppress(ValueError, OSError):  # where the system says how much there is, and lets it be bounded
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            most = pages * resource.getpagesize() + more_bytes
            if before[0] == resource.RLIM_INFINITY or most < before[0]:
                resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
        if is_main:
            signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 1)  # again, where the first was lost in a library
        yield
    except MemoryError:
        raise TooMuch(f"it takes more than {more_bytes >> 20} MB of memory") from None
    finally:
        if is_main:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, handler)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, before)


def range_of(*of: int) -> range:
    """Python's own, no longer than dbt lets it be."""
    found = range(*of)
    if found and (found[-1] - found[0]) // found.step >= MAX_RANGE:
        raise TooMuch(f"a range is longer than {MAX_RANGE}, which dbt does not allow either")
    return found


def _end(_: int, __: FrameType | None) -> None:
    raise TooMuch(f"it takes more than {SECONDS:g} s to render")
