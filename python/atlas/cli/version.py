"""`atlasctl version`."""

from __future__ import annotations

from atlas.cli.commands import command
from atlas.cli.run import Run, pass_run


@command("version", formats=("table", "json", "yaml", "jsonpath"))
@pass_run
def version(run: Run) -> None:
    """Show the version of command and node.

    Starts nothing. Exit code 10 where the two do not fit together.
    """
    from atlas.api import models
    from atlas.api.errors import VERSION_MISMATCH, AtlasError
    from atlas.api.version import VERSION
    from atlas.cli.session import running
    from atlas.cli.show import show

    answer: models.Version | None = None
    mismatch: AtlasError | None = None
    try:
        client = running(run)
        answer = client.version() if client else None
    except AtlasError as error:
        if error.kind is not VERSION_MISMATCH:
            raise
        mismatch = error
    shown = {
        "client": {"version": VERSION, "api": models.HTTP_API},
        "node": models.to_builtins(answer) if answer else None,
    }

    def text() -> list[str]:
        if answer:
            node = f"{answer.version} (API {answer.api}, pid {answer.pid})"
        else:
            node = "of another API" if mismatch else "not running"
        return [f"atlasctl  {VERSION} (API {models.HTTP_API})", f"node      {node}"]

    show(run, shown, text=text)
    if mismatch:
        raise mismatch
