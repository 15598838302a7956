"""Senders that vanish in the middle of an object, or hardly send at all."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.real_listener import RealListener
from tests.fuzz import streams
from tests.fuzz.connection import RawAssociation
from tests.fuzz.exchange import FindingError
from tests.fuzz.listeners import ThreadTarget
from tests.fuzz.templates import small_object

SLOW_BYTES_PER_S = 200
PDU_TIMEOUT_S = 1.0

# Sends the given bytes on one connection, says so, and waits to be killed.
SENDER = """
import socket, sys, time
connected = socket.create_connection((sys.argv[1], int(sys.argv[2])))
connected.sendall(sys.stdin.buffer.read())
print("sent", flush=True)
time.sleep(600)
"""


def half_an_object(kept: float) -> bytes:
    rng = random.Random(1)
    sop, data_set = small_object(3, rng)
    data_set += b"\xfc\xff\xfc\xffOB\0\0" + (1 << 19).to_bytes(4, "little") + bytes(1 << 19)
    pdus = streams.pdus(streams.store(3, sop, data_set))
    body = b"".join(pdus)
    return streams.associate_rq() + body[: int(len(body) * kept)]


@pytest.mark.parametrize("kept", [0.001, 0.5, 0.999999])
def test_a_sender_that_is_killed_in_an_object_leaves_nothing(tmp_path: Path, kept: float) -> None:
    target = ThreadTarget(tmp_path)
    try:
        command = [sys.executable, "-c", SENDER, target.host, str(target.port)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sender:
            assert sender.stdin is not None
            assert sender.stdout is not None
            sender.stdin.write(half_an_object(kept))
            sender.stdin.close()
            assert sender.stdout.readline() == b"sent\n"
            time.sleep(0.05)
            while not os.listdir(tmp_path / "journal" / "receiving"):  # noqa: PTH208
                time.sleep(0.01)
            assert target.open_associations() == 1
            target.check_log()
            sender.send_signal(signal.SIGKILL)
        target.check_all()
        assert not list((tmp_path / "journal" / "incoming").rglob("*.dcm"))
    finally:
        target.stop()


def trickle(association: RawAssociation, stream: bytes) -> None:
    for start in range(0, int(5 * PDU_TIMEOUT_S * SLOW_BYTES_PER_S), 20):
        association.socket.sendall(stream[start : start + 20])
        time.sleep(20 / SLOW_BYTES_PER_S)


def test_a_sender_that_trickles_is_cut_and_one_that_hurries_is_not(tmp_path: Path) -> None:
    target = ThreadTarget(tmp_path, pdu_timeout_s=PDU_TIMEOUT_S, min_receive_bytes_per_s=10 * SLOW_BYTES_PER_S)
    try:
        sop, data_set = small_object(3, random.Random(1))
        stream = b"".join(streams.pdus(streams.store(3, sop, data_set + bytes(1 << 16))))
        began_s = time.monotonic()
        with RawAssociation(target) as association:
            association.socket.settimeout(0.1)
            with pytest.raises(ConnectionError):
                trickle(association, stream)
        # No single piece is late: it is the rate that is too low, and only after the time of grace.
        assert PDU_TIMEOUT_S <= time.monotonic() - began_s < 5 * PDU_TIMEOUT_S
        target.check_all()
        with RawAssociation(target) as association:
            message = streams.store(3, sop, data_set)
            assert association.request(message) == 0x0000
            # Between objects it may take its time.
            time.sleep(1.5 * PDU_TIMEOUT_S)
            assert association.request(message) == 0x0000
            association.release()
        target.check_all()
    finally:
        target.stop()


def test_a_sender_that_says_no_more_in_an_object_is_cut(tmp_path: Path) -> None:
    target = ThreadTarget(tmp_path, pdu_timeout_s=PDU_TIMEOUT_S)
    try:
        with RawAssociation(target) as association:
            association.send(half_an_object(0.5)[len(streams.associate_rq()) :])
            began_s = time.monotonic()
            with pytest.raises(FindingError, match="aborted"):
                association.answer()
        assert PDU_TIMEOUT_S / 2 < time.monotonic() - began_s < 3 * PDU_TIMEOUT_S
        target.check_all()
    finally:
        target.stop()


def test_a_listener_that_is_killed_in_an_object_sweeps_it_at_its_next_start(tmp_path: Path) -> None:
    first = RealListener(tmp_path)
    receiving = tmp_path / "journal" / "receiving"
    try:
        stream = half_an_object(0.9)
        with RawAssociation(first) as association:
            association.send(stream[len(streams.associate_rq()) :])
            while not list(receiving.iterdir()):
                time.sleep(0.01)
            os.kill(first.pid, signal.SIGKILL)
    finally:
        first.stop()
    assert list(receiving.iterdir())
    second = RealListener(tmp_path)
    try:
        assert not list(receiving.iterdir())
    finally:
        assert second.stop() == 0
