"""Whole lines in a file that other processes write too."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from shared.audit.line_file import LineFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lines.jsonl"


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_a_line_that_another_process_is_still_writing_is_not_taken_for_a_torn_one(path: Path) -> None:
    path.write_bytes(b'{"half":')
    other = threading.Timer(0.02, append, (path, b"1}\n"))
    other.start()
    file = LineFile(path)
    file.append(b'{"next":2}')
    file.close()
    other.join()
    assert path.read_bytes() == b'{"half":1}\n{"next":2}\n'


def test_a_torn_line_becomes_a_line_of_its_own(path: Path) -> None:
    path.write_bytes(b'{"torn":')
    file = LineFile(path)
    file.append(b"1")
    file.append(b"2")
    file.close()
    assert path.read_bytes() == b'{"torn":\n1\n2\n'
