"""What a study costs under each choice of frames: a 200-slice CT series, from the archive to the diagnosis.

    python -m bench.embedder.study_cost [--slices 200] [--size 512] [--json FILE]

Synthetic slices of textured noise, uncompressed; the real backbone, decode workers and step; an index in memory.
Seconds on a shared machine are noisy: read them against each other, in one run.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import FileMetaDataset
from pydicom.dataset import FileDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from services.embedder.app import open_decoder
from services.embedder.batches import SharedBatches
from services.embedder.embed_study import EmbedStudy
from services.embedder.settings import EmbedderSection
from shared.archive import LocalArchive, instance_key, manifest_key
from shared.events import StudyReceived
from shared.manifest import InstanceEntry, SeriesEntry, StudyManifest
from shared.pixels import PixelLimits
from shared.settings import VisionSettings
from shared.vector_index.memory import MemoryIndex
from shared.vision.backbone import load_backbone

STUDY = "1.2.826.0.1.3680043.10.543.9"
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def ct_slice(uid: str, number: int, size: int) -> bytes:
    """One CT slice of noise around soft tissue."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, UID(uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = CTImageStorage, uid, "CT"
    dataset.ImageOrientationPatient, dataset.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, float(number)]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = size
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.RescaleIntercept, dataset.RescaleSlope = -1024, 1
    dataset.PixelData = np.random.default_rng(number).normal(1060, 60, (size, size)).astype("<i2").tobytes()
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def archive_study(archive: LocalArchive, slices: int, size: int) -> StudyReceived:
    """A CT study of one series in the archive, as the listener leaves it."""
    uids = [f"{STUDY}.1.{number + 1}" for number in range(slices)]
    slices_of_ct = {uid: ct_slice(uid, number, size) for number, uid in enumerate(uids)}
    return archive_objects(archive, slices_of_ct, sop_class_uid=CTImageStorage, modality="CT")


def archive_objects(
    archive: LocalArchive, objects: Mapping[str, bytes], *, sop_class_uid: str, modality: str
) -> StudyReceived:
    """A study of one series of single-frame `objects`, by SOP Instance UID, in the archive."""
    entries = []
    for uid, data in objects.items():
        key = instance_key(STUDY, f"{STUDY}.1", uid)
        archive.put(key, data)
        entries.append(
            InstanceEntry(
                sop_instance_uid=uid,
                sop_class_uid=sop_class_uid,
                transfer_syntax_uid=ExplicitVRLittleEndian,
                archive_key=key,
                size_bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                number_of_frames=1,
                patient_pseudonym="p",
                is_new=True,
            )
        )
    manifest = StudyManifest(
        study_instance_uid=STUDY,
        revision=1,
        created_at=WHEN,
        calling_ae_titles=("BENCH",),
        patient_pseudonyms=("p",),
        mixed_patients=False,
        series=(SeriesEntry(series_instance_uid=f"{STUDY}.1", modality=modality, instances=tuple(entries)),),
    )
    key = manifest_key(STUDY, 1)
    archive.put(key, manifest.model_dump_json().encode())
    return StudyReceived(
        event_id=StudyReceived.identify(STUDY, 1),
        occurred_at=WHEN,
        study_instance_uid=STUDY,
        revision=1,
        manifest_key=key,
        patient_pseudonyms=("p",),
        mixed_patients=False,
        modalities=(modality,),
        instance_count=len(objects),
        new_instance_count=len(objects),
        frame_count=len(objects),
    )


def main() -> None:
    """Print a line for each measurement; write them as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    backbone = load_backbone(VisionSettings(device="cpu"))
    limits = PixelLimits()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        archive = LocalArchive(Path(folder))
        received = archive_study(archive, asked.slices, asked.size)
        for workers in (0, 2):
            decoder = open_decoder(EmbedderSection(decode_workers=workers), backbone.input_size_px, limits)
            with SharedBatches(backbone) as batches:
                step = EmbedStudy(
                    archive, backbone, (), MemoryIndex(backbone.dim), limits, decoder=decoder, batches=batches
                )
                for frames in (16, 64, asked.slices):
                    fresh = replace(step, index=MemoryIndex(backbone.dim), max_frames_per_series=frames)
                    rows.append({"decode_workers": workers, "frames": frames, **_measured(fresh, received, archive)})
                    print(json.dumps(rows[-1]), flush=True)
            decoder.close()
    if asked.json:
        found = {"cpus": os.cpu_count(), "slices": asked.slices, "size_px": asked.size, "backbone": backbone.id}
        asked.json.write_text(json.dumps({**found, "rows": rows}, indent=2) + "\n")


def _measured(step: EmbedStudy, received: StudyReceived, archive: LocalArchive) -> dict[str, float]:
    started, cpu = time.perf_counter(), time.process_time()
    (event,) = step(received)
    seconds, own_cpu = time.perf_counter() - started, time.process_time() - cpu
    for key in list(archive.list(f"diagnoses/{received.study_instance_uid}")):
        (archive.root / key).unlink()
    timing = event.timing.model_dump() if event.timing else {}
    figures = {"seconds": seconds, "service_cpu_s": own_cpu, **timing}
    return {name: round(value, 3) for name, value in figures.items() if value is not None}


if __name__ == "__main__":
    main()
