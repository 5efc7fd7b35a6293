"""The settings' file: what it does not understand is an error that names it."""

from pathlib import Path

import pytest

from atlas.api import errors
from atlas.api.errors import AtlasError
from atlas.node.settings import RegisteredTier, load


def test_settings(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    assert load(path).user_datasets == 64
    path.write_text('memory_bytes = "1Gi"\n[[tiers]]\nmedium = "SSD"\npath = "/nvme0/atlas"\n')
    settings = load(path)
    assert settings.memory_bytes == 1 << 30
    assert settings.tiers == (RegisteredTier("SSD", Path("/nvme0/atlas")),)


@pytest.mark.parametrize(
    "text",
    [
        "x", 'tiers = "SSD"', "[[tiers]]\nmedium = 1", '[[tiers]]\nmedium = "SSD"', "colour = 1",
        'memory_bytes = "much"', "user_datasets = -1",
    ],
)  # fmt: skip
def test_nonsense(tmp_path: Path, text: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text(text)
    with pytest.raises(AtlasError) as caught:
        load(path)
    assert caught.value.kind is errors.INVALID
    assert str(path) in str(caught.value)
