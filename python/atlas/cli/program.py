"""The root of the tree, and every way in which a command can end."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from atlas.cli.commands import Group
from atlas.cli.options import wants_objects
from atlas.cli.run import OutputClosedError, Run, complain, give_up_output

root = Group(
    "atlasctl",
    help="""Serve data sets from slow shared storage at the speed of this machine.

    \b
    atlasctl cache create wav --from /lustre/team/wav --size 40Gi --medium MEM
    atlasctl cache warm wav
    atlasctl cache list

    Data goes to standard output, all talk to standard error. Exit codes: 0 ok, 1 failed, 2 usage,
    3 not found, 4 exists or in use, 5 temporary, 6 denied, 7 quota or space, 8 partly done,
    9 corrupt data found, 10 not ready, 124 timeout, 130 interrupted.
    """,
    modules={
        "cache": "atlas.cli.cache:cache",
        "node": "atlas.cli.node:node",
        "doctor": "atlas.cli.doctor:doctor",
        "version": "atlas.cli.version:version",
    },
)


def prepare_streams() -> None:
    """For the whole process, before its first output."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is shown escaped, and never ends the command.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def execute(arguments: Sequence[str]) -> int:
    """Runs one command line. Returns the exit code; whatever went wrong has been shown."""
    run = Run()
    try:
        with root.make_context("atlasctl", list(arguments), obj=run) as context:
            code = root.invoke(context)
            return code if isinstance(code, int) else 0
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        complain(error.format_message())
        return 2
    except (OutputClosedError, BrokenPipeError):
        give_up_output()
        return 0
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - shown, whatever it is
        return _failed(run, arguments, error)


def _failed(run: Run, arguments: Sequence[str], error: BaseException) -> int:
    from atlas.api import errors
    from atlas.cli import failures

    if isinstance(error, errors.AtlasError):
        shown = error
    elif isinstance(error, click.ClickException):
        shown = failures.usage_error(error)
    elif isinstance(error, KeyboardInterrupt):
        shown = errors.AtlasError(
            errors.INTERRUPTED,
            "interrupted",
            "what the node was already asked for it finishes all the same",
            hint="atlasctl cache list",
        )
    else:
        shown = errors.AtlasError(
            errors.INTERNAL,
            "atlasctl met a defect of its own",
            f"{type(error).__name__}: {error}",
            hint="the same command with -vv, which shows where",
        )
    as_object = run.output.name == "json" or wants_objects(list(arguments))
    if run.verbosity > 1 and not as_object:
        import traceback

        complain("".join(traceback.format_exception(error)).rstrip())
    failures.report(run, shown, as_object=as_object)
    return shown.exit_code
