"""The demonstration's decoding and spectrogram."""

import struct
import wave
from pathlib import Path

import numpy as np
import pytest

from atlas.bench import speech


def write_wave(path: Path, width: int, channels: int, frames: bytes) -> None:
    with wave.open(str(path), "wb") as writer:
        writer.setsampwidth(width)
        writer.setnchannels(channels)
        writer.setframerate(8_000)
        writer.writeframes(frames)


@pytest.mark.parametrize(
    ("width", "frames", "expected"),
    [
        (1, bytes([0, 128, 255]), [-1.0, 0.0, 127 / 128]),
        (2, struct.pack("<3h", -32768, 0, 16384), [-1.0, 0.0, 0.5]),
        (3, b"\x00\x00\x80\x00\x00\x00\x00\x00\x40", [-1.0, 0.0, 0.5]),
        (4, struct.pack("<3i", -(2**31), 0, 2**30), [-1.0, 0.0, 0.5]),
    ],
)
def test_decode_gives_samples_from_minus_one_to_one(
    tmp_path: Path, width: int, frames: bytes, expected: list[float]
) -> None:
    write_wave(tmp_path / "a.wav", width, 1, frames)
    assert speech.decode((tmp_path / "a.wav").read_bytes()).tolist() == pytest.approx(expected)


def test_decode_takes_the_first_channel(tmp_path: Path) -> None:
    write_wave(tmp_path / "a.wav", 2, 2, struct.pack("<4h", 16384, 1, -16384, 1))
    assert speech.decode((tmp_path / "a.wav").read_bytes()).tolist() == [0.5, -0.5]


@pytest.mark.parametrize("data", [b"", b"x", b"RIFF", b"\x00\x40\x00\xc0\x01"])
def test_decode_takes_other_files_as_raw_samples(data: bytes) -> None:
    assert len(speech.decode(data)) == len(data) // 2


def test_spectrogram_finds_the_frequency_of_a_tone() -> None:
    # Eight periods in a window: bin 8.
    tone = np.sin(2 * np.pi * 8 * np.arange(20_000) / speech.WINDOW_SAMPLES).astype(np.float32)
    found = speech.spectrogram(tone)
    assert set(found.argmax(axis=1)) == {8}


@pytest.mark.parametrize("count", [0, 1, 255, 256, 8_319, 8_320, 8_321, 50_000])
def test_spectrogram_has_one_shape_for_every_length(count: int) -> None:
    found = speech.spectrogram(np.ones(count, np.float32))
    assert found.shape == (speech.FRAMES, speech.WINDOW_SAMPLES // 2 + 1)
    assert found.dtype == np.float32


def test_list_files_is_sorted_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/2", "b/1", "a"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "loop").symlink_to(".")
    assert speech.list_files(tmp_path) == [str(tmp_path / name) for name in ("a", "b/1", "b/2")]
