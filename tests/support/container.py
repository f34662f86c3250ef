"""Processes in a pid namespace of their own, as a container's are, on a machine of the same name."""

from __future__ import annotations

import subprocess

import pytest

_COMMAND = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


def container_command() -> list[str]:
    """What to put before a command; the test is skipped where this user may not make a namespace."""
    if subprocess.run([*_COMMAND, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user may not make a pid namespace")
    return _COMMAND
