"""A password in a URL is shown nowhere, however badly it is written."""

from __future__ import annotations

import traceback
from contextlib import suppress

import pytest

from feature_server import AsyncFeatureClient, FeatureClient
from feature_server.errors import FeatureStoreError, SettingsError
from feature_server.ingest import Ingestor
from feature_server.online import OnlineStore
from feature_server.redis_url import parse_redis_url
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
