"""Every kind of leakage has a case that is caught, and honest data pass."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from labelled_images import LABELS, PlainEncoder, case_of, dicom, jpeg, picture, png
from PIL import Image

from services.training.dataset.cases import Case, CaseImages, DatasetError, SplitName
from services.training.dataset.leakage import find_leaks, perceptual_hashes, refuse_leaks, turned, without_leaks
from services.training.features.case_features import CaseEncoder, CaseFeatures

TRAINING = [case_of(seed) for seed in range(40)]
TEST = [case_of(seed) for seed in range(100, 120)]


def encoded(cases: list[Case]) -> list[CaseFeatures]:
    return CaseEncoder(PlainEncoder(), None).encode(cases, choose=lambda count: range(count))


@pytest.fixture(scope="module")
def training() -> list[CaseFeatures]:
    return encoded(TRAINING)


@pytest.fixture(scope="module")
def test_cases() -> list[CaseFeatures]:
    return encoded(TEST)


def leaks_of(training: list[CaseFeatures], others: list[CaseFeatures], **cases: object):
    added = encoded([case_of(500, label=cases.pop("label", "spot"), **cases)])
    parts: dict[SplitName, list[CaseFeatures]] = {
        "training": training,
        "calibration": encoded([case_of(300)]),
        "test": [*others, *added],
    }
    return parts, find_leaks(parts)


def test_different_patients_do_not_leak(training, test_cases):
    parts, leaks = leaks_of(training, test_cases)
    assert leaks == []
    refuse_leaks(leaks)
    assert without_leaks(parts, leaks) == (parts, 0)


def test_a_patient_in_two_splits_is_a_leak(training, test_cases):
    _, leaks = leaks_of(training, test_cases, patient="p1")
    assert [leak.kind for leak in leaks] == ["same patient"]


def test_the_same_file_under_another_name_is_a_leak(training, test_cases):
    _, leaks = leaks_of(training, test_cases, data=png(picture(1, "spot")))
    assert {leak.kind for leak in leaks} == {"same file", "same pixels", "near duplicate"}


def test_the_same_pixels_in_another_file_are_a_leak(training, test_cases):
    other = dicom([picture(1, "spot")], uid="1.2.3", study="1.2", patient="x")
    _, leaks = leaks_of(training, test_cases, data=other)
    # The window's rounding differs from a picture's, so that the pixels need not be the same to the bit.
    assert {leak.kind for leak in leaks} & {"same pixels", "near duplicate"}
    again = Image.fromarray(picture(1, "spot"))
    buffer = io.BytesIO()
    again.save(buffer, "PNG", compress_level=1)
    _, leaks = leaks_of(training, test_cases, data=buffer.getvalue())
    assert {leak.kind for leak in leaks} == {"same pixels", "near duplicate"}


CHANGES = {
    "re-encoded": lambda pixels: jpeg(pixels, 75),
    "resized": lambda pixels: png(np.asarray(Image.fromarray(pixels).resize((90, 90), Image.Resampling.BICUBIC))),
    "brightened": lambda pixels: png(np.clip(pixels * 1.15, 0, 255).astype(np.uint8)),
    "noisy": lambda pixels: png(
        np.clip(pixels + np.random.default_rng(0).normal(0, 5, pixels.shape), 0, 255).astype(np.uint8)
    ),
    "mirrored": lambda pixels: png(np.ascontiguousarray(pixels[:, ::-1])),
    "turned": lambda pixels: png(np.ascontiguousarray(np.rot90(pixels))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_a_near_duplicate(training, test_cases, change):
    _, leaks = leaks_of(training, test_cases, data=CHANGES[change](picture(1, "spot")))
    assert [leak.kind for leak in leaks] == ["near duplicate"]
    assert leaks[0].first[1].case.study == "s1"


def test_blank_frames_are_no_duplicates(training, test_cases):
    blank = png(np.zeros((48, 48), np.uint8))
    parts: dict[SplitName, list[CaseFeatures]] = {
        "training": [*training, *encoded([case_of(600, data=blank)])],
        "test": [*test_cases, *encoded([case_of(601, data=png(np.zeros((50, 50), np.uint8)))])],
    }
    assert find_leaks(parts) == []


def test_the_refusal_counts_and_names_files(training, test_cases):
    _, leaks = leaks_of(training, test_cases, data=png(picture(1, "spot")), patient="p1")
    with pytest.raises(DatasetError) as error:
        refuse_leaks(leaks)
    for words in ("1 x same patient", "1 x same file", "s1.png (training)", "s500.png (test)", "--drop-duplicates"):
        assert words in str(error.value)


def test_moving_puts_all_leaking_patients_into_the_first_split(training, test_cases):
    parts, leaks = leaks_of(training, test_cases, data=jpeg(picture(1, "spot")))
    mended, moved = without_leaks(parts, leaks)
    assert moved == 1
    assert find_leaks(mended) == []
    assert "s500" in {case.case.study for case in mended["training"]}
    assert sum(map(len, mended.values())) == sum(map(len, parts.values()))


def test_chains_of_leaks_end_in_one_split(training, test_cases):
    # p1 leaks to calibration by its picture, the case there to test by its patient.
    parts: dict[SplitName, list[CaseFeatures]] = {
        "training": training,
        "calibration": encoded([case_of(700, "spot", data=jpeg(picture(1, "spot")), patient="q")]),
        "test": [*test_cases, *encoded([case_of(701, "spot", patient="q")])],
    }
    mended, moved = without_leaks(parts, find_leaks(parts))
    assert moved == 2
    assert find_leaks(mended) == []


def test_the_same_image_with_two_labels_is_refused_even_then(training, test_cases):
    parts, leaks = leaks_of(training, test_cases, data=png(picture(1, "spot")), label="bar")
    with pytest.raises(DatasetError, match="different labels"):
        without_leaks(parts, leaks)


def test_hashes_are_of_the_picture_and_not_of_its_brightness():
    grey = np.stack([picture(seed, LABELS[seed % 3])[:32, :32] for seed in range(8)]).astype(np.float32) / 255
    assert (perceptual_hashes(grey) == perceptual_hashes(0.5 * grey + 0.1)).all()
    assert len(np.unique(perceptual_hashes(grey))) == 8


def test_a_square_has_eight_views():
    image = np.arange(9, dtype=np.float32).reshape(1, 3, 3)
    assert len({view.tobytes() for view in map(np.ascontiguousarray, turned(image))}) == 8


def test_several_frames_of_two_cases_are_one_leak_of_a_kind(training):
    frames = [picture(seed, "spot") for seed in (1, 4, 7)]

    def study(name: str) -> Case:
        objects = tuple(png(frame) for frame in frames)
        names = tuple(f"{name}/{number}" for number in range(3))
        return Case(name, name, "spot", lambda: CaseImages(names, objects))

    leaks = find_leaks({"training": encoded([study("a")]), "test": encoded([study("b"), case_of(800)])})
    assert sorted(leak.kind for leak in leaks) == ["near duplicate", "same file", "same pixels"]


def test_one_slice_like_another_patients_is_chance_in_a_volume(training):
    def volume(name: str, first: int) -> Case:
        objects = tuple(png(picture(seed, "spot")) for seed in (1, *range(first, first + 7)))
        return Case(name, name, "spot", lambda: CaseImages(tuple(f"{name}/{n}" for n in range(8)), objects))

    def as_jpeg(case: Case) -> Case:
        data = jpeg(picture(1, "spot"))
        return replace(case, load=lambda: replace(case.load(), objects=(data, *case.load().objects[1:])))

    parts = {"training": encoded([volume("a", 900)]), "test": encoded([as_jpeg(volume("b", 950))])}
    assert find_leaks(parts) == []
    alone = encoded([case_of(1000, "spot", data=jpeg(picture(1, "spot")))])
    assert [leak.kind for leak in find_leaks({**parts, "test": alone})] == ["near duplicate"]
