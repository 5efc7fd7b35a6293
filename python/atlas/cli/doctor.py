"""`atlasctl doctor`."""

from __future__ import annotations

import sys

from atlas.cli.commands import command
from atlas.cli.run import Run, pass_run


@command("doctor", formats=("table", "json", "yaml", "jsonpath"))
@pass_run
def doctor(run: Run) -> int:
    """Check machine, node, data sets and mounts.

    Changes and starts nothing. Each check is OK, WARN or FAIL, with the cause and a command to
    run. Exit code 0 without a FAIL, else 1.
    """
    from atlas.api.units import printable
    from atlas.cli.checks import FAIL, all_checks
    from atlas.cli.show import show

    checks = all_checks(run)
    colours = {"OK": "green", "WARN": "yellow", "FAIL": "red"}

    def text() -> list[str]:
        names = [printable(check.name) for check in checks]
        longest = max(len(name) for name in names)
        lines = []
        for name, check in zip(names, checks, strict=True):
            state = run.styled(f"{check.state:<4}", sys.stdout, fg=colours[check.state])
            lines.append(f"{state}  {name:<{longest}}  {printable(check.cause)}")
            if check.hint:
                lines.append(f"{' ' * (longest + 8)}try: {printable(check.hint)}")
        return lines

    show(run, {"checks": [check.plain() for check in checks]}, text=text)
    return 1 if any(check.state == FAIL for check in checks) else 0
