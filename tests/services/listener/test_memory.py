"""What the listener takes of memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

from listener_harness import MR, encode, make_dataset
from pydicom.uid import ExplicitVRLittleEndian

from services.listener.part10 import encode_file_head
from services.listener.store import load_object
from shared.pseudonym import Pseudonyms


def test_reading_an_object_back_copies_no_pixels(tmp_path: Path) -> None:
    ds = make_dataset(study="1.2", series="1.2.3", sop="1.2.3.4")
    ds.PixelData = bytes(8 << 20)
    head = encode_file_head(sop_class_uid=MR, sop_instance_uid="1.2.3.4", transfer_syntax_uid=ExplicitVRLittleEndian)
    file = tmp_path / "object.dcm"
    file.write_bytes(head + encode(ds))
    tracemalloc.start()
    try:
        loaded = load_object(file, "SCU", Pseudonyms(b"k" * 32), max_object_bytes=1 << 30)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert loaded.size_bytes == file.stat().st_size
    assert peak_bytes < 4 << 20
