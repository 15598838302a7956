"""What the listener takes of memory, and that its container has it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import yaml
from listener_harness import MR, encode, make_dataset
from pydicom.uid import ExplicitVRLittleEndian

from services.listener.part10 import FileMeta, encode_file_head
from services.listener.settings import ListenerSection
from services.listener.store import load_object
from shared.pseudonym import Pseudonyms

COMPOSE_FILE = Path(__file__).parents[3] / "docker-compose.yml"
PROCESS_BYTES = 1 << 29
UNITS = {"m": 1 << 20, "g": 1 << 30}


def test_reading_an_object_back_copies_no_pixels() -> None:
    ds = make_dataset(study="1.2", series="1.2.3", sop="1.2.3.4")
    ds.PixelData = bytes(8 << 20)
    meta = FileMeta(ExplicitVRLittleEndian, "SCU")
    head = encode_file_head(sop_class_uid=MR, sop_instance_uid="1.2.3.4", meta=meta, receiving_ae_title="SIMILIS")
    file = head + encode(ds)
    tracemalloc.start()
    try:
        loaded = load_object(file, Pseudonyms(b"k" * 32), max_object_bytes=1 << 30)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert loaded.size_bytes == len(file)
    assert peak_bytes < 1 << 20


def test_the_container_has_room_for_every_object_at_once() -> None:
    container = yaml.safe_load(COMPOSE_FILE.read_text())["services"]["listener"]
    names = ("max_object_bytes", "max_associations", "publish_concurrency")
    given = {name: container["environment"].get(f"SIMILIS_LISTENER__{name.upper()}") for name in names}
    section = ListenerSection(**{name: value for name, value in given.items() if value is not None})
    limit = container["deploy"]["resources"]["limits"]["memory"]
    objects = 2 * section.max_associations + section.publish_concurrency
    assert objects * section.max_object_bytes + PROCESS_BYTES <= int(limit[:-1]) * UNITS[limit[-1]]
