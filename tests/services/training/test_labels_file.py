"""A labels CSV comes from outside: every error says where, and quotes no cell."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.training.dataset.cases import DatasetError
from services.training.dataset.labels_file import age_band, parse_labels, read_labels_file

LABELS = ("normal", "lesion")


def test_columns_are_known_by_several_names():
    rows = parse_labels(
        "Study Instance UID,Class,Patient ID,Subset,Sex,Age,remark\n1.2.3,lesion,p1,val,female,063Y,x\n", LABELS
    )
    (row,) = rows
    assert (row.study, row.label, row.patient, row.split) == ("1.2.3", "lesion", "p1", "calibration")
    assert row.subgroup() == {"sex": "F", "age_band": "60-69"}
    assert row.row == 2


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_is_seen_from_the_header(delimiter):
    (row,) = parse_labels(f"path{delimiter}label\na/b.png{delimiter}normal\n\n", LABELS)
    assert row.path == PurePosixPath("a/b.png")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "first row must name the columns"),
        ("path,label\n", "no row"),
        ("label\nnormal\n", "one of path, study and sop"),
        ("path,file,label\na,b,normal\n", "two columns mean path"),
        ("path,label\nJohn.png,Smith\n", "row 2: its label is none of normal, lesion"),
        ("path,label\na.png\n", "row 2: its label"),
        ("path,label\n,normal\n", "row 2 labels nothing"),
        ("path,label\n../a.png,normal\n", "row 2: its path leaves"),
        ("path,label\n/etc/a.png,normal\n", "row 2: its path leaves"),
        ("path,label\nC:\\a.png,normal\n", "row 2: its path leaves"),
        ("path,label,split\na.png,normal,holdout\n", "row 2: its split"),
        ("path,label\na.png,normal,extra\n", "row 2 has 3 cells, the header 2"),
        ('path,label\n"a.png,normal\n', "is not CSV"),
    ],
)
def test_what_is_wrong_is_said_with_its_row(text, what):
    with pytest.raises(DatasetError, match=what) as error:
        parse_labels(text, LABELS)
    assert "Smith" not in str(error.value)


def test_a_file_that_is_not_text_or_not_there_is_an_error(tmp_path: Path):
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00p")
    with pytest.raises(DatasetError, match="not UTF-8"):
        read_labels_file(tmp_path / "labels.csv", LABELS)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_labels_file(tmp_path / "none.csv", LABELS)


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path):
    (tmp_path / "labels.csv").write_text("path,label\na.png,normal\n", encoding="utf-8-sig")
    assert len(read_labels_file(tmp_path / "labels.csv", LABELS)) == 1


@given(st.text(max_size=300) | st.text(alphabet='pathlbe,;\n"\r normalesi0./\\\0\t', max_size=300))
def test_any_text_is_rows_or_a_clear_error(text):
    for start in ("", "path,label\n"):
        try:
            rows = parse_labels(start + text, LABELS)
        except DatasetError:
            continue
        assert rows
        assert all(row.label in LABELS for row in rows)
        assert all(row.path is None or not (row.path.is_absolute() or ".." in row.path.parts) for row in rows)


@given(st.binary(max_size=200))
def test_any_bytes_are_rows_or_a_clear_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("labels") / "labels.csv"
    path.write_bytes(data)
    with pytest.raises(DatasetError):
        read_labels_file(path, LABELS)


@pytest.mark.parametrize(
    ("text", "band"),
    [
        ("63", "60-69"),
        ("063Y", "60-69"),
        ("8", "0-9"),
        ("18M", "0-9"),
        ("101", "90+"),
        ("60-69", "60-69"),
        ("old", None),
        ("63-63", "60-69"),
        ("65-69", "60-69"),
        ("63-72", None),
        ("69-60", None),
        ("90-99", "90+"),
        ("95-104", "90+"),
        ("90+", "90+"),
        ("85+", None),
    ],
)
def test_ages_become_aligned_ten_year_bands(text, band):
    assert age_band(text) == band
