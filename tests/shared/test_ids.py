from hypothesis import given
from hypothesis import strategies as st

from shared import ids


def test_ids_never_change_between_versions() -> None:
    # Stored points and published events carry these: a change would orphan them.
    assert str(ids.point_id("backbone@1", "1.2.3", 1)) == "9f1b87ae-1fc5-5ced-90a8-3c3718b1d6ec"
    assert str(ids.event_id("similis.study.received.v1", "1.2.3", 1)) == "59f23742-e71c-5270-843d-b6dcce6efab3"


def test_every_part_counts() -> None:
    assert len({ids.point_id(b, s, f) for b in "ab" for s in ("1.2", "1.3") for f in (1, 2)}) == 8


@given(st.text(max_size=80))
def test_a_valid_uid_is_safe_in_a_path(value: str) -> None:
    if ids.is_valid_uid(value):
        assert set(value) <= set("0123456789.")
        assert not value.startswith(".")
        assert ".." not in value
        assert len(value) <= 64
