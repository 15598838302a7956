"""Cases to features, and what is kept of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from labelled_images import DEFINITION, PlainEncoder, case_of, dicom, picture, png

from services.training.dataset.cases import Case, CaseImages, DatasetError
from services.training.features.case_features import CaseEncoder, frame_choice
from shared.vision.patch_lens import PatchLens


def every(count: int) -> range:
    return range(count)


def volume(frames: int = 6, labels: tuple[str, ...] | None = None, **values: object) -> Case:
    data = dicom([picture(number, "normal") for number in range(frames)], uid="1.2.3", study="1.2", patient="x")
    return Case("1.2", "x", "spot", lambda: CaseImages(("a.dcm",), (data,), labels), **values)


def test_frames_of_files_are_encoded_in_order():
    images = tuple(png(picture(seed, "normal")) for seed in range(3))
    case = Case("s", "p", "spot", lambda: CaseImages(("0", "1", "2"), images, ("normal", "spot", "normal")))
    (features,) = CaseEncoder(PlainEncoder(), None).encode([case], choose=every)
    assert features.joined.shape == (3, 64)
    assert features.cls.shape == (3, 16)
    assert features.thumbnails.shape == (3, 32, 32, 3)
    assert features.frame_labels == ("normal", "spot", "normal")
    assert features.names == ("0", "1", "2")
    single = CaseEncoder(PlainEncoder(), None).encode([case_of(1, "normal", data=images[1])], choose=every)[0]
    np.testing.assert_array_equal(features.joined[1], single.joined[0])


def test_the_task_chooses_frames_and_their_labels_follow():
    labels = tuple(f"l{number}" for number in range(6))
    encoder = PlainEncoder()
    definition = DEFINITION.model_copy(update={"max_frames": 3})
    (features,) = CaseEncoder(encoder, None).encode([volume(labels=labels)], choose=frame_choice(definition))
    assert encoder.frames_encoded == 3
    assert features.frame_labels in {("l0", "l2", "l5"), ("l0", "l3", "l5")}


def test_the_label_of_a_single_frame_is_known_and_of_a_volume_is_not():
    one, many = CaseEncoder(PlainEncoder(), None).encode([case_of(1), volume()], choose=every)
    assert one.frame_labels == (one.label,)
    assert many.frame_labels is None


def test_labels_of_objects_hold_for_their_frames_and_others_are_refused():
    assert (
        CaseEncoder(PlainEncoder(), None).encode([volume(labels=("spot",))], choose=every)[0].frame_labels
        == ("spot",) * 6
    )
    with pytest.raises(DatasetError, match="2 frame labels for 6 frames"):
        CaseEncoder(PlainEncoder(), None).encode([volume(labels=("spot", "normal"))], choose=every)


def test_what_was_encoded_once_is_read_back(tmp_path: Path):
    encoder = PlainEncoder()
    first = CaseEncoder(encoder, tmp_path).encode([volume(), case_of(1)], choose=every)
    assert encoder.frames_encoded == 7
    again = CaseEncoder(encoder, tmp_path).encode([volume(), case_of(1)], choose=every)
    assert encoder.frames_encoded == 7
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.joined, other.joined)
        assert one.pixel_hashes == other.pixel_hashes
    # More frames of an object join those that are kept.
    CaseEncoder(encoder, tmp_path / "b").encode([volume()], choose=lambda count: [0, 3])
    CaseEncoder(encoder, tmp_path / "b").encode([volume()], choose=lambda count: [3, 5])
    CaseEncoder(encoder, tmp_path / "b").encode([volume()], choose=lambda count: [0, 3, 5])
    assert encoder.frames_encoded == 7 + 4


def test_another_backbone_reads_nothing_of_the_first_ones(tmp_path: Path):
    CaseEncoder(PlainEncoder(), tmp_path).encode([case_of(1)], choose=every)
    other = PlainEncoder()
    other.id = "other@1"
    CaseEncoder(other, tmp_path).encode([case_of(1)], choose=every)
    assert other.frames_encoded == 1


def test_a_damaged_cache_is_made_again(tmp_path: Path):
    encoder = PlainEncoder()
    before = CaseEncoder(encoder, tmp_path).encode([case_of(1)], choose=every)[0]
    (kept,) = tmp_path.rglob("*.npz")
    for damage in (b"", kept.read_bytes()[:-40], b"no archive"):
        kept.write_bytes(damage)
        after = CaseEncoder(encoder, tmp_path).encode([case_of(1)], choose=every)[0]
        np.testing.assert_array_equal(after.joined, before.joined)


def test_a_case_of_known_identity_is_not_even_read_again(tmp_path: Path):
    reads = []

    def load() -> CaseImages:
        reads.append(1)
        return CaseImages(("a",), (png(picture(1, "spot")),), ("spot",), {"sex": "F"})

    case = Case("s", "p", "spot", load, identity="recipe 1 seed 7")
    encoder = PlainEncoder()
    first = CaseEncoder(encoder, tmp_path).encode([case], choose=every)[0]
    again = CaseEncoder(encoder, tmp_path).encode([case], choose=every)[0]
    assert len(reads) == 1
    assert first.subgroup == again.subgroup == {"sex": "F"}
    assert first.object_hashes == again.object_hashes


class PatchEncoder(PlainEncoder):
    """Gives nine patches of a frame too."""

    def encode(self, frames, /):
        features = super().encode(frames)
        cells = np.repeat(features.joined()[:, None, : self.dim], 9, axis=1) * np.linspace(0.5, 1.5, 9)[:, None]
        return replace(features, patches=cells.astype(np.float32))


def test_a_lens_reads_what_was_kept_with_patches_without_encoding_again(tmp_path: Path):
    encoder, rng = PatchEncoder(), np.random.default_rng(5)
    lens = PatchLens(rng.normal(size=(2, encoder.dim)).astype(np.float32), np.zeros(2, np.float32))
    CaseEncoder(encoder, tmp_path, keep_patches=True).encode([volume()], choose=every)
    assert encoder.frames_encoded == 6
    (kept,) = CaseEncoder(encoder, tmp_path, lens=lens).encode([volume()], choose=every)
    assert encoder.frames_encoded == 6
    assert kept.patches is None
    (fresh,) = CaseEncoder(encoder, None, lens=lens).encode([volume()], choose=every)
    np.testing.assert_allclose(kept.joined, fresh.joined, rtol=5e-3, atol=5e-3)  # patches are kept in half precision
    assert kept.joined.shape == (6, 64 + lens.columns)
    plain = PatchLens(-lens.weight, lens.bias)
    (other,) = CaseEncoder(encoder, tmp_path, lens=plain).encode([volume()], choose=every)
    assert not np.allclose(other.joined, kept.joined)
    assert other.pixel_hashes == fresh.pixel_hashes


def test_the_cache_holds_no_identity(tmp_path: Path):
    case = Case("study-of-Smith", "Smith", "spot", lambda: CaseImages(("Smith.png",), (png(picture(1, "spot")),)))
    CaseEncoder(PlainEncoder(), tmp_path).encode([case], choose=every)
    for path in tmp_path.rglob("*"):
        assert "Smith" not in path.name
        assert path.is_dir() or b"Smith" not in path.read_bytes()


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\nbroken", b"text"])
def test_what_is_no_image_is_an_error_that_names_the_file(data):
    case = case_of(3, data=data)
    with pytest.raises(DatasetError, match=r"s3\.png"):
        CaseEncoder(PlainEncoder(), None).encode([case], choose=every)
    with pytest.raises(DatasetError, match="holds no image"):
        CaseEncoder(PlainEncoder(), None).encode([Case("s", "p", "spot", lambda: CaseImages((), ()))], choose=every)
