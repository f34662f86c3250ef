"""Which process somebody was, and whether it has ended: told apart over restarts, and in containers of one name."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

_BOOT, _NAMESPACE = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")


class ProcessId(msgspec.Struct, frozen=True):
    """Number `process` of the pid namespace `namespace` since the boot `boot`; `started` in clock ticks after that."""

    boot: str
    namespace: str
    process: int
    started: str

    def __str__(self) -> str:
        return f"{self.boot} {self.namespace} {self.process} {self.started}"

    @property
    def has_ended(self) -> bool | None:
        """None where that cannot be told from here: of another machine, or of another container."""
        me = this_process()
        if me is None or (me.boot, me.namespace) != (self.boot, self.namespace):
            return None
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another user's
            pass
        found = _stat(self.process)
        return None if found is None else found[1] != self.started


def parse_process(text: str) -> ProcessId | None:
    """What `str` makes of a ProcessId; None for any other text."""
    found = text.split(" ")
    if len(found) != 4 or not found[2].isdecimal():
        return None
    return ProcessId(boot=found[0], namespace=found[1], process=int(found[2]), started=found[3])


def this_process() -> ProcessId | None:
    """None where the system does not say: not Linux, or a /proc that is another namespace's."""
    try:
        boot, namespace = _BOOT.read_text().strip(), os.readlink(_NAMESPACE)
    except OSError:
        return None
    found = _stat("self")
    if found is None or found[0] != os.getpid():
        return None
    return ProcessId(boot=boot, namespace=namespace, process=found[0], started=found[1])


def _stat(process: int | str) -> tuple[int, str] | None:
    """A process' number and its start, None where they cannot be read; a start of "" is that of mere remains."""
    try:
        # pid (command) state ppid … : the command may hold spaces and brackets, field 22 is the start in clock ticks.
        number, _, rest = Path(f"/proc/{process}/stat").read_text(errors="replace").partition(" ")
        fields = rest.rpartition(")")[2].split()
        return int(number), "" if fields[0] in "ZX" else fields[19]
    except (OSError, ValueError, IndexError):
        return None
