"""What is read from a header before any pixel is decoded."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_images import image, part10

from shared.pixels import PixelLimits, read_header

LIMITS = PixelLimits()
PIXELS = np.zeros((4, 4), "u1")


def test_the_position_is_taken_along_the_plane_normal():
    geometry = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [10, 20, -35.5]}
    header = read_header(part10(image(PIXELS, **geometry)), limits=LIMITS)
    assert header.position_mm == -35.5


@pytest.mark.parametrize("elements", [{}, {"ImagePositionPatient": [1, 2, 3]}])
def test_without_geometry_there_is_no_position(elements):
    assert read_header(part10(image(PIXELS, **elements)), limits=LIMITS).position_mm is None


def test_the_rest_of_the_header_is_read():
    dataset = image(np.zeros((7, 4, 4), "u1"), InstanceNumber=12, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    header = read_header(part10(dataset), limits=LIMITS)
    assert (header.number_of_frames, header.instance_number) == (7, 12)
    assert header.image_type == ("ORIGINAL", "PRIMARY", "LOCALIZER")


def test_missing_values_are_none():
    header = read_header(part10(image(PIXELS)), limits=LIMITS)
    assert (header.number_of_frames, header.instance_number, header.image_type) == (1, None, ())
