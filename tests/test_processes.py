"""Whether a process has ended is told of one's own machine and container alone, and never by its number."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest

from feature_server.processes import ProcessId, this_process
from tests.support.container import container_command

SAY = """
import sys, msgspec
from feature_server.processes import this_process
print(msgspec.json.encode(this_process()).decode(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=[False, True], ids=["here", "in a container"])
def another(request: pytest.FixtureRequest) -> Iterator[tuple[bool, subprocess.Popen[str], ProcessId]]:
    """Whether a process is in a container, the process, and what it says of itself."""
    command = [*(container_command() if request.param else []), sys.executable, "-c", SAY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield request.param, process, msgspec.json.decode(process.stdout.readline(), type=ProcessId)


def test_only_the_end_of_a_process_of_this_container_is_known(
    another: tuple[bool, subprocess.Popen[str], ProcessId],
) -> None:
    elsewhere, process, told = another
    assert told.has_ended is (None if elsewhere else False)
    process.communicate()
    assert told.has_ended is (None if elsewhere else True)


def test_a_process_number_that_was_given_out_again_is_another_process() -> None:
    me = this_process()
    assert me is not None
    assert (me.process, me.has_ended) == (os.getpid(), False)
    assert msgspec.structs.replace(me, started=str(int(me.started) - 1)).has_ended is True
    assert msgspec.structs.replace(me, boot="another").has_ended is None
