"""docs/pixels.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from encoded_images import NATIVE
from pydicom.uid import RLELossless

from shared.pixels import window
from shared.pixels.codecs import DECODERS, DEFLATED_IMAGE_FRAME, ENCAPSULATED_UNCOMPRESSED
from shared.pixels.limits import PixelLimits

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "pixels.md").read_text()


def test_the_table_of_transfer_syntaxes_is_that_of_the_code():
    documented = set(re.findall(r"^\| [^|]+ \| (1\.2\.[\d.]+) \|", DOCUMENT, re.MULTILINE))
    assert documented == {*NATIVE, RLELossless, DEFLATED_IMAGE_FRAME, ENCAPSULATED_UNCOMPRESSED, *DECODERS}


def test_every_fallback_is_documented():
    source = Path(window.__file__).read_text() + (ROOT / "shared" / "pixels" / "grey.py").read_text()
    codes = set(re.findall(r'"((?:fallback|useless|presentation)-[a-z-]+)"', source))
    assert codes
    assert all(f"`{code}`" in DOCUMENT for code in codes)
    for body_part, (center, width) in window.CT_WINDOWS.items():
        assert f"-{body_part.lower()}`" in DOCUMENT
        assert f"center {center:g}, width {width:g}" in DOCUMENT
    assert f"center {window.CT_WINDOW[0]:g}, width {window.CT_WINDOW[1]:g}" in DOCUMENT


def test_every_limit_is_documented():
    assert set(PixelLimits.__dataclass_fields__) == {"max_frame_pixels", "max_decoded_bytes", "max_frames"}
    assert "pixels of a frame, frames of a call, decoded bytes" in DOCUMENT
