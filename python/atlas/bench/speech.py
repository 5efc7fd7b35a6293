"""The demonstration's work on one file: read it, decode it, take its spectrogram.

This is what a speech training job does in its loader processes. Files that are no PCM WAV are taken
as raw 16-bit samples, so that any folder can stand in for speech.
"""

from __future__ import annotations

import hashlib
import io
import os
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

WINDOW_SAMPLES = 256
HOP_SAMPLES = 128
FRAMES = 64
"""Frames of one training example: about a second of speech at 8 kHz."""

Spectrogram = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """One file as the consumer gets it; `digest` is over the file's bytes as they were read."""

    spectrogram: Spectrogram
    size: int
    digest: bytes


def list_files(root: Path) -> list[str]:
    """The paths of all regular files below `root`, sorted: what a training job does first."""
    return sorted(_walk(str(root)))


def _walk(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path)
            elif entry.is_file(follow_symlinks=False):
                yield entry.path


def decode(data: bytes) -> npt.NDArray[np.float32]:
    """The samples of a WAV file's first channel, from -1 to 1."""
    try:
        with wave.open(io.BytesIO(data)) as reader:
            width, channels = reader.getsampwidth(), reader.getnchannels()
            data = reader.readframes(reader.getnframes())
    except (wave.Error, EOFError):
        width, channels = 2, 1
    if width == 1:
        samples = (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    elif width == 3:
        parts = np.frombuffer(data[: len(data) // 3 * 3], np.uint8).reshape(-1, 3)
        # Into the upper three bytes of 32 bits, which keeps the sign.
        wide = np.zeros((len(parts), 4), np.uint8)
        wide[:, 1:] = parts
        samples = wide.view("<i4")[:, 0].astype(np.float32) / 2**31
    else:
        kind = np.dtype("<i2" if width == 2 else "<i4")
        whole = len(data) // kind.itemsize * kind.itemsize
        samples = np.frombuffer(data[:whole], kind).astype(np.float32) / 2 ** (8 * width - 1)
    return np.asarray(samples[::channels], np.float32)


def spectrogram(samples: npt.NDArray[np.float32]) -> Spectrogram:
    """The logarithm of the short-time spectrum, always FRAMES x (WINDOW_SAMPLES / 2 + 1).

    All of the file is transformed, as an augmentation that cuts a random second would need; the
    first FRAMES frames are returned, with silence after a shorter file.
    """
    wanted = WINDOW_SAMPLES + (FRAMES - 1) * HOP_SAMPLES
    if len(samples) < wanted:
        samples = np.pad(samples, (0, wanted - len(samples)))
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW_SAMPLES)[::HOP_SAMPLES]
    spectrum = np.fft.rfft(frames * np.hanning(WINDOW_SAMPLES).astype(np.float32), axis=1)
    return np.log1p(np.abs(spectrum[:FRAMES])).astype(np.float32)


def load_sample(path: str) -> Sample:
    """Read one file with Python's own `open` and turn it into an example."""
    with open(path, "rb") as file:
        data = file.read()
    return Sample(
        spectrogram=spectrogram(decode(data)),
        size=len(data),
        digest=hashlib.blake2b(data, digest_size=16).digest(),
    )
