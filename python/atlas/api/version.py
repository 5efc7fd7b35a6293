"""The version of this package; a unit test compares it with the Cargo workspace's."""

from typing import Final

VERSION: Final = "0.1.0"
