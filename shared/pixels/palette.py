"""Palette Color Lookup Tables: PS3.3 section C.7.6.3.1.5, segmented ones section C.7.9.2."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from shared.pixels.lut import lut_values

_CHANNELS = ("Red", "Green", "Blue")
_DISCRETE, _LINEAR, _INDIRECT = range(3)


def palette_colours(indices: NDArray[Any], dataset: Dataset, *, is_little_endian: bool) -> NDArray[np.float32]:
    """Palette indices as RGB.

    Args:
        indices: (H, W) stored values.
        dataset: Holds the tables.
        is_little_endian: The byte order of the tables.

    Returns:
        (H, W, 3) float32 in [0, 1].

    Raises:
        ValueError: the tables are missing or not valid.
    """
    channels = [_channel(dataset, name, is_little_endian=is_little_endian) for name in _CHANNELS]
    largest = max(bits for _, _, bits in channels)
    # 8-bit colours in 16-bit entries, which is not allowed but is written.
    is_narrow = largest > 8 and all(int(table.max(initial=0)) <= 255 for _, table, _ in channels)
    scale = np.float32(1.0 / (255 if is_narrow else 2**largest - 1))
    first = channels[0][0]
    if first >= 1 << 15 and indices.dtype.kind == "i":
        first -= 1 << 16
    shortest = min(len(table) for _, table, _ in channels)
    colours = np.stack([table[:shortest] for _, table, _ in channels], axis=-1).astype(np.float32) * scale
    places = np.clip(indices.astype(np.intp) - first, 0, shortest - 1)
    return np.asarray(np.clip(colours, 0.0, 1.0)[places], np.float32)


def _channel(dataset: Dataset, name: str, *, is_little_endian: bool) -> tuple[int, NDArray[np.int64], int]:
    """First index, entries and bits of one colour's table."""
    descriptor = dataset.get(f"{name}PaletteColorLookupTableDescriptor")
    if descriptor is None or len(descriptor) != 3:
        raise ValueError("a palette without a descriptor")
    entries, first, bits = (int(value) for value in descriptor)
    entries, first = (entries & 0xFFFF) or 1 << 16, first & 0xFFFF
    if bits not in (8, 16):
        raise ValueError("a palette of neither 8 nor 16 bits")
    plain = dataset.get(f"{name}PaletteColorLookupTableData")
    if plain:
        return first, lut_values(plain, entries, bits, is_little_endian=is_little_endian), bits
    segments = dataset.get(f"Segmented{name}PaletteColorLookupTableData")
    if not isinstance(segments, bytes) or not segments:
        raise ValueError("a palette without data")
    words = np.frombuffer(segments, "u1" if bits == 8 else f"{'<' if is_little_endian else '>'}u2").astype(np.int64)
    table = _expanded(words, entries, bits)
    if len(table) < entries:
        raise ValueError("a segmented palette with too few entries")
    return first, table[:entries], bits


def _expanded(words: NDArray[np.int64], entries: int, bits: int) -> NDArray[np.int64]:
    """A segmented table's entries, at most `entries` and what its last segment adds."""
    parts: list[NDArray[np.int64]] = []
    count, at = 0, 0
    while at + 2 < len(words) and count < entries:
        if int(words[at]) == _INDIRECT:
            offset_words = words[at + 2 : at + 2 + 32 // bits]  # low words first
            byte_offset = sum(int(word) << (bits * place) for place, word in enumerate(offset_words))
            added = _copied(words, byte_offset * 8 // bits, int(words[at + 1]), parts)
            at += 2 + 32 // bits
        else:
            added = [_segment(words, at, parts)]
            at += _size(words, at)
        parts.extend(added)
        count += sum(len(part) for part in added)
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _size(words: NDArray[np.int64], at: int) -> int:
    return 2 + (int(words[at + 1]) if int(words[at]) == _DISCRETE else 1)


def _segment(words: NDArray[np.int64], at: int, before: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    kind, length = int(words[at]), int(words[at + 1])
    if kind == _DISCRETE:
        return words[at + 2 : at + 2 + length]
    if kind != _LINEAR or not before or not len(before[-1]):
        raise ValueError("a palette segment of an unknown kind, or without one before it")
    last, end = int(before[-1][-1]), int(words[at + 2])
    return np.rint(np.linspace(last, end, length + 1)[1:]).astype(np.int64)


def _copied(words: NDArray[np.int64], at: int, count: int, before: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """The `count` segments from word `at` on, run again after what came before."""
    added: list[NDArray[np.int64]] = []
    for _ in range(count):
        if at + 2 >= len(words):
            raise ValueError("an indirect palette segment that leads nowhere")
        added.append(_segment(words, at, [*before[-1:], *added[-1:]]))
        at += _size(words, at)
    return added
