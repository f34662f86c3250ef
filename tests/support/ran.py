"""Commands of `features` as they are typed, run in the process of the tests."""

from __future__ import annotations

import sys
from typing import NamedTuple

import pytest

from feature_server.cli.main import main


class Ran(NamedTuple):
    """What a command printed and its exit code."""

    code: int
    out: str
    err: str


class Typing:
    """Runs `features` with the arguments given, as the environment of the test has it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: str) -> Ran:
        self._monkeypatch.setattr(sys, "argv", ["features", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        return Ran(int(exit_.value.code or 0), *self._capsys.readouterr())
