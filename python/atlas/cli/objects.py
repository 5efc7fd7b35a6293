"""Objects from YAML and JSON files."""

from __future__ import annotations

import json
from typing import IO, Any

from atlas.api.errors import INVALID, AtlasError
from atlas.api.units import printable


def name_of(file: IO[bytes]) -> str:
    """What the file is called in a message."""
    name = getattr(file, "name", None)
    return printable(name) if isinstance(name, str) and name != "<stdin>" else "standard input"


def read_object(file: IO[bytes]) -> dict[str, Any]:
    """The one object of a file. Raises AtlasError (Invalid) with the place of the mistake."""
    content = file.read()
    try:
        # JSON with tabs is no YAML, so that it is not left to the YAML reader.
        plain = json.loads(content) if content.lstrip().startswith(b"{") else _read_yaml(content)
    except (ValueError, RecursionError) as error:
        cause = " ".join(str(error).split())
        raise AtlasError(
            INVALID, f"{name_of(file)} is neither YAML nor JSON", printable(cause)
        ) from error
    if not isinstance(plain, dict):
        raise AtlasError(
            INVALID,
            f"{name_of(file)} holds no object",
            "an object has apiVersion, kind, metadata and spec",
        )
    return plain


def _read_yaml(content: bytes) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Times stay text, as they are in JSON."""

    Loader.yaml_implicit_resolvers = {
        first: [entry for entry in entries if entry[0] != "tag:yaml.org,2002:timestamp"]
        for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    try:
        return yaml.load(content, Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error
