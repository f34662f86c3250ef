"""The wheel as it is built from the files that there are, and environments that it is installed in."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [*map(str, command)], cwd=cwd, env=outside | environment, capture_output=True, text=True, check=False
    )


def done(*command: str | Path, cwd: Path, **environment: str) -> str:
    found = run(*command, cwd=cwd, **environment)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def clone_to(folder: Path) -> Path:
    """The files of the repository as they are now, in an index of their own."""
    listed = done("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    done("git", "init", "--quiet", cwd=folder)
    done("git", "add", "--all", cwd=folder)
    return folder


def build_wheel(clone: Path, out: Path) -> Path:
    """As `pip wheel .` makes it, by the build backend that is installed."""
    pip = (BIN / "python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    done(*pip, ".", "--wheel-dir", out, cwd=clone)
    (built,) = out.iterdir()
    return built


def environment(folder: Path, *, libraries: bool = False) -> Path:
    """A new environment's `bin`, with the libraries of the present one, or with none."""
    venv.create(folder, with_pip=False)
    if libraries:
        (site,) = folder.glob("lib/python*/site-packages")
        (here,) = (BIN.parent).glob("lib/python*/site-packages")
        (site / "libraries.pth").write_text(f"{here}\n")
    return folder / "bin"


def install(bin_: Path, *arguments: str | Path, cwd: Path) -> None:
    done(BIN / "uv", "pip", "install", "--quiet", "--python", bin_ / "python", *arguments, cwd=cwd)


def install_wheel(bin_: Path, wheel: Path, extra: str, *options: str, folder: Path) -> None:
    """With all that an extra brings: from the package index, at the versions of the lock."""
    pinned = [line.split("\\")[0] for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line]
    (folder / "pinned.txt").write_text("\n".join(pinned))
    wanted = f"feature-warehouse{extra} @ {wheel.as_uri()}"
    install(bin_, *options, "--constraint", folder / "pinned.txt", wanted, cwd=folder)
