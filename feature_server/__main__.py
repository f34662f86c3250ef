"""The `features` command, also `python -m feature_server`: where it cannot be loaded, what to install."""

import sys

from .errors import NotInstalled
from .extras import needed, versions


def main() -> None:
    """`--version` and the error of a missing extra need the base install alone."""
    if sys.argv[1:] == ["--version"]:
        print(*versions(), sep="\n")
        return
    try:
        with needed("features"):
            from .cli.main import main as run
    except NotInstalled as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    run()


if __name__ == "__main__":
    main()
