"""A process that owns a decode pool whose workers hang: prints their ids, then waits to be killed."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from shared.pixels import PixelLimits
from shared.pixels.pool import DecodePool
from shared.pixels.pool_frames import DecodeRequest
from shared.pixels.pool_process import WorkerOptions

if __name__ == "__main__":
    worker, data = str(Path(__file__).with_name("troubled_worker.py")), Path(sys.argv[1]).read_bytes()
    options = WorkerOptions(28, PixelLimits(), 600.0, 0, (sys.executable, worker, "hang:2"))
    with DecodePool(options, 2) as pool:
        requests = [DecodeRequest("k", data, hashlib.sha256(data).hexdigest(), (1, 2))] * 2
        for frames in pool.objects(requests):
            next(frames)
            print(*pool.pids, flush=True)
            next(frames)
