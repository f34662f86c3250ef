"""What a connection refuses before the application sees a request."""

from ..errors import FeatureStoreError, RequestError


class HeadTooLarge(RequestError):
    """A request line and headers, or what stands beside the data of a chunked body, beyond the limit."""

    status = 431


class TooSlow(RequestError):
    """A request that does not arrive within the time for it."""

    status = 408


class NotHttp(RequestError):
    """What is no request in HTTP/1.1."""

    status = 400


class TooManyConnections(FeatureStoreError):
    """One connection more than there are files for."""

    status = 503
    retry_after_seconds = 1


def too_large(part: str, size: int, limit: int) -> HeadTooLarge:
    what = "the request's head is too large" if part == "head" else "the body's framing is too large"
    return HeadTooLarge(
        what, where=part, expected=f"at most {limit:,} bytes", got=f"{size:,} bytes or more",
        remedy="send what is long in the body; FEATURES_HEAD_BYTES, where the server runs, allows more",
    )  # fmt: skip


def too_slow(part: str, seconds: float) -> TooSlow:
    return TooSlow(
        f"the request's {part} did not arrive in time", where=part, expected=f"all of it in {seconds:g} s",
        remedy=f"send it at once; FEATURES_{part.upper()}_SECONDS, where the server runs, allows more",
    )  # fmt: skip


def not_http(got: str) -> NotHttp:
    return NotHttp("this is no request in HTTP/1.1", got=got, remedy="ask with http://, not https://, over HTTP/1.1")


def too_many(most: int) -> TooManyConnections:
    return TooManyConnections(
        "this server has as many connections as it can have", expected=f"at most {most:,}",
        remedy="try again; a higher limit of open files (ulimit -n), where the server runs, allows more",
    )  # fmt: skip
