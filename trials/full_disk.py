"""A small disk holds what the product writes, and is full at random moments: named errors, nothing damaged, then on.

The disk is a tmpfs in a user and mount namespace of the trial's own (`unshare`), so no right is needed to make it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from threading import Event, Thread

from . import trial
from .shop import SERVICE, SOURCE, Shop
from .traffic import disturb
from .trial import Trial

INSIDE = "FEATURES_TRIAL_INSIDE"
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
DISK_MB = 96
COMMANDS = (
    "apply", "publish --full", "sync --full", "docs", "verify", f"stream {SOURCE} --once",
    f"train {SERVICE} --spine spine.parquet --out small/set.parquet", "pushes",
)  # fmt: skip


class SmallDisk:
    """A file system of its own at `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._filler = folder, folder / "filler"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)], check=True)

    def fill(self, left: int) -> None:
        """Take all room but about `left` bytes."""
        chunk = b"\xff" * 65536
        with self._filler.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(chunk)
        size = self._filler.stat().st_size
        os.truncate(self._filler, max(0, size - left))

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)


def play(trial: Trial) -> None:
    disk = SmallDisk(trial.folder / "small")
    with Shop(trial) as shop:
        shop.home = disk.folder / "home"
        shop.env["FEATURES_HOME"] = str(shop.home)
        (disk.folder / "landing").mkdir()
        shop.folder.mkdir()
        (shop.folder / "small").symlink_to(disk.folder)
        (shop.folder / "landing").symlink_to(disk.folder / "landing")
        shop.create(Random(trial.seed))
        try:
            disturb(shop, lambda random: fill_during(shop, disk, random))
        finally:
            disk.free()
    if trial.faults:
        shutil.copytree(disk.folder, trial.folder / "small-kept", symlinks=True, ignore_dangling_symlinks=True,
                        ignore=shutil.ignore_patterns("*.sock"))  # fmt: skip


def fill_during(shop: Shop, disk: SmallDisk, random: Random) -> None:
    """Run a command while the disk fills up, then again with room."""
    name = random.choice(COMMANDS)
    after, left = random.choice((0.0, random.uniform(0, 4))), random.choice((0, 0, random.randrange(500_000)))
    shop.trial.say(f"fills the disk but {left:,} bytes {after:.1f} s after the start of `{name}`")
    if name.startswith("publish"):
        shop.must("build")
    ended = Event()

    def fill() -> None:
        if not ended.wait(after):
            disk.fill(left)

    filler = Thread(target=fill)
    filler.start()
    if name == "pushes":
        time.sleep(after + random.uniform(1, 5))
    else:
        done = shop.run(name)
        shop.trial.did("ended well on a full disk" if done.code == 0 else "ended with an error on a full disk")
        if done.code not in (0, 1) or (done.code == 1 and not any(w in done.output for w in ("error: ", "failed "))):
            shop.trial.fault(f"no named error on a full disk: {done}")
    ended.set()
    filler.join()
    disk.free()
    time.sleep(1.5)  # Valkey tries to write its append-only file once a second
    if name != "pushes":
        done = shop.run(name)
        if done.code != 0:
            shop.trial.fault(f"after the disk was full {done}")


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    if "-h" in given or "--help" in given or os.environ.get(INSIDE):
        return trial.run("full_disk", __doc__ or "", play, rounds=8, arguments=given)
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode != 0:
        print("full_disk: this machine lets no user make a mount namespace (`unshare --user --mount`)", file=sys.stderr)
        return 2
    command = [*NAMESPACE, sys.executable, "-m", "trials.full_disk", *given]
    return subprocess.run(command, env=os.environ | {INSIDE: "1"}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
