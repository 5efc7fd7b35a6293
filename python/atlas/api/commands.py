"""Commands that errors and messages propose, from either side of the API."""

import shlex
from collections.abc import Sequence

from atlas.api import models


def watch_command(specs: Sequence[models.LoadSpec]) -> str:
    """The command that watches these loads while they run: the node takes the same wish for the
    same load, and another one for a conflict."""
    targets = [
        target
        for spec in specs
        for target in ([f"{spec.dataset}:{path}" for path in spec.paths] or [spec.dataset])
    ]
    options = []
    if specs[0].parallel:
        options += ["-p", str(specs[0].parallel)]
    if specs[0].bytes_per_second:
        options += ["--bwlimit", f"{specs[0].bytes_per_second}/s"]
    return shlex.join(["atlasctl", "cache", "warm", *targets, *options])
