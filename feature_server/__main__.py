"""The `features` command, also `python -m feature_server`: where it cannot be loaded, what to install."""

import sys

from .errors import NotInstalled
from .extras import OF_SERVER, needed, versions


def main() -> None:
    """`--version` and the error of a missing extra need the base install alone."""
    if sys.argv[1:] == ["--version"]:
        print(*versions(), sep="\n")
        return
    try:
        enough = not sys.argv[1:] or sys.argv[1] in OF_SERVER
        with needed("features", "server" if enough else "warehouse"):
            from .cli.main import main as run
    except NotInstalled as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    run()


if __name__ == "__main__":
    main()
