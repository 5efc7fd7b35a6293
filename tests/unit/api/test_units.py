"""Sizes, durations, times and names read and print alike everywhere."""

import pytest

from atlas.api.errors import INVALID, AtlasError
from atlas.api.units import (
    check_name,
    format_duration,
    format_size,
    format_time,
    parse_duration,
    parse_rate,
    parse_size,
    parse_time,
    printable,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("1K", 1000),
        ("1Ki", 1024),
        ("40Gi", 40 << 30),
        ("40GiB", 40 << 30),
        ("1.5Ti", 3 << 39),
        ("2G", 2 * 10**9),
        (" 7Mi ", 7 << 20),
        # A float could not hold it.
        ("9007199254740993", 9007199254740993),
    ],
)
def test_sizes_are_exact(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "Gi", "-1", "1Xi", "1i", "1e9", "9Ei9", "16Ei", "٣"])
def test_what_is_no_size_is_invalid(text: str) -> None:
    with pytest.raises(AtlasError) as caught:
        parse_size(text)
    assert caught.value.kind is INVALID


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1.00KiB"),
        (10239, "10.0KiB"),
        (1048575, "1.00MiB"),
        (3 << 39, "1.50TiB"),
        (183 << 30, "183GiB"),
    ],
)
def test_sizes_print_in_binary_units(size: int, text: str) -> None:
    assert format_size(size) == text


def test_a_rate_is_a_size_a_second() -> None:
    assert parse_rate("2Gi/s") == parse_rate("2Gi") == 2 << 30


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), ("1h30m", 5400), ("7d", 604800), ("250ms", 0.25)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "m", "5x", "5m7", "-3s"])
def test_what_is_no_duration_is_invalid(text: str) -> None:
    with pytest.raises(AtlasError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(45.9, "45s"), (190, "3m10s"), (7500, "2h05m"), (615600, "7d3h")]
)
def test_durations_print_two_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_times_survive_being_written() -> None:
    assert format_time(0.5) == "1970-01-01T00:00:00.500Z"
    assert parse_time(format_time(1234567890.125)) == 1234567890.125


@pytest.mark.parametrize("name", ["a", "wav", "a-1", "0", "x" * 63])
def test_names_are_dns_labels(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "A", "a_b", "a.b", "../x", "x" * 64, "a\n", "a;b", "$(id)", "ä"]
)
def test_other_names_are_invalid(name: str) -> None:
    with pytest.raises(AtlasError) as caught:
        check_name(name)
    assert "\n" not in str(caught.value)


def test_control_characters_and_broken_bytes_are_escaped() -> None:
    assert printable("a\x1b[31m\n") == "a\\x1b[31m\\x0a"
    assert printable(b"caf\xc3\xa9 \xff") == "café \\xff"
    assert printable("\u202e") == "\\u202e"
