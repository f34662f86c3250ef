"""A password in a URL is shown nowhere, however badly it is written."""

from __future__ import annotations

import base64
import logging
import threading
import traceback
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from feature_server import AsyncFeatureClient, FeatureClient
from feature_server.errors import FeatureStoreError, SettingsError
from feature_server.ingest.transaction import Ingestor
from feature_server.online.address import parse_redis_url
from feature_server.online.refusals import refusal
from feature_server.online.store import OnlineStore
from feature_server.settings import load_settings


@pytest.mark.parametrize(
    "secret",
    [
        "hun/ter2",
        "hun#ter2",
        "hun?ter2",
        "12/hunter2",
        "12#hunter2",
        "12?hunter2",
        "h[unter2",
        "hun%ter2",
        "hunter2@",
        "x&hunter2",
        "h\\unter2",
        "12?db=hunter2",
    ],
)
@pytest.mark.parametrize(
    "form",
    [
        "redis://:{}@localhost:1",
        "redis://user:{}@localhost:1/0",
        "rediss://user:{}@localhost",
        "unix://user:{}@/no.sock",
        "{}:x@localhost",
        "http://user:{}@localhost:1",
        "redis://localhost:1?password={}",
        "redis:/{}@localhost",
        "{}",
    ],
)
def test_a_password_is_never_shown(form: str, secret: str) -> None:
    """Not by an error nor by any object, however it is written; what is part of it neither."""
    url, said = form.format(secret), list[str]()
    for use in (FeatureClient, AsyncFeatureClient, OnlineStore, lambda url: Ingestor(url, lambda: 0), parse_redis_url):
        try:
            made = use(url)
        except SettingsError as error:
            said.append("".join(traceback.format_exception(error)).partition("SettingsError: ")[2])
            continue
        said.append(repr(made))
        if isinstance(made, FeatureClient):
            with pytest.raises(FeatureStoreError) as caught:
                made.get(features=["a:b"], c=1)
            said.append(str(caught.value))
        if isinstance(made, OnlineStore):
            with pytest.raises(FeatureStoreError) as caught:
                made.registry()
            said.append(str(caught.value))
    with suppress(SettingsError):
        said.append(repr(load_settings({"FEATURES_REDIS_URL": url})))
    assert [text for text in said if "ter2" in text or "hun" in text] == []


def test_the_log_of_the_http_library_shows_no_password_and_the_server_gets_it(caplog: pytest.LogCaptureFixture) -> None:
    got = list[str]()

    class Proxy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.headers["authorization"])
            self.send_error(502)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        thread = threading.Thread(target=proxy.handle_request)
        thread.start()
        url = "http://{}@127.0.0.1:{}/features/".format("user:hun%2Fter2", proxy.server_port)
        with (
            caplog.at_level(logging.DEBUG),
            caplog.at_level(logging.DEBUG, "httpx"),
            FeatureClient(url) as client,
            pytest.raises(FeatureStoreError),
        ):
            client.get(features=["a:b"], c=1)
        thread.join()
    assert got == ["Basic " + base64.b64encode(b"user:hun/ter2").decode()]
    assert "POST http://127.0.0.1" in caplog.text
    assert "ter2" not in caplog.text


@pytest.mark.parametrize(
    "place", ["s3://key:hun/ter2@bucket/x", "md:shop?motherduck_token=hunter2", "postgres:host=h password=hunter2"]
)
def test_a_place_elsewhere_is_named_without_what_opens_it(place: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({"FEATURES_OFFLINE": place})
    assert "ter2" not in str(caught.value)
    assert place.partition(":")[0] + ":" in str(caught.value)


def test_a_redis_that_does_not_know_auth_repeats_no_password() -> None:
    error = refusal("ERR unknown command `AUTH`, with args beginning with: `hunter2`, ")
    assert str(error) == (
        "Redis does not know this user and password\n  got: ERR unknown command `AUTH`\n"
        "  remedy: correct them in FEATURES_REDIS_URL"
    )
