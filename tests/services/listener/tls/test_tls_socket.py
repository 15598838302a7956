"""A TLS socket that one thread reads while another sends."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time

import pytest
from tls_harness import WAIT_S, Files, opened

# One thread reads while another sends


def test_one_thread_reads_while_another_sends(files: Files) -> None:
    size_bytes = 8 << 20
    with opened(files) as ends:
        sent = [hashlib.sha256(bytes((who,))).digest() * (size_bytes // 32) for who in range(2)]
        received = [bytearray(), bytearray()]

        def send(who: int) -> None:
            for start in range(0, size_bytes, 50_000):
                ends[who].sendall(sent[who][start : start + 50_000])

        def receive(who: int) -> None:
            buffer = bytearray(1 << 16)
            while len(received[who]) < size_bytes:
                received[who] += buffer[: ends[who].recv_into(buffer)]

        threads = [threading.Thread(target=work, args=(who,)) for work in (send, receive) for who in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert received[0] == sent[1]
    assert received[1] == sent[0]


def test_a_read_ends_in_time(files: Files) -> None:
    with opened(files) as (listener, _):
        listener.settimeout(0.2)
        assert listener.gettimeout() == 0.2
        started_s = time.monotonic()
        with pytest.raises(TimeoutError):
            listener.recv_into(bytearray(10))
        assert 0.1 < time.monotonic() - started_s < 2


def test_a_send_to_a_peer_that_takes_nothing_ends_in_time(files: Files) -> None:
    with opened(files) as (listener, _):
        listener.settimeout(0.2)
        with pytest.raises(TimeoutError):
            listener.sendall(bytes(64 << 20))


def test_a_shutdown_wakes_the_reader_and_tells_the_peer(files: Files) -> None:
    with opened(files, suppress_ragged_eofs=False) as (listener, client):
        listener.settimeout(60)
        read: list[int] = []
        reading = threading.Thread(target=lambda: read.append(listener.recv_into(bytearray(10))))
        reading.start()
        time.sleep(0.1)
        listener.shutdown(socket.SHUT_RDWR)
        assert client.recv(1) == b"", "an end that was not announced would raise"
        reading.join(WAIT_S)
        assert read == [0]


def test_after_a_shutdown_no_ciphertext_is_taken_for_data(files: Files) -> None:
    with opened(files) as (listener, client):
        client.sendall(b"A" * 100_000)
        listener.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            while data := listener.recv(100_000):
                assert set(data) == set(b"A")
