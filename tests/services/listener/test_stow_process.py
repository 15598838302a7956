"""STOW-RS of the listener as a process, killed while clients send."""

from __future__ import annotations

import hashlib
import random
import signal
import threading
import time
from pathlib import Path

import httpx
from listener_harness import journal_name, make_sample
from stow_client import CONTENT_TYPE, dicom_file, message, stored
from test_process import SERVICE, environment, start

KILLS = 4


def test_what_was_called_stored_is_there_after_kill_9(tmp_path: Path) -> None:
    env = environment(tmp_path, SIMILIS_LISTENER__STOW__PORT="0", SIMILIS_LISTENER__STUDY_QUIET_S="600")
    acknowledged: set[str] = set()

    def send(url: str) -> None:
        with httpx.Client(timeout=20) as client:
            while True:
                samples = [make_sample() for _ in range(3)]
                body = message(*map(dicom_file, samples))
                try:
                    response = client.post(f"{url}/studies", content=body, headers={"Content-Type": CONTENT_TYPE})
                except httpx.TransportError:
                    return
                assert response.status_code == 200
                assert stored(response) == [sample.sop for sample in samples]
                acknowledged.update(journal_name(sample, "STOW-RS") for sample in samples)

    for _ in range(KILLS):
        process, endpoints = start(SERVICE, env)
        stow = endpoints["stow"]
        assert isinstance(stow, dict)
        clients = [threading.Thread(target=send, args=(stow["url"],)) for _ in range(2)]
        for client in clients:
            client.start()
        time.sleep(0.2 + random.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        for client in clients:
            client.join()
        process.communicate()
    process, _ = start(SERVICE, env)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert "Traceback" not in log
    kept = {path.name: path for path in (tmp_path / "journal" / "incoming").rglob("*.dcm")}
    assert len(acknowledged) > 3 * KILLS
    assert acknowledged <= set(kept)
    for name in acknowledged:
        assert hashlib.sha256(kept[name].read_bytes()).hexdigest() in name
    assert list((tmp_path / "journal" / "receiving").iterdir()) == []
