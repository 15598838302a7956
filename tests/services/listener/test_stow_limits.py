"""STOW-RS: what a client may not do, who is let in, and what is left when a request breaks off."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import stow_client as stow
from certificates import Authority
from listener_harness import Running, encode, journal_name, make_dataset, make_sample, wait_for
from stow_client import (
    BOUNDARY,
    connect,
    dicom_file,
    failed,
    head,
    message,
    post,
    read_all,
    receiving,
    status_and_body,
    stored,
)

from services.listener.answers import Outcome, RefusedObjectError
from services.listener.journal import Journal
from shared.errors import ConfigurationError

Start = Callable[..., Running]
TOKEN = "a-token-of-some-length"


def on(**options: object) -> dict[str, object]:
    return {"port": 0, **options}


@pytest.fixture
def listener(start_listener: Start) -> Running:
    return start_listener(
        stow=on(body_timeout_s=0.4, max_request_bytes=100_000, max_parts=3, max_requests=1), study_quiet_s=60.0
    )


def test_a_request_that_says_it_is_too_long_is_refused_before_its_body(start_listener: Start) -> None:
    listener = start_listener(stow=on(max_request_bytes=100_000))
    with connect(listener) as peer:
        peer.sendall(head(100_001) + b"--")
        started_s = time.monotonic()
        answer = read_all(peer)
    assert status_and_body(answer)[0] == 413
    # What still comes is passed over for a while only.
    assert b"connection: close" in answer
    assert time.monotonic() - started_s < 4


@pytest.mark.parametrize("length", ["9" * 30, "9" * 5000])
def test_a_length_beyond_all_numbers_is_refused(listener: Running, length: str) -> None:
    with connect(listener) as peer:
        peer.sendall(head(0).replace(b"Content-Length: 0", b"Content-Length: " + length.encode()))
        assert read_all(peer).split()[1] in (b"413", b"400")


def test_a_request_that_grows_too_long_is_refused_and_its_whole_objects_stay(listener: Running) -> None:
    first, endless = make_sample(), dicom_file(make_sample())

    def chunks() -> Iterator[bytes]:
        yield message(dicom_file(first), endless)[: -len(f"\r\n--{BOUNDARY}--\r\n")]
        for _ in range(20):
            yield bytes(50_000)

    assert post(listener, chunks()).status_code == 413
    assert [path.name for path in listener.journal_files] == [journal_name(first, "STOW-RS")]
    assert receiving(listener) == []


def test_a_request_of_too_many_parts_is_refused_and_the_allowed_ones_stay(listener: Running) -> None:
    samples = [make_sample() for _ in range(4)]
    response = stow.store(listener, *samples)
    assert response.status_code == 413
    assert {path.name for path in listener.journal_files} == {journal_name(one, "STOW-RS") for one in samples[:3]}
    assert stow.store(listener, samples[3]).status_code == 200


def test_a_client_with_a_long_body_reads_why_it_is_refused(start_listener: Start) -> None:
    listener = start_listener(stow=on(max_request_bytes=1000))
    for _ in range(5):
        assert post(listener, bytes(30 << 20)).status_code == 413


def test_objects_that_are_too_long_are_413_with_a_response_data_set(start_listener: Start) -> None:
    listener = start_listener(stow=on(), max_object_bytes=100)
    sample = make_sample()
    response = stow.store(listener, sample)
    assert (response.status_code, failed(response)) == (413, {sample.sop: 0xA700})


def test_a_full_disk_is_503_until_there_is_space(start_listener: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = start_listener(stow=on())
    first, second = make_sample(), make_sample()
    # At each request's begin, and at that of each of its objects.
    has_space = iter([True, False, False, True, True, False])

    def seen_by_requests(_: Journal, __: int) -> None:
        if threading.current_thread().name.startswith("stow") and not next(has_space, False):
            raise RefusedObjectError(Outcome.NO_SPACE, "The listener's disk is nearly full")

    monkeypatch.setattr(Journal, "check_space", seen_by_requests)
    none = stow.store(listener, first, second)
    assert (none.status_code, failed(none)) == (503, {first.sop: 0xA700, second.sop: 0xA700})
    assert int(none.headers["retry-after"]) > 0
    some = stow.store(listener, first, second)
    assert (some.status_code, stored(some), failed(some)) == (202, [first.sop], {second.sop: 0xA700})
    refused = stow.store(listener, second)
    assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
    assert int(refused.headers["retry-after"]) > 0
    monkeypatch.undo()
    assert stow.store(listener, first, second).status_code == 200


@pytest.mark.parametrize("length", [10_000, None])
def test_a_silent_client_is_answered_408_and_leaves_nothing_behind(listener: Running, length: int | None) -> None:
    whole, part = make_sample(), message(dicom_file(make_sample()))[:-100]
    begun = message(dicom_file(whole)).removesuffix(b"--\r\n") + b"\r\n" + part.partition(b"\r\n")[2]
    with connect(listener) as peer:
        peer.sendall(head(length) + (begun if length else b"%x\r\n%s\r\n" % (len(begun), begun)))
        wait_for(lambda: len(listener.journal_files) + len(receiving(listener)) > 0)
        assert status_and_body(read_all(peer))[0] == 408
    assert [path.name for path in listener.journal_files] == [journal_name(whole, "STOW-RS")]
    assert receiving(listener) == []
    assert stow.store(listener, whole).status_code == 200


def test_a_dribbling_client_is_cut(listener: Running) -> None:
    started_s = time.monotonic()
    with connect(listener) as peer:
        peer.sendall(head(50_000) + b"--a-boundary\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(200):
                peer.sendall(b"-")
                time.sleep(0.05)
                peer.settimeout(0.001)
                with contextlib.suppress(TimeoutError):
                    assert peer.recv(100).startswith(b"HTTP/1.1 408")
                    break
    assert time.monotonic() - started_s < 5


@pytest.mark.parametrize("begun", [b"", b"POST /studies HTTP/1.1\r\nHost: here\r\nA: "])
def test_a_client_that_sends_no_request_is_cut_however_it_dribbles(listener: Running, begun: bytes) -> None:
    with connect(listener) as peer:
        peer.sendall(begun)
        ended = threading.Event()

        def dribble() -> None:
            with contextlib.suppress(OSError):
                while begun and not ended.wait(0.05):
                    peer.sendall(b"x")

        thread = threading.Thread(target=dribble)
        thread.start()
        started_s = time.monotonic()
        assert read_all(peer) == b""
        assert time.monotonic() - started_s < 3
        ended.set()
        thread.join()


def test_a_head_that_comes_slowly_after_a_response_is_cut_too(listener: Running) -> None:
    body = message(dicom_file(make_sample()))
    with connect(listener) as peer:
        peer.sendall(head(len(body)) + body)
        assert peer.recv(100).startswith(b"HTTP/1.1 200")
        peer.sendall(b"POST /stu")
        started_s = time.monotonic()
        read_all(peer)
        assert time.monotonic() - started_s < 3


def test_a_connection_serves_one_request_after_another(listener: Running) -> None:
    with httpx.Client(base_url=listener.stow_url or "") as client:
        for _ in range(3):
            sample = make_sample()
            headers = {"Content-Type": stow.CONTENT_TYPE}
            response = client.post("/studies", content=message(dicom_file(sample)), headers=headers)
            assert (response.status_code, stored(response)) == (200, [sample.sop])


def test_100_continue_is_sent_only_for_a_body_that_is_wanted(listener: Running) -> None:
    expecting = b"\r\nExpect: 100-continue\r\n\r\n"
    body = message(dicom_file(make_sample()))
    with connect(listener) as peer:
        peer.sendall(head(len(body)).removesuffix(b"\r\n\r\n") + expecting)
        assert peer.recv(100).startswith(b"HTTP/1.1 100")
        peer.sendall(body)
        assert peer.recv(100).startswith(b"HTTP/1.1 200")
    with connect(listener) as peer:
        peer.sendall(head(len(body), "/nowhere").removesuffix(b"\r\n\r\n") + expecting)
        assert peer.recv(100).startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("resets", [False, True])
def test_a_client_that_leaves_within_a_part_leaves_nothing_of_it(start_listener: Start, resets: bool) -> None:
    listener = start_listener(stow=on())
    whole, broken = make_sample(study="1.2.3"), make_sample(study="1.2.4")
    body = message(dicom_file(whole), dicom_file(broken))[:-200]
    with connect(listener) as peer:
        if resets:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.sendall(head(len(body) + 1_000_000) + body)
        time.sleep(0.2)
    # The request is no open association any more: its study closes.
    assert [entry.sop_instance_uid for _, entry in listener.manifest("1.2.3").instances()] == [whole.sop]
    assert receiving(listener) == []
    assert [event.study_instance_uid for _, event in listener.publisher.events] == ["1.2.3"]


def test_a_study_stays_open_as_long_as_a_request_carries_it(start_listener: Start) -> None:
    listener = start_listener(stow=on())
    first = make_sample(study="1.2.3", series="1.2.3.4")
    ds = make_dataset(study="1.2.3", series="1.2.3.4", sop="1.2.3.4.5")
    ds.PixelData = bytes(1 << 20)
    body = message(dicom_file(first), dicom_file(type(first)(encode(ds), "1.2.3", "1.2.3.4", "1.2.3.4.5")))
    with connect(listener) as peer:
        peer.sendall(head(len(body)) + body[: 512 << 10])
        wait_for(lambda: len(listener.journal_files) == 1)
        # An association has a number of its own: its end is not the request's.
        with listener.send():
            pass
        time.sleep(1.0)
        assert listener.publisher.events == []
        peer.sendall(body[512 << 10 :])
        assert peer.recv(100).startswith(b"HTTP/1.1 200")
    assert len(list(listener.manifest("1.2.3").instances())) == 2


def test_more_requests_at_a_time_than_allowed_are_told_to_come_again(listener: Running) -> None:
    sample = make_sample()
    with connect(listener) as peer:
        peer.sendall(head(10_000) + b"--a-")
        time.sleep(0.1)
        busy = stow.store(listener, sample)
        assert (busy.status_code, int(busy.headers["retry-after"]) > 0) == (503, True)
    wait_for(lambda: stow.store(listener, sample).status_code == 200)


def test_connections_without_requests_are_limited(listener: Running) -> None:
    with contextlib.ExitStack() as open_peers:
        for _ in range(4):
            open_peers.enter_context(connect(listener))
        with connect(listener) as peer:
            started_s = time.monotonic()
            assert read_all(peer) == b""
            assert time.monotonic() - started_s < 0.3
    wait_for(lambda: stow.store(listener, make_sample()).status_code == 200)


def test_a_client_that_does_not_take_its_response_is_cut(start_listener: Start) -> None:
    listener = start_listener(stow=on(body_timeout_s=0.5, max_parts=20_000))
    assert listener.stow_url is not None
    # Its response is longer than what the kernel takes of it.
    body = message(*[dicom_file(make_sample(), transfer_syntax_uid="1.2.3")[:400]] * 20_000)
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        peer.connect(("127.0.0.1", int(listener.stow_url.rpartition(":")[2])))
        peer.settimeout(20)
        peer.sendall(head(len(body)) + body)
        begun = peer.recv(12)
        assert begun == b"HTTP/1.1 409"
        time.sleep(1.5)
        top, _, content = read_all(peer).partition(b"\r\n\r\n")
    (length,) = [int(line.split()[1]) for line in top.split(b"\r\n") if line.startswith(b"content-length")]
    assert len(content) < length


@pytest.mark.parametrize(
    "access",
    [
        {"peers": ("10.0.0.0/8",)},
        {"calling_ae_titles": ("CT1",)},
        {"calling_ae_titles": ("STOW-RS@10.0.0.0/8",)},
    ],
)
def test_a_peer_that_is_not_allowed_is_closed_before_a_byte_is_read(
    start_listener: Start, access: dict[str, object], tmp_path: Path
) -> None:
    audit = tmp_path / "audit.log"
    listener = start_listener(stow=on(), access=access, audit={"file": audit})
    with pytest.raises(httpx.TransportError):
        stow.store(listener, make_sample(), X_Forwarded_For="10.1.1.1")
    assert listener.journal_files == []
    listener.stop()
    assert any("STOW-RS" in line and "127.0.0.1" in line for line in audit.read_text().splitlines())


def test_a_peer_of_the_lists_is_let_in_and_audited(start_listener: Start, tmp_path: Path) -> None:
    audit = tmp_path / "audit.log"
    access = {"peers": ("127.0.0.0/8",), "calling_ae_titles": ("STOW-RS@127.0.0.1",), "called_ae_titles": ("OTHER",)}
    listener = start_listener(stow=on(), access=access, audit={"file": audit})
    sample = make_sample()
    assert stow.store(listener, sample).status_code == 200
    listener.stop()
    records = audit.read_text()
    assert sample.study in records
    assert "Phantom" not in records
    assert all(json.loads(line) for line in records.splitlines())


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (None, 401),
        ("Bearer another-token-of-some-length", 401),
        (f"Basic {TOKEN}", 401),
        ("Bearer", 401),
        (f"bearer {TOKEN}", 200),
        (f"Bearer {TOKEN}", 200),
    ],
)
def test_a_request_needs_the_token_if_there_is_one(
    start_listener: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, given: str | None, status: int
) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    listener = start_listener(stow=on(token_file=tmp_path / "token"), study_quiet_s=60.0)
    response = stow.store(listener, make_sample(), **({} if given is None else {"Authorization": given}))
    assert response.status_code == status
    assert (status == 401) == ("www-authenticate" in response.headers)
    assert len(listener.journal_files) == (status == 200)
    assert "some-length" not in response.text + caplog.text


@pytest.mark.parametrize("content", [None, "", "short"])
def test_a_token_file_that_protects_nothing_is_an_error(
    start_listener: Start, tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "token").write_text(content)
    with pytest.raises(ConfigurationError, match="token"):
        start_listener(stow=on(token_file=tmp_path / "token"))


def test_a_port_that_is_taken_is_an_error_and_the_dicom_port_is_free_again(start_listener: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigurationError, match="cannot listen"):
        start_listener(stow=on(port=taken.getsockname()[1]))
    names = {thread.name for thread in threading.enumerate()}
    assert not any(name.startswith(("dicom", "stow")) for name in names)


def test_a_listener_that_stops_leaves_nothing_of_an_upload_behind(start_listener: Start) -> None:
    listener = start_listener(stow=on(), study_quiet_s=60.0)
    whole, broken = make_sample(), make_sample()
    body = message(dicom_file(whole), dicom_file(broken))[:-200] + bytes(300_000)
    with connect(listener) as peer:
        peer.sendall(head(10_000_000) + body)
        wait_for(lambda: receiving(listener) != [])
        started_s = time.monotonic()
        listener.stop()
        assert time.monotonic() - started_s < 10
    assert [path.name for path in listener.journal_files] == [journal_name(whole, "STOW-RS")]
    assert receiving(listener) == []
    assert not any(thread.name.startswith("stow") for thread in threading.enumerate())


def test_two_uploads_and_an_association_go_on_side_by_side(start_listener: Start) -> None:
    listener = start_listener(stow=on(), study_quiet_s=60.0)
    samples = [[make_sample() for _ in range(20)] for _ in range(3)]
    statuses: list[int] = []

    def upload(own: int) -> None:
        statuses.append(stow.store(listener, *samples[own]).status_code)

    threads = [threading.Thread(target=upload, args=(own,)) for own in range(2)]
    for thread in threads:
        thread.start()
    with listener.send() as sender:
        assert {sender.store(sample).Status for sample in samples[2]} == {0}
    for thread in threads:
        thread.join()
    assert statuses == [200, 200]
    assert len(listener.journal_files) == 60


def test_it_speaks_tls_alone_and_takes_new_certificates_while_it_runs(start_listener: Start, tmp_path: Path) -> None:
    authority = Authority()
    cert_file, key_file = authority.issue().write(tmp_path, "server")
    tls = {"mode": "on", "cert_file": cert_file, "key_file": key_file, "reload_s": 0.01}
    listener = start_listener(stow=on(tls=tls), study_quiet_s=60.0)
    assert listener.stow_url is not None
    assert listener.stow_url.startswith("https://127.0.0.1:")
    trusting = ssl.create_default_context(cafile=authority.write(tmp_path))
    assert stow.store(listener, make_sample(), verify=trusting).status_code == 200
    with connect(listener) as peer:
        peer.sendall(head(0))
        assert not read_all(peer).startswith(b"HTTP")

    def fingerprint() -> bytes:
        with connect(listener) as peer, trusting.wrap_socket(peer, server_hostname="127.0.0.1") as secured:
            return secured.getpeercert(binary_form=True) or b""

    before = fingerprint()
    authority.issue().write(tmp_path, "server")
    wait_for(lambda: fingerprint() != before)
    assert stow.store(listener, make_sample(), verify=trusting).status_code == 200


def test_mutual_tls_lets_in_the_certificates_of_the_settings_alone(start_listener: Start, tmp_path: Path) -> None:
    authority = Authority()
    cert_file, key_file = authority.issue().write(tmp_path, "server")
    friend, stranger = authority.issue("friend"), authority.issue("stranger")
    ca_file = authority.write(tmp_path)
    tls = {
        "mode": "on",
        "cert_file": cert_file,
        "key_file": key_file,
        "ca_file": ca_file,
        "client_certificates": "required",
        "allowed_fingerprints": (friend.fingerprint,),
    }
    listener = start_listener(stow=on(tls=tls), study_quiet_s=60.0)

    def context(*own: Path) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=ca_file)
        if own:
            made.load_cert_chain(*own)
        return made

    assert stow.store(listener, make_sample(), verify=context(*friend.write(tmp_path, "friend"))).status_code == 200
    for refused in (context(), context(*stranger.write(tmp_path, "stranger"))):
        with pytest.raises(httpx.TransportError):
            stow.store(listener, make_sample(), verify=refused)
    assert len(listener.journal_files) == 1


def test_an_object_of_many_pieces_is_whole(start_listener: Start) -> None:
    listener = start_listener(stow=on(), study_quiet_s=60.0)
    ds = make_dataset(study="1.2", series="1.2.3", sop="1.2.3.4")
    ds.PixelData = os.urandom(5 << 20)
    sample = make_sample()
    large = type(sample)(encode(ds), "1.2", "1.2.3", "1.2.3.4")
    assert stow.store(listener, large, sample).status_code == 200
    assert journal_name(large, "STOW-RS") in {path.name for path in listener.journal_files}
