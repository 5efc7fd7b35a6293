"""The node that a command talks to: found, started where there is something to find, watched."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from atlas.api import errors
from atlas.api.client import DEFAULT_TIMEOUT_SECONDS, NodeAbsentError, NodeClient
from atlas.api.environment import Home, client_home, own_home
from atlas.api.errors import AtlasError
from atlas.cli.run import Run, complain

_LONGEST_CALL_SECONDS = 7 * 86400.0
"""Sockets take no time limit beyond 24 days."""


class Client(NodeClient):
    """A client whose every call ends within the run's `--timeout`; `-v` shows the calls."""

    def __init__(self, run: Run, home: Home) -> None:
        super().__init__(home)
        self._run = run

    def _send(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        self.timeout_seconds = time_left(self._run)
        if not self._run.verbosity or self._run.for_programs:
            return super()._send(method, path, body)
        begin = time.monotonic()
        outcome = "no answer"
        try:
            status, answer = super()._send(method, path, body)
            outcome = str(status)
        except AtlasError as error:
            outcome = error.kind.code
            raise
        finally:
            milliseconds = (time.monotonic() - begin) * 1000
            complain(f"{method} {path} -> {outcome} ({milliseconds:.0f} ms)")
        return status, answer


def time_left(run: Run) -> float:
    """Seconds that a call may take. Raises TimedOut when `--timeout` has passed."""
    remaining = run.remaining()
    if remaining is None:
        return DEFAULT_TIMEOUT_SECONDS
    if remaining <= 0:
        raise AtlasError(errors.TIMED_OUT, f"stopped waiting after {run.timeout_seconds:g} s")
    return min(remaining, _LONGEST_CALL_SECONDS)


def running(run: Run) -> Client | None:
    """The node, if one runs; nothing is started."""
    client = Client(run, client_home())
    try:
        client.version()
    except NodeAbsentError:
        return None
    return client


def started(run: Run) -> Client:
    """The node, started if none runs."""
    client = running(run)
    if client is None:
        from atlas.api.launch import start_node

        home = client_home()
        client = Client(run, home)
        if start_node(home, time_left(run)):
            run.say(f"Started the node; its log is {home.node_log}.")
    return client


def used(run: Run) -> Client | None:
    """The node, started only where it has kept something; None where it has nothing to tell."""
    client = running(run)
    if client is None:
        home = client_home()
        # Of the system's node, state cannot be seen by others: start_node says what to do then.
        if home == own_home() and not _has_state(home):
            return None
        client = started(run)
    return client


def _has_state(home: Home) -> bool:
    try:
        return home.database.exists()
    except PermissionError:
        # Somebody else's: starting tells whose.
        return True


def absent(name: str) -> AtlasError:
    """The error for a data set where no node has ever kept one."""
    return AtlasError(
        errors.NOT_FOUND,
        f"there is no data set {name!r}",
        "this node has none yet",
        hint=f"atlasctl cache create {name} --from FOLDER --size SIZE",
    )


@contextmanager
def nearest(client: NodeClient, name: str) -> Iterator[None]:
    """Adds the nearest name to the error of a data set that is not there."""
    try:
        yield
    except AtlasError as error:
        if error.kind is errors.NOT_FOUND:
            from difflib import get_close_matches

            names = [dataset.metadata.name for dataset in client.datasets()]
            near = get_close_matches(name, names, 1)
            if near and near[0] != name:
                error.cause = f"did you mean {near[0]!r}?"
            error.hint = error.hint or "atlasctl cache list"
        raise
