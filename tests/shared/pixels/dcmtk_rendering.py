"""Frames as DCMTK renders them: an implementation of the display pipeline that shares no code with ours."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes

DCMJ2PNM, DCML2PNM, GDCMCONV = "/usr/bin/dcmj2pnm", "/usr/bin/dcml2pnm", "/usr/bin/gdcmconv"


def rendered(path: Path, folder: Path, frames: int) -> list[np.ndarray] | None:
    """The first frames as (H, W) or (H, W, 3) in [0, 1], to 16 bits; None where DCMTK cannot render the object."""
    dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax in JPEG2000TransferSyntaxes:  # which Debian's DCMTK lacks
        raw = folder / "raw.dcm"
        if subprocess.run([GDCMCONV, "--raw", path, raw], capture_output=True, timeout=60, check=False).returncode:
            return None
        path = raw
    command = [
        DCML2PNM if syntax in JPEGLSTransferSyntaxes else DCMJ2PNM,
        "-q",
        "-O",
        "+Fr",
        "1",
        str(frames),
        "+on2",
        "-il",
    ]
    if dataset.get("VOILUTSequence"):
        command += ["+Wl", "1"]
    elif dataset.get("WindowCenter") is not None:
        command += ["+Wi", "1"]
    done = subprocess.run([*command, path, folder / "frame"], capture_output=True, timeout=60, check=False)
    pictures = sorted(folder.glob("frame*.png"), key=lambda picture: int(picture.suffixes[0][1:] or 0))
    if done.returncode or not pictures:
        return None
    return [imagecodecs.png_decode(picture.read_bytes()) / 65535.0 for picture in pictures]
