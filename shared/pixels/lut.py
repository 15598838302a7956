"""Lookup tables of data sets: PS3.3 section C.11.1.1.1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

Values = NDArray[np.floating[Any]]


def apply_lut(values: Values, item: Dataset, *, is_little_endian: bool) -> tuple[Values, float]:
    """Look values up in a LUT item; returns them and the largest value it can give.

    Raises:
        ValueError: the table is not valid.
    """
    entries, first, bits = (int(value) for value in item.LUTDescriptor)
    table = lut_values(item["LUTData"].value, entries or 1 << 16, bits, is_little_endian=is_little_endian)
    if first >= 1 << 15 and values.size and values.min() < 0:
        first -= 1 << 16  # signed values under a descriptor that was read as unsigned
    index = np.clip(np.rint(values - first), 0, len(table) - 1).astype(np.int64)
    return table[index].astype(values.dtype), float(2**bits - 1)


def lut_values(value: Any, entries: int, bits: int, *, is_little_endian: bool) -> NDArray[np.int64]:
    """The entries of a lookup table, from its data as bytes (OW), as a number or as numbers (US).

    Raises:
        ValueError: fewer entries than declared, or an impossible depth.
    """
    if isinstance(value, bytes):
        order = "<" if is_little_endian else ">"
        dtype = np.dtype("u1") if bits <= 8 and len(value) < 2 * entries else np.dtype(f"{order}u2")
        table = np.frombuffer(value[: len(value) // dtype.itemsize * dtype.itemsize], dtype)
    else:
        table = np.atleast_1d(np.asarray(value, np.int64))
    if not 1 <= bits <= 16 or len(table) < entries:
        raise ValueError(f"a lookup table of {len(table)} entries with {bits} bits, where {entries} are declared")
    return table[:entries].astype(np.int64)
