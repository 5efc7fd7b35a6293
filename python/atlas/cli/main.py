"""The entry point. It imports next to nothing, so that Ctrl-C ends a start in order, too."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main() -> int:
    """The console script. Returns the exit code."""
    try:
        from atlas.cli.program import prepare_streams

        prepare_streams()
        return execute(sys.argv[1:])
    except KeyboardInterrupt:
        # While modules are loaded, or while an error was being shown.
        if sys.stderr is not None:
            sys.stderr.write("error: interrupted\n")
        return 130


def execute(arguments: Sequence[str]) -> int:
    """Runs one command line. Returns the exit code; whatever went wrong has been shown."""
    from atlas.cli import program

    return program.execute(arguments)


if __name__ == "__main__":
    sys.exit(main())
